"""Input images of edit requests: what a URL or a data URI may be, and the size its header gives.

Limits are the vendor page's: JPEG, PNG, WEBP or BMP, 240-8000 px a side, aspect 1:8 to 8:1, 20 MB each (read
here as 20 MiB). Only headers are read, no pixel is decoded, and no http(s) URL is ever fetched.
"""

from __future__ import annotations

import binascii
import io
from urllib.parse import urlsplit

from PIL import Image

MAX_INPUT_BYTES = 20 * 1024 * 1024
MIN_SIDE_PX, MAX_SIDE_PX = 240, 8000
MAX_ASPECT = 8
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MIME_TYPES = {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/bmp"}

Image.MAX_IMAGE_PIXELS = None  # nothing is decoded, so a large header is only a number to compare


class InputRefused(ValueError):
    """An input image breaks a rule; the message is the rest of a sentence that starts with its name."""


def size_of(url: str) -> tuple[int, int] | None:
    """Give (width, height) in px of a data URI, None for an http(s) URL. Raises `InputRefused`."""
    if url.startswith("data:"):
        return _size_of_data_uri(url)
    if not _is_web_url(url):
        raise InputRefused("must be an http(s) URL or a base64 data URI of an image")
    return None


def _is_web_url(url: str) -> bool:
    if any(char.isspace() for char in url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _size_of_data_uri(uri: str) -> tuple[int, int]:
    head, comma, payload = uri.partition(",")
    mime, _, encoding = head.removeprefix("data:").rpartition(";")
    if not comma or encoding != "base64" or mime.lower() not in _MIME_TYPES:
        raise InputRefused("must be data:image/(png|jpeg|webp|bmp);base64,...")
    try:
        content = binascii.a2b_base64(payload, strict_mode=True)
    except (binascii.Error, ValueError):
        raise InputRefused("is not valid base64") from None
    if len(content) > MAX_INPUT_BYTES:
        raise InputRefused("is larger than 20 MB")
    return _checked(_header_size(content))


def _header_size(content: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size
    except (OSError, ValueError, SyntaxError):
        raise InputRefused("is not a JPEG, PNG, WEBP or BMP image") from None


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    short, long = sorted(size)
    if short < MIN_SIDE_PX or long > MAX_SIDE_PX:
        raise InputRefused(f"must be {MIN_SIDE_PX} to {MAX_SIDE_PX} px a side")
    if long > MAX_ASPECT * short:
        raise InputRefused("must have an aspect ratio of 1:8 to 8:1")
    return size
