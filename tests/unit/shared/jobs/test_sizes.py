"""Sizes: three forms, one spelling, nominal pixels and labels."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.jobs.sizes import (
    MAX_ASPECT,
    MAX_PIXELS,
    MAX_PIXELS_PRO,
    MIN_PIXELS,
    Keyword,
    Pixels,
    Ratio,
    canonical_size,
    is_ratio,
    nominal_pixels,
    parse_size,
    size_issues,
    size_label,
)

if TYPE_CHECKING:
    from shared.jobs.sizes import ModelName, Tier

TIERS: tuple[Tier, ...] = ("1K", "2K", "4K")
RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
sides = st.integers(1, 99_999)


@given(st.text())
@example("")
@example("1024x1024\n")
@example("\u0661024x1024")
def test_any_text_is_a_size_or_none(text: str) -> None:
    """Parsing never raises, and takes nothing but the three documented forms."""
    match parse_size(text):
        case None:
            assert canonical_size(text) is None
        case Keyword(tier):
            assert text == tier
        case Ratio(ratio):
            assert text == ratio
            assert ratio in RATIOS
        case Pixels(width, height):
            assert canonical_size(text) == f"{width}x{height}"


@given(sides, sides, st.sampled_from("x*"))
def test_both_signs_mean_the_same_pixels(width: int, height: int, sign: str) -> None:
    """`1024*1024` and `1024x1024` are one size with one spelling."""
    assert parse_size(f"{width}{sign}{height}") == Pixels(width, height)
    assert canonical_size(f"{width}{sign}{height}") == f"{width}x{height}"


@given(sides, sides, st.sampled_from(["wan2.7-image", "wan2.7-image-pro"]), st.booleans(), st.booleans())
@example(768, 768, "wan2.7-image", False, False)
@example(767, 768, "wan2.7-image", False, False)
@example(2048, 2048, "wan2.7-image", False, False)
@example(4096, 4096, "wan2.7-image-pro", False, False)
@example(4096, 4096, "wan2.7-image-pro", False, True)
def test_pixel_sizes_are_bounded_in_total_and_aspect(
    width: int, height: int, model: ModelName, edits: bool, sequential: bool
) -> None:
    """A pixel size is accepted exactly within the model's total and the aspect limits."""
    large = model == "wan2.7-image-pro" and not edits and not sequential
    allowed = MIN_PIXELS <= width * height <= (MAX_PIXELS_PRO if large else MAX_PIXELS) and max(
        width, height
    ) <= MAX_ASPECT * min(width, height)
    issues = size_issues(f"{width}x{height}", None, model, edits, sequential)
    assert (not issues) == allowed


@pytest.mark.parametrize(("ratio", "tier"), list(itertools.product(RATIOS, TIERS)))
def test_every_ratio_at_every_tier_is_a_size_the_model_can_make(ratio: str, tier: Tier) -> None:
    """Nominal sizes of the table are near their ratio, and allowed as pixel sizes where the tier is."""
    pixels = nominal_pixels(ratio, tier)
    assert pixels is not None
    width, height = pixels
    across, down = map(int, ratio.split(":"))
    assert width / height == pytest.approx(across / down, rel=0.03)
    assert size_issues(f"{width}x{height}", None, "wan2.7-image-pro", False, False) == ()
    if tier != "4K":
        assert size_issues(f"{width}x{height}", None, "wan2.7-image", True, True) == ()


@pytest.mark.parametrize(
    ("size", "resolution", "pixels", "label"),
    [
        (None, None, (2048, 2048), "2K"),
        (None, "1K", (1024, 1024), "1K"),
        ("1K", None, (1024, 1024), "1K"),
        ("4K", None, (4096, 4096), "4K"),
        ("16:9", None, (2688, 1536), "2K 16:9"),
        ("9:16", "1K", (960, 1696), "1K 9:16"),
        ("1:1", "1K", (1280, 1280), "1K 1:1"),
        ("4:3", "4K", (4096, 3072), "4K 4:3"),
        ("1000x800", None, (1000, 800), "1000x800"),
        ("nonsense", None, None, "nonsense"),
    ],
)
def test_nominal_pixels_and_label(
    size: str | None, resolution: Tier | None, pixels: tuple[int, int] | None, label: str
) -> None:
    """Each combination stands for pixels, and has a short name."""
    assert nominal_pixels(size, resolution) == pixels
    assert size_label(size, resolution) == label


def test_ratios_are_told_from_other_sizes() -> None:
    """Only the seven ratios of the page are ratios."""
    assert all(map(is_ratio, RATIOS))
    assert not any(map(is_ratio, (None, "1K", "1024x1024", "5:4")))
