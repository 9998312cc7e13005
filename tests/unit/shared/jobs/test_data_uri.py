"""Data URIs: size without decoding, lazily decoded payload, header checks."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.jobs.data_uri import (
    MAX_IMAGE_BYTES,
    DataUri,
    Flaw,
    encode_data_uri,
    image_flaw,
    parse_data_uri,
)


def parsed(text: str) -> DataUri:
    uri = parse_data_uri(text)
    assert isinstance(uri, DataUri)
    return uri


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "JPEG")
    return stream.getvalue()


@given(st.sampled_from(["image/jpeg", "image/png", "image/webp", "image/bmp"]), st.binary())
def test_what_was_encoded_comes_back(media_type: str, payload: bytes) -> None:
    """Encoding and parsing are inverse, and the size is known without decoding."""
    uri = parsed(encode_data_uri(media_type, payload))
    assert (uri.media_type, uri.size_bytes, uri.payload) == (media_type, len(payload), payload)
    assert payload.startswith(uri.head(30))
    assert len(uri.head(30)) == min(30, len(payload))


def test_extensions_are_those_of_files() -> None:
    """An offloaded input gets the usual extension."""
    kinds = ("image/jpeg", "image/png", "image/webp", "image/bmp")
    assert [parsed(f"data:{kind};base64,AAAA").extension for kind in kinds] == ["jpg", "png", "webp", "bmp"]


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_size_limit_is_inclusive(padding: int) -> None:
    """Exactly 20 MiB are allowed, one byte more is not."""
    assert isinstance(parse_data_uri(encode_data_uri("image/png", bytes(MAX_IMAGE_BYTES - padding))), DataUri)
    broken = parse_data_uri(encode_data_uri("image/png", bytes(MAX_IMAGE_BYTES + 1 + padding)))
    assert isinstance(broken, Flaw)
    assert broken.rule == "max_bytes"
    assert f"got {MAX_IMAGE_BYTES + 1 + padding}" in broken.sentence


@pytest.mark.parametrize(
    "content", ["A", "AA", "AAA", "AAAAA", "AA==AAAA", "A===", "AAA-", "AAA_", "AA A", "AAAÄ", "AAA\n"]
)
def test_only_padded_standard_base64_is_taken(content: str) -> None:
    """What decoders would forgive or skip is refused, since the provider's may not."""
    assert parse_data_uri(f"data:image/png;base64,{content}") == Flaw(
        "base64", "must be padded base64 in the standard alphabet"
    )


@pytest.mark.parametrize(
    "text",
    [
        "data:image/gif;base64,AAAA",
        "data:image/jpg;base64,AAAA",
        "DATA:image/png;base64,AAAA",
        "data:image/PNG;base64,AAAA",
        "data:image/png;charset=utf-8;base64,AAAA",
        "data:image/png,AAAA",
        "data:;base64,AAAA",
        "data:",
    ],
)
def test_only_the_four_documented_forms_are_taken(text: str) -> None:
    """The page lists JPEG, PNG, WEBP and BMP as `data:image/...;base64,...`."""
    uri = parse_data_uri(text)
    assert isinstance(uri, Flaw)
    assert uri.rule == "media_type"
    assert "AAAA" not in uri.sentence


def test_a_jpeg_with_long_metadata_is_still_measured() -> None:
    """Metadata longer than the head is no reason to refuse a JPEG."""
    plain = jpeg(640, 480)
    block = b"\xff\xe2" + struct.pack(">H", 65_002) + bytes(65_000)
    uri = parsed(encode_data_uri("image/jpeg", plain[:2] + block * 5 + plain[2:]))
    assert uri.sniff() is not None
    assert image_flaw(uri) is None


def test_repr_has_no_content() -> None:
    """An image in a log line would be megabytes."""
    assert "AAAA" not in repr(parsed("data:image/png;base64,AAAA"))
