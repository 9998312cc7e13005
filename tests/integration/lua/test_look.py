"""look.lua: hints are bounded, lost ones are replaced soon, one process sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.commands import TOLD, plan_cancel
from shared.jobs.transition import Applied
from tests.integration.lua.conftest import LANE, MODEL

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State


def look(state: State, *, worker: str = "w1", k: int = 100, sweep: int = 0) -> list[int]:
    """Look at the submits of the lane, as a pacemaker does."""
    reply: list[int] = state.call("look", worker, 15_000, 300, k, sweep, "submit", LANE, MODEL)
    return reply


def test_nothing_waits(state: State) -> None:
    """An idle lane needs no hint and no timer."""
    assert look(state) == [1, 0, 0, 0, -1]


def test_hints_are_bounded_by_work_and_workers(state: State) -> None:
    """At most min(workers, ceil(due / k)) hints are outstanding; more workers get more of them."""
    state.enqueue(250)
    assert look(state)[2] == 1
    assert look(state)[2] == 0
    assert look(state, worker="w2")[2] == 1
    assert look(state, worker="w3")[2] == 1
    assert look(state, worker="w4")[2] == 0


def test_lost_hint_is_replaced(state: State) -> None:
    """The count of hints lives 300 ms: a hint that the broker lost costs no more."""
    state.enqueue()
    assert look(state)[2] == 1
    assert 0 < state.client.pttl(state.keys.hint("submit", LANE)) <= 300
    state.client.delete(state.keys.hint("submit", LANE))
    assert look(state)[2] == 1


def test_dead_workers_are_not_counted(state: State) -> None:
    """A worker that gives no sign of life for alive_ms is gone."""
    look(state, worker="w1")
    look(state, worker="w2")
    state.now_ms += 15_001
    assert look(state, worker="w2")[0] == 1


def test_closed_lane_is_not_hinted(state: State) -> None:
    """Work behind a closed lane waits for its opening, not for a hint."""
    state.enqueue()
    state.client.hset(state.keys.lane(LANE), "closed_until", state.now_ms + 5000)
    assert look(state)[2:] == [0, 0, 5000]


def test_one_sweeper_at_a_time(state: State) -> None:
    """Of many processes one is asked to sweep, and only when something ended by time."""
    assert look(state, sweep=1)[1] == 0
    state.enqueue(deadline_at=state.now_ms + 10)
    state.now_ms += 10
    assert look(state, sweep=1)[1] == 1
    assert look(state, sweep=1)[1] == 0


def test_an_end_that_only_flower_waits_for_is_swept(state: State) -> None:
    """Cancelled in its queue, without deadline, batch or webhook: nothing else would ever bring a sweep."""
    (job_id,) = state.enqueue()
    plan = plan_cancel(state.job(job_id))
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert look(state, sweep=1)[1] == 1
    state.client.zrem(state.keys.index(TOLD), job_id)
    state.now_ms += 1000
    assert look(state, sweep=1)[1] == 0
