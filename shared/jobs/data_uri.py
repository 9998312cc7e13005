"""Data URIs as image inputs: `data:image/{jpeg,png,webp,bmp};base64,...`, checked by header, decoded only when asked.

Limits are the vendor page's: 20 MB decoded (read as 20 MiB, the page does not say which), sides 240-8000 px, aspect
1:8-8:1. The vendor page lists data URIs; another page of the same gateway says they are no longer accepted, so
whether a provider takes one is not certain.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field

from shared.jobs.image_header import HEAD_BYTES, ImageInfo, sniff

MAX_IMAGE_BYTES = 20 * 1024 * 1024
MIN_SIDE_PX = 240
MAX_SIDE_PX = 8000
MAX_ASPECT = 8

_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp"}
_PREFIX = re.compile(r"data:(image/(?:jpeg|png|webp|bmp));base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_DECLARED = re.compile(r"data:([\w.+-]{1,20}/[\w.+-]{1,20})?(;base64)?,", re.ASCII)


@dataclass(frozen=True, slots=True)
class Flaw:
    """One broken rule of an input image: the rule's code, and a sentence with the limit (no field, no content)."""

    rule: str
    sentence: str


@dataclass(frozen=True, slots=True)
class DataUri:
    """A well-formed data URI. Its payload stays base64 text until it is asked for."""

    media_type: str
    extension: str
    text: str = field(repr=False)
    start: int = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Size when decoded."""
        encoded = len(self.text) - self.start
        return encoded // 4 * 3 - self.text.count("=", max(self.start, len(self.text) - 2))

    @property
    def payload(self) -> bytes:
        """The image's bytes; decoded anew at each access."""
        return binascii.a2b_base64(memoryview(self.text.encode("ascii"))[self.start :])

    def head(self, max_bytes: int = HEAD_BYTES) -> bytes:
        """Decode no more than the first bytes."""
        encoded = self.text[self.start : self.start + (max_bytes + 2) // 3 * 4]
        return binascii.a2b_base64(encoded)

    def sniff(self) -> ImageInfo | None:
        """Read type and pixel size from the header; from the whole payload only if a JPEG's metadata is that long."""
        info = sniff(self.head())
        if info and info.width is None and info.media_type == "image/jpeg":
            return sniff(self.payload)
        return info


def encode_data_uri(media_type: str, payload: bytes) -> str:
    """Write an image as a data URI."""
    return f"data:{media_type};base64,{binascii.b2a_base64(payload, newline=False).decode('ascii')}"


def parse_data_uri(text: str) -> DataUri | Flaw:
    """Check form and decoded size; the image inside is judged by `image_flaw`."""
    prefix = _PREFIX.match(text)
    if prefix is None:
        return Flaw("media_type", f"must begin data:image/(jpeg|png|webp|bmp);base64, - got {declared(text)}")
    uri = DataUri(prefix[1], _EXTENSIONS[prefix[1]], text, prefix.end())
    if uri.size_bytes > MAX_IMAGE_BYTES:
        return Flaw("max_bytes", f"at most {MAX_IMAGE_BYTES} bytes (20 MB) are allowed, got {uri.size_bytes}")
    if (len(text) - prefix.end()) % 4 or not _BASE64.fullmatch(text, prefix.end()):
        return Flaw("base64", "must be padded base64 in the standard alphabet")
    return uri


def image_flaw(uri: DataUri) -> Flaw | None:
    """Judge the image's header: type as declared, sides and aspect within the limits."""
    info = uri.sniff()
    if info is None or info.media_type != uri.media_type:
        found = info.media_type if info else "something else"
        return Flaw("media_type", f"is declared {uri.media_type}, but its first bytes are {found}")
    if info.width is None or info.height is None:
        return Flaw(
            "header", f"has no readable {uri.media_type} header, so its size in pixels cannot be checked"
        )
    return _dimension_flaw(info.width, info.height)


def _dimension_flaw(width: int, height: int) -> Flaw | None:
    if not (MIN_SIDE_PX <= width <= MAX_SIDE_PX and MIN_SIDE_PX <= height <= MAX_SIDE_PX):
        return Flaw("pixels", f"sides must be {MIN_SIDE_PX} to {MAX_SIDE_PX} px, got {width}x{height}")
    if width > MAX_ASPECT * height or height > MAX_ASPECT * width:
        return Flaw("aspect", f"aspect must be between 1:8 and 8:1, got {width}x{height}")
    return None


def declared(text: str) -> str:
    """Show what a data URI says it is, without any of its content."""
    match = _DECLARED.match(text[:64])
    return match[0] + "..." if match else "data:..."
