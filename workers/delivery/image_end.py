"""Whether an image file is all there, told from its frame alone. Pure but for the reads it is given.

A download that ends early is not always noticed by HTTP (a body without length ends when the connection does), and a
truncated image must be fetched again, not stored. Nothing is decoded: a file that passes may still hold bad pixels.
What follows the end (padding, motion pictures, gain maps) is tolerated up to 64 KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]  # (size, offset), as os.pread has them; short at the end of the file

_TAIL_BYTES = 64 * 1024
_MAX_STEPS = 4096  # hostile files could have millions of segments

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_PREFIX, _JPEG_SCAN, _JPEG_END = 0xFF, 0xDA, b"\xff\xd9"
_GIF_END = b";"


def is_whole(media_type: str, read: Read, size_bytes: int) -> bool:
    """Tell whether the end of the image is in the file. Media types other than the six known ones are not whole."""
    check = _CHECKS.get(media_type)
    return check is not None and check(read, size_bytes)


def _png(read: Read, size: int) -> bool:
    return _PNG_END in _tail(read, size)


def _jpeg(read: Read, size: int) -> bool:
    """Look for the end marker after the scan began: a thumbnail in the metadata has an end marker too."""
    scan = _jpeg_scan(read)
    return scan is not None and _JPEG_END in _tail(read, size, scan)


def _jpeg_scan(read: Read) -> int | None:
    position = 2
    for _ in range(_MAX_STEPS):
        segment = read(4, position)
        if len(segment) < 4 or segment[0] != _JPEG_PREFIX:  # noqa: PLR2004 - prefix, marker, length
            return None
        if segment[1] == _JPEG_SCAN:
            return position
        fill_byte = segment[1] == _JPEG_PREFIX
        position += 1 if fill_byte else 2 + max(2, int.from_bytes(segment[2:], "big"))
    return None


def _webp(read: Read, size: int) -> bool:
    return size >= 8 + int.from_bytes(read(4, 4), "little")


def _gif(read: Read, size: int) -> bool:
    return _tail(read, size).rstrip(b"\0").endswith(_GIF_END)


def _bmp(read: Read, size: int) -> bool:
    return size >= int.from_bytes(read(4, 2), "little")


def _avif(read: Read, size: int) -> bool:
    """Walk the top-level boxes: the last must end with the file, or run to its end by declaration (size 0)."""
    position, kinds = 0, set()
    for _ in range(_MAX_STEPS):
        if position == size:
            return b"mdat" in kinds
        head = read(16, position)
        length = int.from_bytes(head[:4], "big")
        kinds.add(head[4:8])
        if length == 0:
            return b"mdat" in kinds
        position += int.from_bytes(head[8:16], "big") if length == 1 else length
        if position > size or length in range(2, 8):
            return False
    return False


def _tail(read: Read, size: int, start: int = 0) -> bytes:
    begin = max(start, size - _TAIL_BYTES)
    return read(size - begin, begin)


_CHECKS: dict[str, Callable[[Read, int], bool]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/gif": _gif,
    "image/bmp": _bmp,
    "image/avif": _avif,
}
