"""Rules between the fields of a request, and the rules of one input image. Pure; each broken rule is an Issue."""

from __future__ import annotations

import decimal
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.jobs.data_uri import Flaw, image_flaw, parse_data_uri
from shared.jobs.issues import make_issue
from shared.jobs.sizes import size_issues

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.errors import Issue
    from shared.jobs.request import Box, GenerationRequest, PaletteColor

MAX_N = 4
MAX_N_SEQUENTIAL = 12
MAX_URL_CHARS = 8192  # ours: presigned URLs have 1-2 thousand, many servers stop at 8 KiB
INPUT_PREFIX = "darkroom-input:"  # then an object key: an input kept in the object store

_RATIO = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%")
_MAX_HUNDREDTHS = 100_00
_WHOLE = decimal.Decimal("100.00")
_EXACT = decimal.Context(prec=16)  # not the caller's context: its precision may be anything
_NOT_IN_URL = re.compile(r'[\x00-\x20\x7f<>"\\^`{|}\ud800-\udfff]')
_ORIGIN = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#@]{1,60})", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}:")
_OBJECT_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1024}")


def broken_rules(request: GenerationRequest) -> tuple[Issue, ...]:
    """Judge the fields against each other. For a plain text-to-image request this is a few comparisons."""
    images, sequential, n = request.image_urls, bool(request.enable_sequential), request.n
    issues = size_issues(request.size, request.resolution, request.model, images is not None, sequential)
    if n > MAX_N and not sequential:
        issues = (*issues, _too_many(n))
    if images is None and (not request.prompt or request.prompt.isspace()):
        issues = (*issues, _PROMPT_REQUIRED)
    if request.bbox_list is not None:
        issues = (*issues, *_bbox_issues(images, request.bbox_list))
    if request.color_palette is not None:
        issues = (*issues, *_palette_issues(request.color_palette))
    return issues


_PROMPT_REQUIRED = make_issue("prompt", "required", "is required without image_urls and must not be blank")


def _too_many(n: int) -> Issue:
    sentence = f"must be from 1 to {MAX_N}, or to {MAX_N_SEQUENTIAL} with enable_sequential, got {n}"
    return make_issue("n", "maximum", sentence, str(n))


def _palette_issues(palette: Sequence[PaletteColor]) -> Iterator[Issue]:
    total = decimal.Decimal("0.00")
    for color in palette:
        total = _EXACT.add(total, decimal.Decimal(color.ratio.removesuffix("%")))
    if total != _WHOLE:
        sentence = f"ratios must sum to exactly {_WHOLE}%, got {total}%"
        yield make_issue("color_palette", "sum", sentence, f"{total}%")


def _bbox_issues(images: Sequence[str] | None, bbox_list: Sequence[Sequence[Box]]) -> Iterator[Issue]:
    if images is None:
        yield make_issue("bbox_list", "requires_images", "requires image_urls")
        return
    if len(bbox_list) != len(images):
        sentence = f"must have one entry for each of image_urls ({len(images)}), got {len(bbox_list)}"
        yield make_issue("bbox_list", "length", sentence, str(len(bbox_list)))
    for index, boxes in enumerate(bbox_list):
        limits = _sides(images[index]) if boxes and index < len(images) else None
        for number, box in enumerate(boxes):
            yield from _box_issues(f"bbox_list[{index}][{number}]", box, limits)


def _box_issues(field: str, box: Box, limits: tuple[tuple[int, int], ...] | None) -> Iterator[Issue]:
    x1, y1, x2, y2 = box
    value = str(list(box))
    if x1 >= x2 or y1 >= y2:
        yield make_issue(field, "order", f"must have x1 < x2 and y1 < y2, got {value}", value)
    if limits and not any(x2 <= width and y2 <= height for width, height in limits):
        width, height = limits[0]
        yield make_issue(
            field, "bounds", f"must lie within its image of {width}x{height} px, got {value}", value
        )


def _sides(url: str) -> tuple[tuple[int, int], ...] | None:
    """Give the image's width and height if it is at hand (a data URI); for a JPEG also swapped.

    Its EXIF orientation may turn a JPEG, and which of the two frames the provider means is not documented.
    """
    uri = parse_data_uri(url) if url.startswith("data:") else None
    info = uri.sniff() if uri and not isinstance(uri, Flaw) else None
    if info is None or info.width is None or info.height is None:
        return None
    sides = (info.width, info.height)
    return (sides, sides[::-1]) if info.media_type == "image/jpeg" else (sides,)


def image_url_issues(urls: Sequence[str], *, stored: bool) -> tuple[Issue, ...]:
    """Judge each input image; references to stored inputs pass only in a request that comes from the store."""
    issues = []
    for index, url in enumerate(urls):
        if stored and url.startswith(INPUT_PREFIX) and _OBJECT_KEY.fullmatch(url, len(INPUT_PREFIX)):
            continue
        if flaw := _image_flaw(url):
            issues.append(make_issue(f"image_urls[{index}]", flaw.rule, flaw.sentence, _shown_url(url)))
    return tuple(issues)


def _image_flaw(url: str) -> Flaw | None:
    if url[:5].lower() != "data:":
        return _url_flaw(url)
    uri = parse_data_uri(url)
    return uri if isinstance(uri, Flaw) else image_flaw(uri)


def _url_flaw(url: str) -> Flaw | None:
    if not url[:8].lower().startswith(("http://", "https://")):
        return Flaw("scheme", "must be an http:// or https:// URL, or data:image/...;base64,...")
    if len(url) > MAX_URL_CHARS:
        return Flaw("max_length", f"a URL may have at most {MAX_URL_CHARS} characters, got {len(url)}")
    if odd := _NOT_IN_URL.search(url):
        return Flaw("url", f"must be a URL; character {odd.start() + 1} ({odd[0]!r}) must be percent-encoded")
    return _host_flaw(url)


def _host_flaw(url: str) -> Flaw | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # an impossible port raises
    except ValueError:
        return Flaw("url", "must be a URL with a valid host and port")
    if "@" in parts.netloc:
        return Flaw("userinfo", "must be a URL without user name and password")
    return None if host else Flaw("url", "must be a URL with a host")


def _shown_url(url: str) -> str:
    """Show where a URL points, without path, query or credentials: they may hold secrets."""
    if origin := _ORIGIN.match(url):
        return origin[1] + origin[2]
    scheme = _SCHEME.match(url)
    return f"{scheme[0]}..." if scheme else ""


def canonical_ratio(text: str) -> str | None:
    """Write a palette ratio with two decimals (`25%` is `25.00%`); None if it is none, or above 100%."""
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    whole, hundredths = match[1], (match[2] or "").ljust(2, "0")
    return f"{int(whole)}.{hundredths}%" if int(whole + hundredths) <= _MAX_HUNDREDTHS else None
