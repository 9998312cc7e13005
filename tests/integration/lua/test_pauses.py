"""pause_tenant.lua, pause_batch.lua, pause_jobs.lua: what is paused is not submitted, and nothing else waits for it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from shared.jobs.commands import plan_cancel, plan_expire, plan_resubmit
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, AuditNote, Change, Transition, context_json
from shared.money.caps import claim_caps
from shared.settings import CapSettings
from tests.integration.lua.conftest import LANE, MODEL, PRICE, State

if TYPE_CHECKING:
    from shared.jobs.job import Job

OTHER_MODEL = "wan2.7-image-pro"


def pause_tenant(state: State, tenant: str = "acme", on: int = 1, dry: int = 0) -> list[int]:
    answer: list[int] = state.call(
        "pause_tenant", tenant, on, "anna", "odd bill", dry, "queued", MODEL, OTHER_MODEL
    )
    return answer


def pause_batch(
    state: State, name: str = "foxes", on: int = 1, dry: int = 0, tenant: str = "acme"
) -> list[int]:
    answer: list[int] = state.call("pause_batch", tenant, name, on, "anna", "odd bill", dry, "queued")
    return answer


def pause_jobs(state: State, ids: list[str], on: int = 1, dry: int = 0) -> list[int]:
    answer: list[int] = state.call("pause_jobs", on, "anna", "odd bill", dry, "queued", "some", *ids)
    return answer


def claimed(state: State, k: int = 100, **over: Any) -> list[str]:
    """Claim, and give what was queued, in order: leases of earlier claims last."""
    return [row["id"] for row in state.claim_submit(k, lease_ms=10**9, **over)[2]]


def apply(state: State, plan: Transition | None) -> Applied:
    assert plan is not None
    return state.apply(plan)[0]


def requeue(state: State, entry: dict[str, Any]) -> None:
    """Give a claimed job back to its queue, as after a 429."""
    change = Change(
        before=JobState.SUBMITTING, after=JobState.QUEUED, queue=True, release=True,
        leave=(f"submit:{LANE}",), free_slot=LANE,
    )  # fmt: skip
    assert apply(state, Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(change,))) == 1


def noted(state: State) -> list[tuple[str, ...]]:
    rows: Any = state.client.xrange(state.keys.audit)
    return [tuple(fields[name].decode() for name in (b"who", b"what", b"on", b"jobs")) for _, fields in rows]


# --- a tenant ---


def test_a_paused_tenant_waits_and_the_others_do_not(state: State) -> None:
    """Jobs of before and of after the pause wait; a resume gives them their turns at once, in order."""
    mine, others = state.enqueue(3), state.enqueue(2, tenant="other")
    assert pause_tenant(state) == [1, 3]
    mine += state.enqueue(2)
    assert sorted(claimed(state)) == sorted(others)
    next_in, _, taken = state.claim_submit(lease_ms=10**9)
    assert (next_in > 0, taken) == (True, [])
    assert state.client.hgetall(state.keys.parked) == {f"{MODEL}|acme".encode(): b"paused"}
    assert pause_tenant(state, on=0) == [1, 5]
    assert claimed(state) == mine
    assert state.client.exists(state.keys.parked, state.keys.paused) == 0


def test_nothing_but_a_resume_rearms_a_paused_tenant(state: State) -> None:
    """Neither the timer of a cap, nor money that comes back, nor a job that comes back, nor a not_before."""
    ids = state.enqueue(3)
    later = state.enqueue(1, not_before_at=state.now_ms + 1000)
    limited = claim_caps([CapSettings(scope="tenant:acme", window="total", limit="0.20")], "main", "CNY")
    (entry,) = state.claim_submit(caps=limited, lease_ms=10**9)[2]
    assert pause_tenant(state) == [1, 3]
    requeue(state, entry)
    state.now_ms += 3_600_000
    assert claimed(state) == []
    assert pause_tenant(state, on=0) == [1, 4]
    assert claimed(state) == [*ids, *later]


def test_a_tenant_is_held_in_a_model_that_the_pause_did_not_know(state: State) -> None:
    """The claim that meets its queue parks it."""
    state.enqueue(2)
    assert state.call("pause_tenant", "acme", 1, "anna", "", 0, "queued") == [1, 2]
    assert claimed(state) == []
    assert state.client.zscore(state.keys.index(f"parked:{MODEL}"), "acme") == float("inf")
    assert state.call("pause_tenant", "acme", 0, "anna", "", 0, "queued") == [1, 2]
    assert len(claimed(state)) == 2


def test_a_paused_tenant_is_not_due(state: State) -> None:
    """The pacemaker sees nothing to hint, and no timer to arm."""
    state.enqueue(2)
    pause_tenant(state)
    answer = state.call("look", "w1", 60_000, 200, 100, 0, "submit", LANE, MODEL)
    assert answer[2:] == [0, 0, -1]


def test_each_change_of_a_tenant_is_audited_once(state: State) -> None:
    """A dry run and asking for what is so already leave no trace."""
    state.enqueue(2)
    assert pause_tenant(state, dry=1) == [1, 2]
    assert state.client.exists(state.keys.paused, state.keys.audit) == 0
    assert [pause_tenant(state), pause_tenant(state), pause_tenant(state, on=0), pause_tenant(state, on=0)] == [
        [1, 2], [0, 2], [1, 2], [0, 2],
    ]  # fmt: skip
    assert noted(state) == [
        ("anna", "pause", "tenant acme", "2"),
        ("anna", "resume", "tenant acme", "2"),
    ]


# --- a batch ---


def test_a_paused_batch_waits_and_the_rest_of_its_tenant_does_not(state: State) -> None:
    """Its jobs leave the queue as they are met, new ones never enter it, and all come back in their order."""
    foxes = state.enqueue(3, batch="foxes")
    hares = state.enqueue(2, batch="hares")
    assert pause_batch(state) == [1, 3]
    foxes += state.enqueue(2, batch="foxes")
    assert claimed(state) == hares
    assert state.client.exists(state.keys.queue(MODEL, "acme")) == 0
    owls = state.enqueue(2, batch="owls")
    assert pause_batch(state, on=0) == [1, 5]
    assert claimed(state) == foxes + owls
    assert state.client.exists(state.keys.aside(MODEL, "acme", "foxes"), state.keys.paused) == 0


def test_a_batch_comes_back_to_an_empty_queue(state: State) -> None:
    """Priorities hold: the order is that of the ranks."""
    low = state.enqueue(2, batch="foxes")
    high = state.enqueue(1, batch="foxes", priority=5)
    pause_batch(state)
    assert claimed(state) == []
    pause_batch(state, on=0)
    assert claimed(state) == high + low


def test_a_paused_batch_is_looked_at_once(state: State) -> None:
    """However many they are: at most 4k are looked at in a call, and none of them twice."""
    state.enqueue(50, batch="foxes")
    last = state.enqueue(1)
    pause_batch(state)
    aside = state.keys.aside(MODEL, "acme", "foxes")
    sizes = [0]
    while True:
        taken = claimed(state, k=5)
        sizes.append(state.client.zcard(aside))
        if taken:
            break
    assert taken == last
    assert (sizes[-1], len(sizes) < 10) == (50, True)
    assert all(after - before <= 20 for before, after in pairwise(sizes))
    next_in, _, taken_then = state.claim_submit(5, lease_ms=10**9)
    assert (next_in > 1000, taken_then) == (True, [])


def test_a_paused_batch_does_not_hold_up_other_tenants(state: State) -> None:
    """Even if more of its jobs are first in turn than a call may look at."""
    state.enqueue(500, batch="foxes")
    others = state.enqueue(3, tenant="other")
    pause_batch(state)
    assert claimed(state, k=10) == others


def test_jobs_of_a_paused_batch_come_back_aside(state: State) -> None:
    """A claimed one that returns to the queue, and one whose not_before has come, wait with the others."""
    (first,) = state.enqueue(1, batch="foxes")
    (later,) = state.enqueue(1, batch="foxes", not_before_at=state.now_ms + 1000)
    (entry,) = state.claim_submit(lease_ms=10**9)[2]
    pause_batch(state)
    requeue(state, entry)
    state.now_ms += 2000
    assert claimed(state) == []
    assert state.client.zcard(state.keys.aside(MODEL, "acme", "foxes")) == 2
    pause_batch(state, on=0)
    assert claimed(state) == [first, later]


def test_a_job_aside_expires_and_is_cancelled(state: State) -> None:
    """Both leave what is aside; the batch completes once, though it is paused, and is not paused after that."""
    one = state.enqueue(1, batch="foxes", deadline_at=state.now_ms + 1000, webhook="http://sink/")[0]
    two = state.enqueue(1, batch="foxes")[0]
    pause_batch(state)
    assert claimed(state) == []
    state.call("close_batch", context_json(state.limits), "acme", "foxes", "seal")
    record = state.keys.batch("acme", "foxes")
    assert apply(state, plan_expire(state.job(one))) is Applied.FIRST
    assert state.client.hget(record, "completed_at") is None
    assert apply(state, plan_cancel(state.job(two))) is Applied.FIRST
    assert state.client.hget(record, "completed_at") is not None
    aside = state.keys.aside(MODEL, "acme", "foxes")
    assert state.client.exists(aside, state.keys.paused, state.keys.queue(MODEL, "acme")) == 0
    assert pause_batch(state) == [-2]
    assert pause_batch(state, on=0)[0] == 0
    assert claimed(state) == []


def test_a_paused_job_is_not_a_stall(state: State) -> None:
    """Unknown jobs beside a paused one arm no stall timer: somebody has yet to resume it."""
    ids = state.enqueue(2, batch="foxes")
    entry = state.claim_submit(1)[2][0]
    pause_batch(state)
    claimed(state)
    state.call("close_batch", context_json(state.limits), "acme", "foxes", "seal")
    assert state.intent(entry) is Applied.FIRST
    lost = Change(before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",))
    assert apply(state, Transition(job_id=entry["id"], intent_id="i1", changes=(lost,))) is Applied.FIRST
    assert state.client.zcard(state.keys.index("stalling")) == 0
    apply(state, plan_cancel(state.job(ids[1])))
    assert state.client.zcard(state.keys.index("stalling")) == 1
    plan = plan_resubmit(state.job(ids[0]), by="anna", now_ms=state.now_ms + 10**6, wait_ms=0)
    assert apply(state, plan) is Applied.FIRST
    assert claimed(state) == []


def test_no_such_batch(state: State) -> None:
    """A name without a batch is told apart."""
    assert pause_batch(state) == [-1]
    assert state.client.exists(state.keys.paused, state.keys.audit) == 0


def test_each_change_of_a_batch_is_audited_once(state: State) -> None:
    """A dry run and asking for what is so already leave no trace."""
    state.enqueue(2, batch="foxes")
    assert pause_batch(state, dry=1) == [1, 2]
    assert state.client.exists(state.keys.paused, state.keys.audit) == 0
    assert [pause_batch(state)[0], pause_batch(state)[0], pause_batch(state, on=0)[0]] == [1, 0, 1]
    assert noted(state) == [
        ("anna", "pause", "batch foxes of acme", "2"),
        ("anna", "resume", "batch foxes of acme", "2"),
    ]


# --- jobs ---


def paused_fields(job: Job) -> tuple[str | None, str | None]:
    return job.paused_by, job.paused_why


def test_a_paused_job_waits_and_its_neighbours_do_not(state: State) -> None:
    """Its record and its timeline say who paused it; resumed, it has its old place."""
    ids = state.enqueue(3)
    assert pause_jobs(state, [ids[1]]) == [1]
    job = state.job(ids[1])
    assert (job.state, *paused_fields(job)) == (JobState.QUEUED, "anna", "odd bill")
    assert job.timeline[-1].note == "paused by anna: odd bill"
    assert claimed(state, k=1) == [ids[0]]
    assert pause_jobs(state, [ids[1]], on=0) == [1]
    assert claimed(state) == ids[1:]
    assert paused_fields(state.job(ids[1])) == (None, None)
    assert state.client.exists(state.keys.index("paused")) == 0


def test_a_lone_paused_job_leaves_no_empty_turn(state: State) -> None:
    """Its tenant is not in the turns, and nothing is due."""
    ids = state.enqueue(1)
    pause_jobs(state, ids)
    assert state.claim_submit()[0] == -1
    assert state.client.exists(state.keys.ready(MODEL), state.keys.queue(MODEL, "acme")) == 0


def test_only_jobs_that_wait_are_paused(state: State) -> None:
    """Each has its own answer, and one that is missing or on its way changes nothing for the others."""
    ids = state.enqueue(2)
    claimed(state, k=1)
    assert pause_jobs(state, [*ids, "job_none"], dry=1) == [-2, 1, -1]
    assert pause_jobs(state, [*ids, "job_none"]) == [-2, 1, -1]
    assert pause_jobs(state, ids) == [-2, 0]
    assert pause_jobs(state, ids, on=0) == [-2, 1]
    assert pause_jobs(state, ids, on=0) == [-2, 0]
    assert noted(state) == [("anna", "pause", "some", "1"), ("anna", "resume", "some", "1")]


def test_a_paused_job_waits_for_its_time_too(state: State) -> None:
    """Paused before its not_before: it stays until then, and after it; resumed before, it is not early."""
    early, late = state.enqueue(2, not_before_at=state.now_ms + 1000)
    pause_jobs(state, [early, late])
    assert pause_jobs(state, [early], on=0) == [1]
    assert claimed(state) == []
    state.now_ms += 2000
    assert claimed(state) == [early]
    assert claimed(state) == []
    assert pause_jobs(state, [late], on=0) == [1]
    assert claimed(state) == [late]


def test_a_paused_job_expires_and_is_cancelled(state: State) -> None:
    """It is gone from the paused, and a resume finds nothing to do."""
    one = state.enqueue(1, deadline_at=state.now_ms + 1000)[0]
    two = state.enqueue(1)[0]
    pause_jobs(state, [one, two])
    assert apply(state, plan_expire(state.job(one))) is Applied.FIRST
    assert apply(state, plan_cancel(state.job(two))) is Applied.FIRST
    assert state.client.exists(state.keys.index("paused")) == 0
    assert paused_fields(state.job(two)) == (None, None)
    assert pause_jobs(state, [one, two], on=0) == [-2, -2]
    assert claimed(state) == []


@pytest.mark.parametrize("first", ["job", "batch"])
def test_a_job_that_is_paused_twice_is_resumed_twice(state: State, first: str) -> None:
    """A pause of its own and one of its batch hold it both, whichever ends first."""
    one, two = state.enqueue(2, batch="foxes")
    pause_batch(state)
    assert claimed(state) == []
    pause_jobs(state, [one])
    if first == "job":
        pause_jobs(state, [one], on=0)
        assert claimed(state) == []
        pause_batch(state, on=0)
        assert claimed(state) == [one, two]
    else:
        pause_batch(state, on=0)
        assert claimed(state) == [two]
        pause_jobs(state, [one], on=0)
        assert claimed(state) == [one]


def test_a_pause_spends_and_holds_nothing(state: State) -> None:
    """What is committed by the queue stays committed; nothing is held."""
    ids = state.enqueue(2)
    pause_jobs(state, ids)
    assert state.usage() == {"CNY|tenant:acme|q": 2 * PRICE}
    assert state.balances() == {}


# --- what an operator decides of jobs ---


def test_a_decision_is_noted_with_the_change(state: State) -> None:
    """Only what was applied counts; a plan that is refused leaves no note."""
    one, two = state.enqueue(2)
    plans = [plan_cancel(state.job(each), by="anna") for each in (one, two)]
    note = AuditNote("anna", "cancel", "batch foxes", "typo")
    body = [plan for plan in plans if plan is not None]
    assert state.apply(*body, note=note) == [Applied.FIRST, Applied.FIRST]
    assert state.apply(*body, note=note) == [Applied.FENCED, Applied.FENCED]
    assert noted(state) == [("anna", "cancel", "batch foxes", "2")]
