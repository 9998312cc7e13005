"""A file is whole if the image's end is in it: real encoders' files are, and none of them is once cut."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from shared.jobs.image_header import sniff
from workers.delivery.image_end import is_whole

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")


def encoded(format_name: str, **options: object) -> bytes:
    """Give a small image with some texture, so that its data is longer than its header."""
    image = Image.effect_noise((96, 64), 80).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def whole(data: bytes) -> bool:
    info = sniff(data)
    assert info is not None
    return is_whole(info.media_type, lambda size, offset: data[offset : offset + size], len(data))


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_complete_file_is_whole(format_name: str) -> None:
    """What an encoder wrote passes."""
    assert whole(encoded(format_name))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_cut_file_is_not_whole(format_name: str, share: float) -> None:
    """Early or late: the head alone does not make an image."""
    data = encoded(format_name)
    assert not whole(data[: int(len(data) * share)])


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_without_its_last_byte_is_not_whole(format_name: str) -> None:
    """The nearest miss."""
    assert not whole(encoded(format_name)[:-1])


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_padding_after_the_end_is_tolerated(format_name: str) -> None:
    """Some servers and encoders pad; the image is all there."""
    assert whole(encoded(format_name) + b"\0" * 500)


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 100}, {"comment": b"x" * 60_000}])
def test_other_jpegs_are_whole(options: dict[str, object]) -> None:
    """Several scans, long data, long metadata."""
    assert whole(encoded("JPEG", **options))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image() -> None:
    """A cut JPEG whose metadata holds a complete one is still cut."""
    thumbnail = encoded("JPEG")
    data = encoded("JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + segment + data[2:]
    assert whole(with_thumbnail)
    assert not whole(with_thumbnail[:-2])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00",
        b"\xff\xd8" + b"\xff" * 10_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 10_000,
        b"RIFF\xff\xff\xff\xffWEBP",
        b"GIF89a",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\x03mdat",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\x01mdat" + b"\xff" * 8,
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\x01mdat" + b"\0" * 8,
    ],
)
def test_hostile_frames_are_not_whole(data: bytes) -> None:
    """Nothing raises, nothing loops."""
    assert not whole(data)


def test_other_types_are_not_whole() -> None:
    """Only what has a check can pass it."""
    assert not is_whole("image/svg+xml", lambda _size, _offset: b"", 0)
