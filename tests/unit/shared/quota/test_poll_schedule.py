"""When polls happen: phases, waits, deadline, giving up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.quota.poll_schedule import (
    JITTER,
    Phase,
    is_given_up,
    is_long_sequential,
    is_past_deadline,
    next_delay_s,
    phase_of,
)
from shared.settings import PollSettings

if TYPE_CHECKING:
    from collections.abc import Callable

POLL = PollSettings()


def drawing(number: float) -> Callable[[], float]:
    return lambda: number


UNJITTERED = drawing(0.5)


@pytest.mark.parametrize(
    ("age_s", "phase", "delay_s"),
    [
        (-1, Phase.FIRST, 5),  # two servers' clocks may differ after a failover
        (0, Phase.FIRST, 5),
        (1.5, Phase.FIRST, 3.5),
        (3.99, Phase.FIRST, 1.01),
        (4, Phase.FAST, 3),
        (29.9, Phase.FAST, 3),
        (30, Phase.SLOW, 5),
        (119.9, Phase.SLOW, 5),
        (120, Phase.STEADY, 10),
        (599.9, Phase.STEADY, 10),
        (600, Phase.LATE, 300),
        (86_000, Phase.LATE, 300),
    ],
)
def test_the_age_decides_the_phase_and_the_wait(age_s: float, phase: Phase, delay_s: float) -> None:
    """Each phase begins at its bound and has its own interval; the first wait counts from the submit."""
    assert phase_of(POLL, age_s, long_sequential=False) is phase
    assert next_delay_s(POLL, age_s, long_sequential=False, rng=UNJITTERED) == pytest.approx(delay_s)


@pytest.mark.parametrize(("age_s", "phase"), [(600, Phase.STEADY), (899.9, Phase.STEADY), (900, Phase.LATE)])
def test_a_long_sequential_job_has_a_later_deadline(age_s: float, phase: Phase) -> None:
    """Sequential jobs of more than four images are polled as usual up to their own deadline."""
    assert phase_of(POLL, age_s, long_sequential=True) is phase


@pytest.mark.parametrize(
    ("sequential", "n", "long"), [(True, 5, True), (True, 12, True), (True, 4, False), (False, 12, False)]
)
def test_which_jobs_are_long_sequential(sequential: bool, n: int, long: bool) -> None:
    """Only sequential mode with n over four counts."""
    assert is_long_sequential(sequential=sequential, n=n) is long


@pytest.mark.parametrize(
    ("age_s", "long", "past"),
    [(599.9, False, False), (600, False, True), (600, True, False), (899.9, True, False), (900, True, True)],
)
def test_the_deadline_depends_on_the_mode(age_s: float, long: bool, past: bool) -> None:
    """A job is past its deadline from the deadline on."""
    assert is_past_deadline(POLL, age_s, long_sequential=long) is past


@pytest.mark.parametrize(("age_s", "given_up"), [(0, False), (86_399.9, False), (86_400, True), (1e9, True)])
def test_giving_up(age_s: float, given_up: bool) -> None:
    """A job is given up from give_up_s on, whatever its mode."""
    assert is_given_up(POLL, age_s) is given_up


@pytest.mark.parametrize("age_s", [0, 10, 60, 300, 1000])
def test_jitter_is_a_fifth_both_ways(age_s: float) -> None:
    """The number drawn moves the wait from 80 % to 120 % of the interval."""
    middle_s = next_delay_s(POLL, age_s, long_sequential=False, rng=UNJITTERED)
    low_s = next_delay_s(POLL, age_s, long_sequential=False, rng=drawing(0.0))
    high_s = next_delay_s(POLL, age_s, long_sequential=False, rng=drawing(1.0))
    assert [low_s, high_s] == pytest.approx([0.8 * middle_s, 1.2 * middle_s])


@pytest.mark.parametrize("drawn", [0.0, 0.999])
def test_the_first_wait_is_not_waited_twice(drawn: float) -> None:
    """However short jitter made the first wait, the next poll is in the fast phase."""
    first_s = next_delay_s(POLL, 0, long_sequential=False, rng=drawing(drawn))
    assert phase_of(POLL, first_s, long_sequential=False) is Phase.FAST


def test_the_last_wait_ends_when_the_job_is_given_up() -> None:
    """A rare poll does not put off the end of the wait."""
    assert next_delay_s(POLL, 86_300, long_sequential=False, rng=UNJITTERED) == 100


@given(
    age_s=st.floats(-10, 100_000),
    long_sequential=st.booleans(),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_positive_and_bounded(age_s: float, long_sequential: bool, drawn: float) -> None:
    """No age and no draw gives a busy loop or a wait beyond the rarest interval."""
    delay_s = next_delay_s(POLL, age_s, long_sequential=long_sequential, rng=drawing(drawn))
    assert 0 < delay_s <= POLL.late_every_s * (1 + JITTER)


def test_a_generation_of_twenty_seconds_costs_six_polls() -> None:
    """The default schedule is what was reckoned with: first at 5 s, then every 3 s."""
    age_s, polls = 0.0, 0
    while age_s < 20:
        age_s += next_delay_s(POLL, age_s, long_sequential=False, rng=UNJITTERED)
        polls += 1
    assert polls == 6
    assert age_s == pytest.approx(20)
