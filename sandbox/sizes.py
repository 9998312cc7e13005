"""Output sizes: keyword, ratio and pixels, per model and mode.

Bounds and tiers are the vendor page's; that pixel ranges bound the *total* and that sides obey 1:8 to 8:1 is the
upstream vendor's documentation. The pixels of a ratio come from another vendor page's table of recommended sizes;
its 3:2 and 2:3 rows, and the rejection of a keyword with another `resolution`, are assumptions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

TIERS = ("1K", "2K", "4K")
_SQUARE_PX = {"1K": 1024, "2K": 2048, "4K": 4096}
_RATIO_PX: dict[str, dict[str, tuple[int, int]]] = {
    "1:1": {"4K": (4096, 4096), "2K": (2048, 2048), "1K": (1280, 1280)},
    "16:9": {"4K": (4096, 2304), "2K": (2688, 1536), "1K": (1696, 960)},
    "9:16": {"4K": (2304, 4096), "2K": (1536, 2688), "1K": (960, 1696)},
    "4:3": {"4K": (4096, 3072), "2K": (2368, 1728), "1K": (1472, 1104)},
    "3:4": {"4K": (3072, 4096), "2K": (1728, 2368), "1K": (1104, 1472)},
    "3:2": {"4K": (4032, 2688), "2K": (2496, 1664), "1K": (1536, 1024)},
    "2:3": {"4K": (2688, 4032), "2K": (1664, 2496), "1K": (1024, 1536)},
}
_PIXELS = re.compile(r"([1-9][0-9]{0,5})[x*]([1-9][0-9]{0,5})")
_MIN_TOTAL_PX = 768 * 768


class SizeRefused(ValueError):
    """The size cannot be had; the message is a whole sentence."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the images to come: tier, and pixels."""

    tier: str
    width: int
    height: int


def choose(
    size: str | None, resolution: str | None, *, allows_4k: bool, like: tuple[int, int] | None
) -> Size:
    """Give the output size. `like`: size of the last input image of an edit, if known. Raises `SizeRefused`."""
    if resolution is not None and resolution not in TIERS:
        raise SizeRefused("resolution must be one of 1K, 2K, 4K")
    if size is not None and (pixels := _PIXELS.fullmatch(size)):
        return _from_pixels(int(pixels[1]), int(pixels[2]), resolution, allows_4k=allows_4k)
    tier = _tier(size, resolution)
    if tier == "4K" and not allows_4k:
        raise SizeRefused("4K is for wan2.7-image-pro text-to-image only, not for editing or sequential mode")
    if size in _RATIO_PX:
        return Size(tier, *_RATIO_PX[size][tier])
    return Size(tier, *_fit(tier, like or (1, 1)))


def _tier(size: str | None, resolution: str | None) -> str:
    if size is None or size in _RATIO_PX:
        return resolution or "2K"
    if size not in TIERS:
        raise SizeRefused(
            f"invalid size, allowed: {', '.join((*TIERS, *_RATIO_PX))} or pixels such as 1024x1024"
        )
    if resolution not in (None, size):
        raise SizeRefused("size and resolution name different tiers")
    return size


def _from_pixels(width: int, height: int, resolution: str | None, *, allows_4k: bool) -> Size:
    if resolution is not None:
        raise SizeRefused("resolution cannot be combined with a size in pixels")
    top = "4K" if allows_4k else "2K"
    total = width * height
    if not _MIN_TOTAL_PX <= total <= _SQUARE_PX[top] ** 2:
        raise SizeRefused(f"size must have 768x768 to {_SQUARE_PX[top]}x{_SQUARE_PX[top]} pixels in total")
    if max(width, height) > 8 * min(width, height):
        raise SizeRefused("size must have an aspect ratio of 1:8 to 8:1")
    return Size(next(tier for tier in TIERS if total <= _SQUARE_PX[tier] ** 2), width, height)


def _fit(tier: str, like: tuple[int, int]) -> tuple[int, int]:
    """Scale `like` to the area of the tier's square."""
    scale = _SQUARE_PX[tier] / math.sqrt(like[0] * like[1])
    return round(like[0] * scale), round(like[1] * scale)
