"""claim_submit.lua: permits, slots, POST places, fairness, breaker, and the recovery of dead holders."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shared.jobs.commands import plan_cancel
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

from tests.integration.lua.conftest import LANE, MODEL, PRICE


def test_takes_in_order_and_holds_money(state: State) -> None:
    """Jobs come in the order of enqueue, each with state, lease, slot and hold written in the same script."""
    ids = state.enqueue(3)
    _, _, taken = state.claim_submit(2)
    assert [entry["id"] for entry in taken] == ids[:2]
    assert [state.job(job_id).state for job_id in ids] == ["submitting", "submitting", "queued"]
    assert state.balances() == {"CNY|budget:acme": -2 * PRICE, "CNY|held:acme": 2 * PRICE}
    assert state.client.zcard(state.keys.slots(LANE)) == 2
    assert (state.count("acme", "queued"), state.count("*", "submitting")) == (1, 2)


def test_never_gives_one_job_twice(state: State) -> None:
    """A second claim finds only what the first left."""
    state.enqueue(3)
    first = {entry["id"] for entry in state.claim_submit(2)[2]}
    second = {entry["id"] for entry in state.claim_submit(2)[2]}
    assert len(first) == 2
    assert len(second) == 1
    assert not first & second


def test_higher_priority_goes_first_within_a_tenant(state: State) -> None:
    """Priority orders a tenant's own jobs, whenever they were enqueued."""
    (low,) = state.enqueue(priority=-1)
    (usual,) = state.enqueue()
    (urgent,) = state.enqueue(priority=5)
    assert [entry["id"] for entry in state.claim_submit()[2]] == [urgent, usual, low]


def test_tenants_share_a_lane(state: State) -> None:
    """A tenant with many jobs does not make another wait: they alternate by cost."""
    state.enqueue(10, tenant="big")
    state.enqueue(2, tenant="small")
    tenants = [entry["tenant"] for entry in state.claim_submit(4)[2]]
    assert sorted(tenants) == ["big", "big", "small", "small"]


def test_rate_is_kept_and_the_wait_is_exact(state: State) -> None:
    """At 5 permits/s and a burst of 1: one job now, the next in exactly 200 ms."""
    state.enqueue(3)
    rate = {"interval_us": 200_000, "burst": 1}
    next_in, _, taken = state.claim_submit(**rate)
    assert (len(taken), next_in) == (1, 200)
    state.now_ms += 199
    next_in, reason, taken = state.claim_submit(**rate)
    assert (len(taken), next_in, reason) == (0, 1, "permits")
    state.now_ms += 1
    assert len(state.claim_submit(**rate)[2]) == 1


def test_burst_is_refilled_but_never_exceeded(state: State) -> None:
    """After a long idle time at most `burst` permits are there."""
    state.enqueue(20)
    rate = {"interval_us": 200_000, "burst": 3, "lease_ms": 7_200_000}
    assert len(state.claim_submit(**rate)[2]) == 3
    state.now_ms += 3_600_000
    assert len(state.claim_submit(**rate)[2]) == 3


def test_a_late_claim_costs_the_rate_nothing(state: State) -> None:
    """Permits are given out 50 ms ahead, each for its own moment: claims that come late leave no moment unused."""
    state.enqueue(60)
    started_ms, moments_us = state.now_ms, []
    for late_ms in (0, 7, 20, 1, 0, 19, 3):
        state.now_ms += late_ms
        next_in, _, taken = state.claim_submit(interval_us=5000, burst=1, ahead_us=50_000)
        moments_us += [1000 * (state.now_ms - started_ms) + entry["moment_us"] for entry in taken]
        assert next_in == 25
        state.now_ms += next_in
    assert moments_us == list(range(0, 5000 * len(moments_us), 5000))
    assert moments_us[-1] >= 1000 * (state.now_ms - started_ms - 25)


def test_a_claim_that_is_too_late_does_not_catch_up(state: State) -> None:
    """What an absence leaves unused is gone: at no time are permits closer together than the rate allows."""
    state.enqueue(60)
    rate = {"interval_us": 5000, "burst": 1, "ahead_us": 50_000}
    first = [entry["moment_us"] for entry in state.claim_submit(**rate)[2]]
    assert first == [0, 5000, 10_000, 15_000, 20_000, 25_000, 30_000, 35_000, 40_000, 45_000, 50_000]
    state.now_ms += 1000
    assert [entry["moment_us"] for entry in state.claim_submit(**rate)[2]] == first


@pytest.mark.parametrize("burst", [1, 3])
def test_permits_ahead_keep_to_the_rate(state: State, burst: int) -> None:
    """Whenever claims come, and how many jobs they take: no more permits in any time than its length and the burst."""
    state.enqueue(150)
    rng, started_ms, moments_us = random.Random(7), state.now_ms, []
    for _ in range(60):
        taken = state.claim_submit(rng.randint(1, 9), interval_us=8000, burst=burst, ahead_us=50_000)[2]
        moments_us += [1000 * (state.now_ms - started_ms) + entry["moment_us"] for entry in taken]
        state.now_ms += rng.choice([0, 1, 9, 25, 60])
    assert len(moments_us) > 60
    gaps = [later - earlier for earlier, later in zip(moments_us, moments_us[burst:], strict=False)]
    assert min(gaps) >= 8000


def test_outstanding_posts_are_bounded(state: State) -> None:
    """The claim counts what is submitting, so that one outage makes at most max_posts unknowns."""
    state.enqueue(5)
    assert len(state.claim_submit(max_posts=3)[2]) == 3
    _, reason, taken = state.claim_submit(max_posts=3)
    assert (taken, reason) == ([], "posts")


def test_slots_bound_generations_and_free_themselves(state: State) -> None:
    """In-flight generations hold slots; a slot kept for an unknown job frees itself in time."""
    first, second = state.enqueue(2)
    (entry,) = state.claim_submit(max_slots=1)[2]
    assert entry["id"] == first
    assert state.claim_submit(max_slots=1)[1] == "slots"
    keep = Change(
        before=JobState.SUBMITTING,
        after=JobState.UNKNOWN,
        leave=(f"submit:{LANE}",),
        keep_slot=(LANE, 600_000),
    )
    state.apply(Transition(job_id=first, epoch=int(entry["epoch"]), changes=(keep,)))
    next_in, reason, _ = state.claim_submit(max_slots=1)
    assert (next_in, reason) == (600_000, "slots")
    state.now_ms += 600_000
    assert [each["id"] for each in state.claim_submit(max_slots=1)[2]] == [second]


def test_closed_lane_waits_exactly(state: State) -> None:
    """A 429 closes the lane for every worker until Retry-After; the job stays in its place."""
    state.enqueue(2)
    (entry,) = state.claim_submit(1)[2]
    again = Change(
        before=JobState.SUBMITTING,
        after=JobState.QUEUED,
        leave=(f"submit:{LANE}",),
        queue=True,
        release=True,
        free_slot=LANE,
    )
    note = (LANE, "close", 7000)
    state.apply(Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(again,), lane_note=note))
    next_in, reason, taken = state.claim_submit()
    assert (next_in, reason, taken) == (7000, "closed", [])
    state.now_ms += 7000
    assert state.claim_submit(1)[2][0]["id"] == entry["id"]


def test_a_429_halves_the_rate_which_climbs_again(state: State) -> None:
    """One 429 of several POSTs that were out together halves it once; half a minute later all of it is used again."""
    state.enqueue(20)
    rate = {"interval_us": 100_000, "burst": 1}
    state.claim_submit(1, **rate)
    nothing = Change(before=JobState.QUEUED, after=JobState.QUEUED)
    note = (LANE, "close", 1000)
    for _ in range(3):
        state.apply(Transition(job_id="job_none", changes=(nothing,), lane_note=note))
    state.now_ms += 1000
    assert state.claim_submit(5, **rate)[0] == 200
    state.now_ms += 15_000
    assert state.claim_submit(5, **rate)[0] == 134  # three quarters of ten a second
    state.now_ms += 15_000
    assert state.claim_submit(5, **rate)[0] == 100


def test_breaker_opens_after_a_run_and_probes_one_at_a_time(state: State) -> None:
    """Five ambiguous answers in a row stop submits; then one job at a time tries, and one success closes it."""
    state.enqueue(20)
    for _ in range(5):
        (entry,) = state.claim_submit(1)[2]
        note = (LANE, "ambiguous", 5000, 5)
        gone = Change(before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",))
        state.apply(
            Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(gone,), lane_note=note)
        )
    next_in, reason, taken = state.claim_submit()
    assert (next_in, reason, taken) == (5000, "blocked", [])
    state.now_ms += 5000
    (probe,) = state.claim_submit()[2]
    assert state.claim_submit()[2] == []
    state.intent(probe)
    accepted = Change(before=JobState.SUBMITTING, after=JobState.GENERATING, leave=(f"submit:{LANE}",))
    state.apply(Transition(job_id=probe["id"], intent_id="i1", changes=(accepted,), lane_note=(LANE, "ok")))
    assert len(state.claim_submit()[2]) == 14


def test_stuck_intents_open_the_breaker(state: State) -> None:
    """Five intents older than ten seconds stop submits before any answer comes."""
    state.enqueue(10)
    for entry in state.claim_submit(5)[2]:
        assert state.intent(entry, entry["id"]) is Applied.FIRST
    state.now_ms += 10_001
    assert state.claim_submit(lease_ms=60_000)[1] == "blocked"


def test_paused_lane_keeps_jobs_and_heals(state: State) -> None:
    """A wrong key pauses the lane, jobs stay queued; a probe after a while finds out whether it works again."""
    state.enqueue(5)
    (entry,) = state.claim_submit(1)[2]
    again = Change(
        before=JobState.SUBMITTING,
        after=JobState.QUEUED,
        leave=(f"submit:{LANE}",),
        queue=True,
        release=True,
        free_slot=LANE,
    )
    note = (LANE, "block", "invalid_api_key", 30_000)
    state.apply(Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(again,), lane_note=note))
    assert state.claim_submit()[:2] == (30_000, "blocked")
    assert state.count("*", "queued") == 5
    state.now_ms += 30_000
    (probe,) = state.claim_submit()[2]
    well = replace(again, queue=False, due_in=((f"later:{MODEL}", 1),))
    state.apply(
        Transition(job_id=probe["id"], epoch=int(probe["epoch"]), changes=(well,), lane_note=(LANE, "ok"))
    )
    (entry,) = state.claim_submit(1)[2]
    state.apply(Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(again,), lane_note=note))
    since = state.client.hget(state.keys.lane(LANE), "blocked_at")
    assert since == str(state.now_ms).encode(), "it says how long this block lasts, not the first one ever"


def test_not_before_waits_and_is_announced(state: State) -> None:
    """A job with not_before is invisible until then, and the claim says when to come back."""
    (job_id,) = state.enqueue(not_before_at=state.now_ms + 4000)
    next_in, _, taken = state.claim_submit()
    assert (next_in, taken) == (4000, [])
    state.now_ms += 4000
    assert [entry["id"] for entry in state.claim_submit()[2]] == [job_id]


def test_past_deadline_is_not_submitted(state: State) -> None:
    """A queued job whose own deadline has passed is left to the sweep, never sent."""
    (job_id,) = state.enqueue(deadline_at=state.now_ms + 1000)
    state.now_ms += 1001
    assert state.claim_submit()[2] == []
    assert state.client.zscore(state.keys.index("expiring"), job_id) is not None


def test_cancelled_job_is_never_claimed(state: State) -> None:
    """Cancelling a queued job takes it out of every index and costs nothing."""
    (job_id,) = state.enqueue()
    plan = plan_cancel(state.job(job_id))
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert state.claim_submit()[2] == []
    assert state.balances() == {}


def test_dead_holder_is_handed_over_once_with_its_intent(state: State) -> None:
    """After the lease a dead worker's job comes back marked expired, under a new epoch, still `submitting`."""
    state.enqueue()
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    state.now_ms += 12_000
    (taken,) = state.claim_submit(worker="w2")[2]
    assert (taken["expired"], taken["intent_id"], taken["state"]) == (1, "i1", "submitting")
    assert int(taken["epoch"]) > int(entry["epoch"])
    assert state.claim_submit(worker="w3")[2] == []
    assert state.intent(entry, "i2") is Applied.FENCED


def test_suspects_run_alone(state: State) -> None:
    """A suspect is taken only by a process that has none, and with nothing beside it."""
    first, second = state.enqueue(2)
    (entry,) = state.claim_submit(1)[2]
    back = Change(
        before=JobState.SUBMITTING, after=JobState.QUEUED, fields={"suspect": 1}, leave=(f"submit:{LANE}",),
        queue=True, free_slot=LANE, release=True,
    )  # fmt: skip
    state.apply(Transition(job_id=first, epoch=int(entry["epoch"]), changes=(back,)))
    assert [each["id"] for each in state.claim_submit(suspects=0)[2]] == [second]
    state.now_ms += 200
    assert [each["id"] for each in state.claim_submit(suspects=1)[2]] == [first]


def test_freeze_stops_submits(state: State) -> None:
    """`stop spending` gives no job out, for any lane."""
    state.enqueue()
    state.client.hset(state.keys.control, "freeze", "spending")
    assert state.claim_submit()[1:] == ("frozen", [])
