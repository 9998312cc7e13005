"""When to ask the provider again: pure. Ages are seconds since the submit was recorded, by the state server's clock.

    first    nothing can be done yet: one wait of `first_s`
    fast     `fast_s` until `fast_until_s`: most generations end here
    slow     `slow_s` until `slow_until_s`
    steady   `max_s` until the deadline
    late     `late_every_s` until `give_up_s`: the generation is probably lost, but it may be billed

The deadline only makes polls rare, it does not fail the job. Every wait has ±20 % of jitter, so that jobs submitted
together do not ask together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import PollSettings

JITTER: Final = 0.2
LONG_SEQUENTIAL_OVER: Final = 4  # images in one sequential request above which it has a deadline of its own


class Phase(StrEnum):
    """How often a generation of this age is asked for."""

    FIRST = "first"
    FAST = "fast"
    SLOW = "slow"
    STEADY = "steady"
    LATE = "late"


def is_long_sequential(*, sequential: bool, n: int) -> bool:
    return sequential and n > LONG_SEQUENTIAL_OVER


def deadline_s(settings: PollSettings, *, long_sequential: bool) -> float:
    return settings.sequential_deadline_s if long_sequential else settings.deadline_s


def is_past_deadline(settings: PollSettings, age_s: float, *, long_sequential: bool) -> bool:
    return age_s >= deadline_s(settings, long_sequential=long_sequential)


def is_given_up(settings: PollSettings, age_s: float) -> bool:
    return age_s >= settings.give_up_s


def phase_of(settings: PollSettings, age_s: float, *, long_sequential: bool) -> Phase:
    """Give the phase of an age. `first` ends where jitter may end its wait, so that it is never waited twice."""
    if is_past_deadline(settings, age_s, long_sequential=long_sequential):
        return Phase.LATE
    if age_s < settings.first_s * (1 - JITTER):
        return Phase.FIRST
    if age_s < settings.fast_until_s:
        return Phase.FAST
    return Phase.SLOW if age_s < settings.slow_until_s else Phase.STEADY


def next_delay_s(
    settings: PollSettings, age_s: float, *, long_sequential: bool, rng: Callable[[], float]
) -> float:
    """Give the wait from now to the next poll. `rng` gives numbers of [0, 1).

    A poll before the first was due (a callback, a resume) does not put it off. The last wait ends at `give_up_s`.
    """
    age_s = max(age_s, 0.0)
    phase = phase_of(settings, age_s, long_sequential=long_sequential)
    delay_s = _interval_s(settings, phase, age_s) * (1 - JITTER + 2 * JITTER * rng())
    if is_given_up(settings, age_s):
        return delay_s
    return min(delay_s, settings.give_up_s - age_s)


def _interval_s(settings: PollSettings, phase: Phase, age_s: float) -> float:
    match phase:
        case Phase.FIRST:
            return settings.first_s - age_s
        case Phase.FAST:
            return settings.fast_s
        case Phase.SLOW:
            return settings.slow_s
        case Phase.STEADY:
            return settings.max_s
        case Phase.LATE:
            return settings.late_every_s
        case _:
            assert_never(phase)
