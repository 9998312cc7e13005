"""Image headers: real files of each format, cut, spoilt and hostile ones."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.jobs.image_header import HEAD_BYTES, ImageInfo, sniff


def encoded(image_format: str, width: int = 321, height: int = 245, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "#C2D1E6").save(stream, image_format, **options)
    return stream.getvalue()


def jpeg_with_metadata(length: int) -> bytes:
    """Give a JPEG with as many bytes of application data before its frame header."""
    plain = encoded("JPEG")
    segments, rest = divmod(length, 65_000)
    blocks = [65_000] * segments + [rest]
    metadata = b"".join(b"\xff\xe2" + struct.pack(">H", size + 2) + bytes(size) for size in blocks)
    return plain[:2] + metadata + plain[2:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


REAL = {
    "png": (encoded("PNG"), ImageInfo("image/png", "png", 321, 245)),
    "jpeg": (encoded("JPEG"), ImageInfo("image/jpeg", "jpg", 321, 245)),
    "jpeg progressive": (encoded("JPEG", progressive=True), ImageInfo("image/jpeg", "jpg", 321, 245)),
    "webp lossy": (encoded("WEBP"), ImageInfo("image/webp", "webp", 321, 245)),
    "webp lossless": (encoded("WEBP", lossless=True), ImageInfo("image/webp", "webp", 321, 245)),
    "webp extended": (encoded("WEBP", exif=b"Exif\0\0"), ImageInfo("image/webp", "webp", 321, 245)),
    "bmp": (encoded("BMP"), ImageInfo("image/bmp", "bmp", 321, 245)),
    "gif": (encoded("GIF"), ImageInfo("image/gif", "gif", 321, 245)),
    "avif": (encoded("AVIF"), ImageInfo("image/avif", "avif", 321, 245)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_told(name: str) -> None:
    """Type, extension and sides are read from files that another library wrote."""
    content, info = REAL[name]
    assert sniff(content[:HEAD_BYTES]) == info


@given(st.sampled_from(sorted(REAL)), st.data())
def test_a_truncated_head_never_raises_and_never_lies(name: str, data: st.DataObject) -> None:
    """Cut anywhere, a head gives the truth or says that it does not know."""
    content, info = REAL[name]
    cut = sniff(content[: data.draw(st.integers(0, min(len(content), 400)))])
    assert cut is None or cut in (info, ImageInfo(info.media_type, info.extension, None, None))


@given(st.sampled_from(sorted(REAL)), st.data())
def test_a_spoilt_head_never_raises(name: str, data: st.DataObject) -> None:
    """Any bytes overwritten give an answer, with positive sides if it has any."""
    content = bytearray(REAL[name][0][:400])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    info = sniff(bytes(content))
    assert info is None or info.width is None or info.height is None or min(info.width, info.height) > 0


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBP", b"BM", b"GIF89a"]),
    st.binary(max_size=200),
)
def test_random_bytes_never_raise(magic: bytes, rest: bytes) -> None:
    """Whatever follows the magic bytes, there is an answer."""
    sniff(magic + rest)


@given(st.binary(max_size=300))
def test_random_boxes_never_raise(rest: bytes) -> None:
    """AVIF's nested boxes may say anything about their size."""
    sniff(box(b"ftyp", b"avif\0\0\0\0") + box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", rest))))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"BMW is a car brand, not a bitmap", b"<svg/>", b"\0" * 64]
)
def test_what_is_no_image_is_none(content: bytes) -> None:
    """Text that begins with BM is no bitmap."""
    assert sniff(content) is None


def test_a_jpeg_with_long_metadata_needs_a_longer_head() -> None:
    """The type is certain at once, the sides once the frame header is in the head."""
    content = jpeg_with_metadata(HEAD_BYTES)
    assert sniff(content[:HEAD_BYTES]) == ImageInfo("image/jpeg", "jpg", None, None)
    assert sniff(content) == ImageInfo("image/jpeg", "jpg", 321, 245)


def test_jpeg_fill_bytes_and_bare_markers_are_passed() -> None:
    """Fill bytes and markers without a length may stand between segments."""
    plain = encoded("JPEG")
    assert sniff(plain[:2] + b"\xff\xd0\xff\x01\xff\xff" + plain[2:]) == REAL["jpeg"][1]


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xd0", b"\xff\xe0\x00\x00", b"\xff\xe0\x00\x02"])
def test_a_hostile_jpeg_is_given_up(filler: bytes) -> None:
    """Millions of empty segments are not walked to the end: the frame header behind them is not found."""
    content = b"\xff\xd8\xff\xe0\x00\x02" + filler * 50_000 + encoded("JPEG")[2:]
    assert sniff(content) == ImageInfo("image/jpeg", "jpg", None, None)


def test_a_bitmap_may_run_from_top_to_bottom() -> None:
    """Its height is then negative in the header."""
    header = b"BM" + bytes(12) + struct.pack("<Iii", 40, 300, -400)
    assert sniff(header) == ImageInfo("image/bmp", "bmp", 300, 400)


def test_an_old_bitmap_has_short_sides() -> None:
    """OS/2 bitmaps have 16-bit sides."""
    header = b"BM" + bytes(12) + struct.pack("<IHH", 12, 300, 400)
    assert sniff(header) == ImageInfo("image/bmp", "bmp", 300, 400)


def test_sides_of_zero_are_unknown() -> None:
    """No image has a side of 0."""
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 400)
    assert sniff(header) == ImageInfo("image/png", "png", None, None)


def test_the_largest_part_of_an_avif_counts() -> None:
    """Tiles of a grid and thumbnails have sizes of their own, smaller than the image's."""
    properties = box(b"ipco", ispe(512, 512) + ispe(4096, 2304) + ispe(160, 90))
    meta = box(b"meta", bytes(4) + box(b"hdlr", bytes(8)) + box(b"iprp", properties))
    content = box(b"ftyp", b"mif1\0\0\0\0miafavif") + meta
    assert sniff(content) == ImageInfo("image/avif", "avif", 4096, 2304)


def test_a_box_of_64_bit_size_is_read() -> None:
    """A size of 1 means that the real one follows in 8 bytes, a size of 0 that the box goes to the end."""
    properties = box(b"ipco", ispe(640, 480))
    iprp = struct.pack(">I4sQ", 1, b"iprp", len(properties) + 16) + properties
    meta = struct.pack(">I4s", 0, b"meta") + bytes(4) + iprp
    content = box(b"ftyp", b"avif\0\0\0\0") + meta
    assert sniff(content) == ImageInfo("image/avif", "avif", 640, 480)
