"""How long to wait before trying again: pure arithmetic, for every retry in the house."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_WAIT_S: Final = (
    1.0  # Retry-After has whole seconds; 0, or a date that has passed, would make retries a loop
)
MAX_DOUBLINGS: Final = 62  # beyond every cap, and far from the overflow of a float


def backoff_s(attempt: int, *, base_s: float, cap_s: float, rng: Callable[[], float]) -> float:
    """Give the wait after the `attempt`-th failure (1, 2, ...): exponential, capped, with full jitter.

    `rng` gives numbers of [0, 1), as `random.random` does. Full jitter spreads a herd over the whole interval, at
    half the mean wait of the bare exponential.
    """
    doublings = min(max(attempt - 1, 0), MAX_DOUBLINGS)
    return rng() * min(cap_s, math.ldexp(base_s, doublings))


def clamp_retry_after(value: float | None, cap_s: float, least_s: float = 0.0) -> float | None:
    """Bound what a server asks for to `least_s` ... `cap_s`; None, or what is not a number, is no wish at all."""
    if value is None or math.isnan(value):
        return None
    return min(max(value, least_s), cap_s)
