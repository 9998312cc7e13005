"""What owners and operators do to jobs: cancel, resolve, resubmit, release, seal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from producers import BatchNotFound, Darkroom, InvalidRequest, JobNotFound, TransitionRefused
from tests.integration.producers.conftest import FOX, LANE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker


def brought_to(stage: str, darkroom: Darkroom, worker: FakeWorker) -> str:
    """Give a job in a state: queued, claimed (no intent), submitting, generating, storing or completed."""
    job_id = darkroom.enqueue(FOX, batch="b").job_id
    steps = ("claimed", "submitting", "generating", "storing", "completed")
    moves: tuple[Callable[[], object], ...] = (
        worker.claim,
        lambda: worker.intend(job_id),
        lambda: worker.accept(job_id, "generation-1"),
        lambda: worker.deliver(job_id),
        lambda: worker.complete(job_id),
    )
    for move in moves[: steps.index(stage) + 1 if stage in steps else 0]:
        move()
    return job_id


@pytest.mark.parametrize(
    ("stage", "outcome", "ends_as"),
    [
        ("queued", "free", "cancelled"),
        ("claimed", "free", "cancelled"),
        ("submitting", "billed_later", "cancelled"),
        ("generating", "billed_later", "cancelled"),
        ("storing", "billed", "cancelled"),
        ("completed", "already_ended", "completed"),
    ],
)
def test_cancel_says_what_it_costs(
    darkroom: Darkroom, worker: FakeWorker, stage: str, outcome: str, ends_as: str
) -> None:
    """Free before the intent; after it the owner is rid of the job, and accounting goes on."""
    job_id = brought_to(stage, darkroom, worker)
    result = darkroom.cancel(job_id)
    assert (result.outcome, result.job.state) == (outcome, ends_as)
    assert result.job.accounting_open is (outcome == "billed_later")
    assert darkroom.batch("b").counts[result.job.state] == 1
    assert darkroom.cancel(job_id).outcome == "already_ended"


def test_a_cancelled_job_is_never_claimed(darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """It leaves its queue with the cancel, and no money was ever held."""
    job_id = darkroom.enqueue(FOX).job_id
    darkroom.cancel(job_id)
    assert worker.claim() == []
    assert state.client.exists(state.keys.balances) == 0


def test_cancel_is_noted_with_who_did_it(darkroom: Darkroom) -> None:
    """The timeline names the person."""
    job = darkroom.cancel(darkroom.enqueue(FOX).job_id, by="ana@desk").job
    assert job.timeline[-1].note == "cancelled by ana@desk, free"


def test_concurrent_cancels_count_once(darkroom: Darkroom) -> None:
    """Ten at once: one cancels, nine find it done; the counts add up."""
    job_id = darkroom.enqueue(FOX).job_id
    with ThreadPoolExecutor(10) as pool:
        outcomes = [result.outcome for result in pool.map(darkroom.cancel, [job_id] * 10)]
    assert set(outcomes) <= {"free", "already_ended"}
    counts = darkroom.overview().counts
    assert (counts["queued"], counts["cancelled"]) == (0, 1)


def test_an_unknown_job_is_not_cancelled(darkroom: Darkroom, worker: FakeWorker) -> None:
    """It may be billed: the message names the commands that decide."""
    darkroom.enqueue(FOX)
    with pytest.raises(TransitionRefused, match="darkroom unknown resolve"):
        darkroom.cancel(worker.make_unknown())


def test_unknown_jobs_are_listed_oldest_first(darkroom: Darkroom, worker: FakeWorker) -> None:
    """With their cause and what is held for them."""
    darkroom.enqueue_many([FOX] * 3)
    ids = [worker.make_unknown() for _ in range(3)]
    jobs = darkroom.unknown()
    assert [job.id for job in jobs] == ids
    assert {(job.state, job.unknown_cause, job.hold_micros) for job in jobs} == {
        ("unknown", "timeout", 200_000)
    }
    assert [job.id for job in darkroom.unknown(limit=2)] == ids[:2]
    assert darkroom.overview().unknown == 3


def test_resolve_attaches_the_generation(darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """The job goes on: it is polled, in the lane that submitted it. A second resolve changes nothing."""
    darkroom.enqueue(FOX)
    job_id = worker.make_unknown()
    job = darkroom.resolve(job_id, "generation-7", by="ana@desk")
    assert (job.state, job.generation_id) == ("generating", "generation-7")
    assert "ana@desk" in job.timeline[-1].note
    assert state.client.zrange(state.keys.index(f"poll:{LANE}"), 0, -1) == [job_id.encode()]
    assert darkroom.unknown() == []
    assert darkroom.resolve(job_id, "generation-7").state == "generating"


def test_no_two_jobs_share_a_generation(darkroom: Darkroom, worker: FakeWorker) -> None:
    """The second is told so, and stays unknown."""
    darkroom.enqueue_many([FOX] * 2)
    first, second = worker.make_unknown(), worker.make_unknown()
    darkroom.resolve(first, "generation-7")
    with pytest.raises(TransitionRefused, match="belongs to another job"):
        darkroom.resolve(second, "generation-7")
    assert darkroom.get(second).state == "unknown"


@pytest.mark.parametrize("generation_id", ["", "a b", "x" * 300, "\n"])
def test_resolve_wants_a_plausible_id(darkroom: Darkroom, generation_id: str) -> None:
    """A slip of the hand is refused before anything is read."""
    with pytest.raises(InvalidRequest, match="generation_id"):
        darkroom.resolve("job_1", generation_id)


def test_resubmit_waits_until_the_first_post_must_be_over(darkroom: Darkroom, worker: FakeWorker) -> None:
    """Before intent + timeout + 60 s it is refused, and the message says when to come back."""
    darkroom.enqueue(FOX)
    with pytest.raises(TransitionRefused, match=r"Resubmit it in 1\d\d s"):
        darkroom.resubmit(worker.make_unknown())


def test_resubmit_queues_again_and_marks_the_doubt(
    darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """After that time the job is queued; its first hold stays in doubt."""
    darkroom.enqueue(FOX)
    job_id = worker.make_unknown()
    state.client.hincrby(state.keys.job(job_id), "intent_at", -130_000)
    job = darkroom.resubmit(job_id)
    assert (job.state, job.hold_micros) == ("queued", 0)
    assert "second charge is possible" in job.timeline[-1].note
    assert state.client.hget(state.keys.balances, "CNY|doubt:default") == b"200000"
    assert worker.claim() == [job_id]


def test_release_gives_the_money_back(darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """The job fails, its hold is free, its batch can complete."""
    darkroom.enqueue_many([FOX], batch="b")
    job_id = worker.make_unknown()
    job = darkroom.release(job_id)
    assert (job.state, job.error_code) == ("failed", "released")
    assert state.client.hget(state.keys.balances, "CNY|held:default") == b"0"
    assert darkroom.batch("b").completed_at is not None
    assert darkroom.release(job_id).state == "failed"


@pytest.mark.parametrize("verb", ["resubmit", "release"])
def test_only_unknown_jobs_are_decided_on(darkroom: Darkroom, verb: str) -> None:
    """A job whose outcome is known needs no decision."""
    job_id = darkroom.enqueue(FOX).job_id
    with pytest.raises(TransitionRefused, match="only a job with an unknown outcome"):
        getattr(darkroom, verb)(job_id)


def test_what_is_not_there_cannot_be_changed(darkroom: Darkroom) -> None:
    """Each says which job or batch."""
    with pytest.raises(JobNotFound, match="job_nope"):
        darkroom.cancel("job_nope")
    with pytest.raises(BatchNotFound, match="nothing"):
        darkroom.seal("nothing")
    with pytest.raises(BatchNotFound, match="nothing"):
        darkroom.batch("nothing")


def test_overview_tells_of_lanes_and_workers(darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """A wrong key shows as a blocked lane, a 429 as a closed one; jobs stay counted."""
    darkroom.enqueue_many([FOX] * 3)
    worker.claim()
    now_ms = darkroom.now_ms()
    lane = state.keys.lane(LANE)
    state.client.hset(
        lane, mapping={"blocked": "invalid_api_key", "blocked_at": now_ms, "probe_at": now_ms + 5000}
    )
    other = state.keys.lane("default/wan2.7-image-pro")
    state.client.hset(other, mapping={"closed_until": now_ms + 60_000, "throttled": 2})
    state.client.zadd(state.keys.workers, {"w1": now_ms, "w2": now_ms - 3_600_000})
    overview = darkroom.overview()
    assert overview.workers == ("w1",)
    assert (overview.counts["queued"], overview.counts["submitting"]) == (2, 1)
    first, second = overview.lanes
    assert (first.condition(overview.at_ms), first.blocked, first.in_flight) == (
        "blocked",
        "invalid_api_key",
        1,
    )
    assert (second.condition(overview.at_ms), second.throttled) == ("closed", 2)
    assert second.condition(overview.at_ms + 61_000) == "open"
