"""Media type and pixel size of an image, read from its first bytes only.

Producers check data-URI inputs with it, workers sniff result files with it. Nothing is decoded, nothing beyond the
given head is needed, and no bytes make it raise: what is truncated or hostile is "unknown". 256 KiB of head are
enough for all formats but a JPEG whose metadata is larger than that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD_BYTES = 256 * 1024

_JPEG_PREFIX = 0xFF
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; the three others are tables
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RSTn: no length follows
_JPEG_NO_FRAME = frozenset({0x00, 0xD8, 0xD9, 0xDA})  # image data, or the end, before any frame header
_JPEG_MAX_STEPS = 4096  # a 20 MB JPEG has some 300 segments; hostile ones could have millions
_OS2_HEADER_SIZE = 12  # the only one with 16-bit sides
_DIB_HEADER_SIZES = frozenset({_OS2_HEADER_SIZE, 16, 40, 52, 56, 64, 108, 124})
_ISPE_BYTES = 12  # version and flags, width, height
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_Dimensions = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a head tells. `width` and `height` (pixels) are None if they are not in the given bytes."""

    media_type: str
    extension: str
    width: int | None
    height: int | None


def sniff(head: bytes) -> ImageInfo | None:
    """Tell PNG, JPEG, WEBP, BMP, GIF or AVIF by magic bytes, and the pixel size; None for anything else."""
    for recognises, media_type, extension, dimensions in _FORMATS:
        if recognises(head):
            width, height = _measured(dimensions, head) or (None, None)
            return ImageInfo(media_type, extension, width, height)
    return None


def _measured(dimensions: Callable[[bytes], _Dimensions], head: bytes) -> _Dimensions:
    try:
        size = dimensions(head)
    except (struct.error, IndexError):  # the head ends before the answer
        return None
    return size if size and size[0] > 0 and size[1] > 0 else None


def _is_png(head: bytes) -> bool:
    return head.startswith(b"\x89PNG\r\n\x1a\n")


def _png(head: bytes) -> _Dimensions:
    kind, width, height = struct.unpack_from(">4sII", head, 12)
    return (width, height) if kind == b"IHDR" else None


def _is_jpeg(head: bytes) -> bool:
    return head.startswith(b"\xff\xd8\xff")


def _jpeg(head: bytes) -> _Dimensions:
    """Walk the segments to the frame header (SOFn)."""
    position = 2
    for _ in range(_JPEG_MAX_STEPS):
        prefix, marker = struct.unpack_from("BB", head, position)
        if prefix != _JPEG_PREFIX or marker in _JPEG_NO_FRAME:
            return None
        if marker == _JPEG_PREFIX:  # a fill byte
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, position + 5)
            return width, height
        else:  # the length counts itself; a smaller one is hostile, and must still make progress
            position += 2 + max(2, struct.unpack_from(">H", head, position + 2)[0])
    return None


def _is_webp(head: bytes) -> bool:
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def _webp(head: bytes) -> _Dimensions:
    chunk = head[12:16]
    if chunk == b"VP8X":
        low, high, low_2, high_2 = struct.unpack_from("<HBHB", head, 24)
        return (high << 16 | low) + 1, (high_2 << 16 | low_2) + 1
    if chunk == b"VP8L" and head[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _is_bmp(head: bytes) -> bool:
    """Tell by more than `BM`: text may well begin with these two letters."""
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _DIB_HEADER_SIZES


def _bmp(head: bytes) -> _Dimensions:
    (header_size,) = struct.unpack_from("<I", head, 14)
    if header_size == _OS2_HEADER_SIZE:
        narrow: tuple[int, int] = struct.unpack_from("<HH", head, 18)
        return narrow
    width, height = struct.unpack_from("<ii", head, 18)
    return width, abs(height)  # negative: rows run from top to bottom


def _is_gif(head: bytes) -> bool:
    return head.startswith((b"GIF87a", b"GIF89a"))


def _gif(head: bytes) -> _Dimensions:
    size: tuple[int, int] = struct.unpack_from("<HH", head, 6)
    return size


def _is_avif(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return not brands.isdisjoint(_AVIF_BRANDS)


def _avif(head: bytes) -> _Dimensions:
    """Give the largest `ispe` property: the tiles of a grid and the thumbnails have smaller ones."""
    areas = [(0, len(head))]
    for kind, skip in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        areas = [
            (start + skip, end)
            for area in areas
            for found, start, end in _boxes(head, *area)
            if found == kind
        ]
    sizes: list[tuple[int, int]] = [
        struct.unpack_from(">II", head, start + 4)
        for area in areas
        for found, start, end in _boxes(head, *area)
        if found == b"ispe" and end - start >= _ISPE_BYTES
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _boxes(head: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Give (type, start of content, end of content) of the ISO base media boxes between two positions."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", head, start)
        content = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", head, content)
            content += 8
        box_end = end if size == 0 else min(start + size, end)
        if box_end < content:
            return
        yield kind, content, box_end
        start = box_end


_FORMATS: tuple[tuple[Callable[[bytes], bool], str, str, Callable[[bytes], _Dimensions]], ...] = (
    (_is_png, "image/png", "png", _png),
    (_is_jpeg, "image/jpeg", "jpg", _jpeg),
    (_is_webp, "image/webp", "webp", _webp),
    (_is_gif, "image/gif", "gif", _gif),
    (_is_bmp, "image/bmp", "bmp", _bmp),
    (_is_avif, "image/avif", "avif", _avif),
)
