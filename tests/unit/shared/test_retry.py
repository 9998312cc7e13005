"""Backoff and Retry-After: pure arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.retry import backoff_s, clamp_retry_after


@pytest.mark.parametrize(
    ("attempt", "ceiling_s"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (8, 60.0), (10_000, 60.0), (0, 1.0), (-5, 1.0)],
)
def test_the_ceiling_doubles_up_to_the_cap(attempt: int, ceiling_s: float) -> None:
    """The longest wait starts at base_s, doubles with every attempt and stops at cap_s."""
    assert backoff_s(attempt, base_s=1, cap_s=60, rng=lambda: 1.0) == ceiling_s


@pytest.mark.parametrize(("drawn", "wait_s"), [(0.0, 0.0), (0.25, 2.0), (0.5, 4.0)])
def test_jitter_is_full(drawn: float, wait_s: float) -> None:
    """The wait is anywhere between nothing and the ceiling, in proportion to the number drawn."""
    assert backoff_s(4, base_s=1, cap_s=60, rng=lambda: drawn) == wait_s


def test_a_base_above_the_cap_is_capped() -> None:
    """Not even the first wait is longer than the cap."""
    assert backoff_s(1, base_s=90, cap_s=60, rng=lambda: 1.0) == 60


@given(
    attempt=st.integers(),
    base_s=st.floats(0.001, 1e6),
    cap_s=st.floats(0.001, 1e6),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_within_the_cap(attempt: int, base_s: float, cap_s: float, drawn: float) -> None:
    """Whatever the arguments, a wait is finite, not negative and at most the cap."""
    assert 0 <= backoff_s(attempt, base_s=base_s, cap_s=cap_s, rng=lambda: drawn) <= cap_s


@pytest.mark.parametrize(
    ("asked_s", "kept_s"),
    [
        (None, None),
        (math.nan, None),
        (0.0, 0.0),
        (-3.0, 0.0),
        (12.5, 12.5),
        (300.0, 300.0),
        (1e9, 300.0),
        (math.inf, 300.0),
        (-math.inf, 0.0),
    ],
)
def test_retry_after_is_clamped(asked_s: float | None, kept_s: float | None) -> None:
    """A wish is kept within 0 and the cap; no wish stays no wish."""
    assert clamp_retry_after(asked_s, 300.0) == kept_s


@pytest.mark.parametrize(
    ("asked_s", "cap_s", "kept_s"),
    [(None, 300.0, None), (0.0, 300.0, 1.0), (1.5, 300.0, 1.5), (0.0, 0.5, 0.5)],
)
def test_a_wish_has_a_least_wait(asked_s: float | None, cap_s: float, kept_s: float | None) -> None:
    """A wish for less is lengthened, never beyond the cap; no wish stays no wish."""
    assert clamp_retry_after(asked_s, cap_s, least_s=1.0) == kept_s
