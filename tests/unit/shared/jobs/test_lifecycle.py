"""The tables of the lifecycle: they hang together, and nothing but them is needed to know them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

import pytest

from shared.errors import DarkroomError, IllegalTransition
from shared.jobs.lifecycle import (
    DELIVERY_STATES,
    DELIVERY_TRANSITIONS,
    JOB_STATES,
    JOB_TRANSITIONS,
    TERMINAL,
    DeliveryState,
    JobState,
    check,
    check_delivery,
)
from shared.jobs.transition import IMAGE_EVENTS
from tests.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S", JobState, DeliveryState)
SERVERS_AND_CLIENTS = ("redis", "celery", "kombu", "httpx", "pyreqwest", "obstore", "pydantic")


def reachable(start: S, table: Mapping[tuple[S, S], str]) -> set[S]:
    """Give every state that changes of the table lead to."""
    found, new = {start}, {start}
    while new:
        new = {after for before, after in table if before in new} - found
        found |= new
    return found


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_what_has_ended_stays_as_it_is(state: JobState) -> None:
    """No change leads out of a terminal state: state is final, whatever the accounting still does."""
    assert [after for before, after in JOB_TRANSITIONS if before is state] == []


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_every_job_can_end(state: JobState) -> None:
    """From every state that is not an end, an end can be reached."""
    assert reachable(state, JOB_TRANSITIONS) & TERMINAL


def test_every_job_state_can_be_reached() -> None:
    """A job begins as queued, and every state lies on some way from there."""
    assert reachable(JobState.QUEUED, JOB_TRANSITIONS) == set(JobState)


def test_a_delivery_has_one_step_to_each_of_its_ends() -> None:
    """Pending goes to delivered, exhausted or disabled, and those lead nowhere."""
    ends = set(DeliveryState) - {DeliveryState.PENDING}
    assert set(DELIVERY_TRANSITIONS) == {(DeliveryState.PENDING, end) for end in ends}


def test_every_state_is_described() -> None:
    """Each state has its sentences, for the page that is generated from them."""
    for prose, states in ((JOB_STATES, JobState), (DELIVERY_STATES, DeliveryState)):
        assert list(prose) == list(states)
        assert [text for text in prose.values() if not text.endswith(".")] == []


def test_every_change_says_when_it_happens() -> None:
    """No change of state is without its cause, and none is listed from a state to itself."""
    for table in (JOB_TRANSITIONS, DELIVERY_TRANSITIONS):
        assert [change for change, cause in table.items() if not cause.strip()] == []
        assert [change for change in table if change[0] is change[1]] == []


def test_money_is_never_taken_back_to_the_queue_after_a_generation() -> None:
    """What the provider has accepted never returns to where it could be submitted again."""
    accepted = {JobState.GENERATING, JobState.STORING}
    assert not any(before in accepted and after is JobState.QUEUED for before, after in JOB_TRANSITIONS)
    assert JobState.QUEUED not in reachable(JobState.GENERATING, JOB_TRANSITIONS)


def test_every_end_is_announced() -> None:
    """Consumers hear of every terminal state, and of an unknown outcome."""
    assert set(IMAGE_EVENTS) == TERMINAL | {JobState.UNKNOWN}


@pytest.mark.parametrize("before", JobState)
@pytest.mark.parametrize("after", JobState)
def test_check_allows_what_the_table_has(before: JobState, after: JobState) -> None:
    """Staying and listed changes pass; everything else raises, and says from where to where."""
    if before is after or (before, after) in JOB_TRANSITIONS:
        check(before, after)
    else:
        with pytest.raises(IllegalTransition, match=rf"from {before} to {after}\b.*docs/lifecycle"):
            check(before, after)


@pytest.mark.parametrize("before", DeliveryState)
@pytest.mark.parametrize("after", DeliveryState)
def test_check_delivery_allows_what_the_table_has(before: DeliveryState, after: DeliveryState) -> None:
    """The same for deliveries."""
    if before is after or (before, after) in DELIVERY_TRANSITIONS:
        check_delivery(before, after)
    else:
        with pytest.raises(IllegalTransition, match=rf"from {before} to {after}\b"):
            check_delivery(before, after)


def test_an_illegal_change_is_one_of_our_errors() -> None:
    """Whoever catches DarkroomError catches it."""
    assert issubclass(IllegalTransition, DarkroomError)


def test_the_lifecycle_is_pure() -> None:
    """Importing it pulls in no server's client, no broker, no HTTP and no validation library."""
    program = (
        "import sys; before = set(sys.modules); import shared.jobs.lifecycle; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(found.stdout.split())
    assert "shared" in imported
    assert imported & set(SERVERS_AND_CLIENTS) == set()
