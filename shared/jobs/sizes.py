"""What `size` and `resolution` may be, and how many pixels they mean.

Keywords, ratios, tiers and the pixel ranges are the vendor page's. That the ranges bound the *total* pixels (not each
side), and the aspect 1:8-8:1, are upstream documentation (Alibaba Model Studio). The table of ratios is upstream's
recommendation; its rows 3:2 and 2:3 and the whole 1K column at this gateway are inferred. An output may differ
slightly from the nominal size: never compare for equality.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, assert_never

from shared.errors import Issue

Tier = Literal["1K", "2K", "4K"]
ModelName = Literal["wan2.7-image", "wan2.7-image-pro"]

PRO: ModelName = "wan2.7-image-pro"
DEFAULT_TIER: Tier = "2K"
MIN_PIXELS = 768 * 768
MAX_PIXELS = 2048 * 2048
MAX_PIXELS_PRO = 4096 * 4096
MAX_ASPECT = 8

_SQUARES: dict[Tier, tuple[int, int]] = {"1K": (1024, 1024), "2K": (2048, 2048), "4K": (4096, 4096)}
_RATIOS: dict[str, dict[Tier, tuple[int, int]]] = {
    "1:1": {"4K": (4096, 4096), "2K": (2048, 2048), "1K": (1280, 1280)},
    "16:9": {"4K": (4096, 2304), "2K": (2688, 1536), "1K": (1696, 960)},
    "9:16": {"4K": (2304, 4096), "2K": (1536, 2688), "1K": (960, 1696)},
    "4:3": {"4K": (4096, 3072), "2K": (2368, 1728), "1K": (1472, 1104)},
    "3:4": {"4K": (3072, 4096), "2K": (1728, 2368), "1K": (1104, 1472)},
    "3:2": {"4K": (4032, 2688), "2K": (2496, 1664), "1K": (1536, 1024)},  # inferred
    "2:3": {"4K": (2688, 4032), "2K": (1664, 2496), "1K": (1024, 1536)},  # inferred
}
_PIXELS = re.compile(r"([1-9][0-9]{0,4})[x*]([1-9][0-9]{0,4})")

SIZE_FORMS = f"1K, 2K, 4K, a ratio ({', '.join(_RATIOS)}) or pixels such as 1024x1024"


@dataclass(frozen=True, slots=True)
class Keyword:
    """A tier by itself: a square, or with image inputs the shape of the last one."""

    tier: Tier


@dataclass(frozen=True, slots=True)
class Ratio:
    """An aspect ratio of the page's list; its tier is `resolution`, or 2K."""

    text: str


@dataclass(frozen=True, slots=True)
class Pixels:
    """Width and height."""

    width: int
    height: int


Size = Keyword | Ratio | Pixels

_KEYWORDS: dict[str, Keyword] = {tier: Keyword(tier) for tier in _SQUARES}


@lru_cache(maxsize=4096)
def parse_size(text: str) -> Size | None:
    """Read a size in any of the three forms; None if it is none of them."""
    if keyword := _KEYWORDS.get(text):
        return keyword
    if text in _RATIOS:
        return Ratio(text)
    match = _PIXELS.fullmatch(text)
    return Pixels(int(match[1]), int(match[2])) if match else None


def canonical_size(text: str) -> str | None:
    """Give the one spelling of a size (`1024*1024` is `1024x1024`); None if it is no size."""
    return text.replace("*", "x") if parse_size(text) else None


@lru_cache(maxsize=4096)
def size_issues(
    size: str | None, resolution: Tier | None, model: ModelName, edits: bool, sequential: bool
) -> tuple[Issue, ...]:
    """Judge size and resolution together, and both against model and mode. Cached: bulk input repeats few sizes."""
    parsed = parse_size(size) if size is not None else None
    small = _why_small(model, edits=edits, sequential=sequential)
    if isinstance(parsed, Pixels):
        return (*_contradictions(parsed, size, resolution), *_pixel_issues(parsed, size or "", small))
    issues = _contradictions(parsed, size, resolution)
    for field, tier in (("size", size), ("resolution", resolution)):
        if tier == "4K" and small:
            issues = (*issues, _too_large_tier(field, small))
    return issues


def nominal_pixels(size: str | None, resolution: Tier | None) -> tuple[int, int] | None:
    """Width and height that size and resolution stand for, without regard to image inputs; None if size is none."""
    parsed = parse_size(size) if size is not None else Keyword(resolution or DEFAULT_TIER)
    match parsed:
        case None:
            return None
        case Keyword(tier):
            return _SQUARES[tier]
        case Ratio(text):
            return _RATIOS[text][resolution or DEFAULT_TIER]
        case Pixels(width, height):
            return width, height
        case _:
            assert_never(parsed)


def size_label(size: str | None, resolution: Tier | None) -> str:
    """Name a size for tables: `2K`, `2K 16:9`, `1024x768`."""
    if size is None:
        return resolution or DEFAULT_TIER
    if size in _RATIOS:
        return f"{resolution or DEFAULT_TIER} {size}"
    return size


def is_ratio(size: str | None) -> bool:
    return size in _RATIOS


def _why_small(model: ModelName, *, edits: bool, sequential: bool) -> str:
    """Say what limits this request to 2K; empty if nothing does."""
    if model != PRO:
        return f"for {model}"
    if edits:
        return "with image_urls"
    return "with enable_sequential" if sequential else ""


def _contradictions(parsed: Size | None, size: str | None, resolution: Tier | None) -> tuple[Issue, ...]:
    """`resolution` refines a ratio; beside another keyword or pixels its outcome is not documented."""
    if resolution is None or isinstance(parsed, Ratio | None) or parsed == Keyword(resolution):
        return ()
    message = f"resolution: goes with a size that is a ratio; {resolution} contradicts size {size}"
    return (Issue("resolution", "contradiction", message, resolution),)


def _too_large_tier(field: str, small: str) -> Issue:
    message = f"{field}: 4K is only for {PRO} text-to-image that is not sequential; the limit is 2K {small}"
    return Issue(field, "max_tier", message, "4K")


def _pixel_issues(pixels: Pixels, size: str, small: str) -> tuple[Issue, ...]:
    width, height = pixels.width, pixels.height
    issues: list[Issue] = []
    if width * height < MIN_PIXELS:
        message = (
            f"size: at least {MIN_PIXELS} pixels in all (768x768) are needed, got {width * height} ({size})"
        )
        issues.append(Issue("size", "min_pixels", message, size))
    most, name = (MAX_PIXELS, "2048x2048") if small else (MAX_PIXELS_PRO, "4096x4096")
    if width * height > most:
        limit = f"at most {most} pixels in all ({name}) are allowed {small}".rstrip()
        issues.append(Issue("size", "max_pixels", f"size: {limit}, got {width * height} ({size})", size))
    if width > MAX_ASPECT * height or height > MAX_ASPECT * width:
        issues.append(Issue("size", "aspect", f"size: aspect must be between 1:8 and 8:1, got {size}", size))
    return tuple(issues)
