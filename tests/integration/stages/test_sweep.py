"""What ends by time alone: deadlines, the policy resubmit_once, idle and stalled batches, slots, dead workers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from producers.redrives import redrive
from producers.selection import Selection
from shared.errors import TransitionRefused
from shared.jobs.commands import plan_release
from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.schema import SCHEMA
from shared.jobs.store import AsyncJobStore, JobStore
from shared.redis.looks import Look, look
from shared.redis.scripts import run
from tests.integration.stages.conftest import LANE, Works, accepted, json_answer, raising
from workers.stages.stage import Shop
from workers.stages.stopping import AGAIN_MS, SELDOM_MS
from workers.stages.sweep import AT_ONCE, Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shared.jobs.job import Job
    from shared.jobs.transition import Applied, Transition
    from tests.conftest import State
    from tests.integration.stages.conftest import Answer

pytestmark = pytest.mark.anyio

PRICE = 200_000
FAR_AWAY_MS = 9_000_000_000_000
WEBHOOK = "https://consumer.test/hook"


class Tended(Works):
    """Stages, and the sweep that looks after them."""

    async def open(self) -> None:
        await super().open()
        jobs = AsyncJobStore(self.client, self.state.keys, self.settings.limits)
        shop = Shop(
            self.recorder, self.submit_stage._shop.claims, self.told, lambda *told: self.armed.append(told)
        )
        self.sweep = Sweep(self.client, self.state.keys, jobs, self.settings, shop)

    def enqueue_batch(self, name: str, count: int = 1, *, webhook: str = WEBHOOK, **params: Any) -> list[str]:
        ids = list(new_job_ids(count))
        request = json.dumps({"model": "wan2.7-image", "n": 1, "prompt": "a"}).encode()
        args = [
            part
            for job_id in ids
            for part in job_arguments(job_id, request, "fp", "wan2.7-image", 1, False, JobParams(**params))
        ]
        header = header_json("acme", name, webhook, self.settings.limits)
        assert run(self.state.client, "enqueue_jobs", self.state.keys.prefix, header, *args) == [0] * count
        return ids

    def now_ms(self) -> int:
        seconds, micros = self.state.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def submit_first(self, answer: Answer) -> None:
        """Submit the job whose turn it is."""
        self.answer = answer
        (entry,) = (await self.submit_stage.claim(LANE, 1, suspects=True)).entries
        await self.submit_stage.handle(entry)

    def due(self, index: str) -> dict[str, float]:
        """What waits in an index, and until when."""
        found: Any = self.state.client.zrange(self.state.keys.index(index), 0, -1, withscores=True)
        return {member.decode(): score for member, score in found}

    def let_pass(self, index: str, member: str) -> None:
        """Let the time of one entry have come."""
        self.state.client.zadd(self.state.keys.index(index), {member: 1})

    def let_intent_age(self, job_id: str) -> None:
        """Let the POST be so long ago that it cannot be in flight any more."""
        key = self.state.keys.job(job_id)
        worker = self.settings.worker
        self.state.client.hincrby(
            key, "intent_at", -int(1000 * (worker.submit_timeout_s + worker.resubmit_after_s))
        )

    def batch(self, name: str) -> dict[str, str]:
        found: Any = self.state.client.hgetall(self.state.keys.batch("acme", name))
        return {key.decode(): value.decode() for key, value in found.items()}

    def events(self) -> list[str]:
        """Types of the events that wait for delivery."""
        keys = self.state.keys
        found: Any = [self.state.client.hget(keys.delivery(each), "event") for each in self.due("notify")]
        return sorted(event.decode() for event in found)

    async def unknown(self, **params: Any) -> str:
        job_id = self.enqueue(**params)
        await self.submit(raising(httpx.ReadTimeout("t")))
        assert self.job(job_id).state == "unknown"
        return job_id

    def closed_at(self, balance: str) -> int:
        return int(self.state.client.hget(self.state.keys.balances, f"CNY|{balance}") or 0)


@pytest.fixture
async def tended(state: State) -> AsyncIterator[Tended]:
    state.owned.append("*")
    storage = state.settings.storage.model_copy(update={"url": "off"})
    bench = Tended(state, state.settings.model_copy(update={"storage": storage}))
    await bench.open()
    yield bench
    await bench.close()


# --- deadlines


@pytest.mark.parametrize("not_before_at", [0, FAR_AWAY_MS - 1], ids=["queued", "waiting for its time"])
async def test_a_deadline_ends_the_wait_free(tended: Tended, not_before_at: int) -> None:
    """Failed as expired, out of its queue, announced; nothing was held and nothing will be sent."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS, not_before_at=not_before_at, webhook=WEBHOOK)
    tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    job = tended.job(job_id)
    assert (job.state, job.error_code, job.cost_micros, job.hold_micros) == ("failed", "expired", 0, 0)
    assert job.error_message
    assert (tended.due("expiring"), tended.due("later:wan2.7-image")) == ({}, {})
    assert (tended.told.events, tended.events()) == ([("failed", job_id)], ["image.failed"])
    assert ("notify", "", 0) in tended.armed
    await tended.submit(accepted())
    assert tended.requests == []


async def test_what_has_time_left_is_left_alone(tended: Tended) -> None:
    """A deadline in the future is no reason for anything."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS)
    await tended.sweep.run()
    assert tended.job(job_id).state == "queued"
    assert tended.due("expiring") == {job_id: FAR_AWAY_MS}
    assert tended.told.events == []


async def test_what_was_submitted_in_time_finishes(tended: Tended) -> None:
    """After the intent the deadline counts no more: its entry is taken out, the job goes on."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS)
    await tended.submit(accepted())
    tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    assert (tended.job(job_id).state, tended.due("expiring")) == ("generating", {})


async def test_a_deadline_that_passes_during_a_submit_is_not_forgotten(tended: Tended) -> None:
    """The POST is under way, so the sweep lets it; the provider refuses it for now: then the job expires."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS)
    claim = await tended.submit_stage.claim(LANE, 1, suspects=True)
    tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    assert tended.job(job_id).state == "submitting"
    tended.answer = json_answer(429, {"error": {"code": 429, "message": "m"}})
    await tended.submit_stage.handle(claim.entries[0])
    assert tended.job(job_id).state == "queued"
    await tended.sweep.run()
    job = tended.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "expired", 0)


async def test_a_deadline_is_kept_by_a_job_that_comes_back_from_unknown(tended: Tended) -> None:
    """Given up by an heir, then proved not executed by its holder: it waits again, and for no longer than it may."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS)
    submits = tended.state.keys.index(f"submit:{LANE}")

    async def sleep_and_be_throttled(request: httpx.Request) -> httpx.Response:
        tended.state.client.zadd(submits, {job_id: 1})
        (taken_over,) = (await tended.submit_stage.claim(LANE, 1, suspects=True)).entries
        await tended.submit_stage.handle(taken_over)
        assert tended.job(job_id).state == "unknown"
        return json_answer(429, {"error": {"code": 429, "message": "m"}})(request)

    await tended.submit(cast("Answer", sleep_and_be_throttled))
    assert tended.job(job_id).state == "queued"
    assert tended.due("expiring") == {job_id: FAR_AWAY_MS}


async def test_a_job_that_is_gone_leaves_the_index(tended: Tended) -> None:
    """A record that was removed is not looked for every second, for ever."""
    tended.let_pass("expiring", "job_gone")
    tended.let_pass("resubmit", "job_gone")
    await tended.sweep.run()
    assert (tended.due("expiring"), tended.due("resubmit")) == ({}, {})


async def test_one_sweep_is_bounded_and_the_next_goes_on(tended: Tended) -> None:
    """However many expire at once: some per sweep, all in the end, each told once."""
    ids = tended.enqueue_batch("b", AT_ONCE + 5, webhook="", deadline_at=FAR_AWAY_MS)
    for job_id in ids:
        tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    assert len(tended.due("expiring")) == 5
    await tended.sweep.run()
    assert tended.due("expiring") == {}
    assert sorted(tended.told.events) == sorted(("failed", job_id) for job_id in ids)
    assert tended.batch("b")["n:failed"] == str(len(ids))


class Moving:
    """Jobs that change under the one who reads them, once; then as they are."""

    def __init__(self, jobs: AsyncJobStore) -> None:
        self._jobs, self.refused = jobs, 0

    async def change(
        self, job_id: str, plan: Callable[[Job], Transition | None]
    ) -> tuple[Job, Applied | None]:
        if not self.refused:
            self.refused += 1
            raise TransitionRefused(f"job {job_id} keeps changing")
        return await self._jobs.change(job_id, plan)


@pytest.mark.parametrize("index", ["expiring", "resubmit"])
async def test_what_keeps_changing_is_tried_again(tended: Tended, index: str) -> None:
    """A job that moved under the sweep keeps its place in the index: the next sweep does it."""
    if index == "expiring":
        job_id, after = tended.enqueue(deadline_at=FAR_AWAY_MS), "failed"
    else:
        job_id, after = await tended.unknown(on_unknown="resubmit_once"), "queued"
        tended.let_intent_age(job_id)
    tended.let_pass(index, job_id)
    tended.sweep._jobs = moving = Moving(tended.sweep._jobs)  # type: ignore[assignment]  # stands in for it
    await tended.sweep.run()
    assert moving.refused == 1
    assert job_id in tended.due(index)
    await tended.sweep.run()
    assert (tended.job(job_id).state, tended.due(index)) == (after, {})


class Slow:
    """Jobs on a state server that takes its time: each change waits for the test."""

    def __init__(self, jobs: AsyncJobStore) -> None:
        self._jobs, self.asked = jobs, 0
        self.waits, self.answers = asyncio.Event(), asyncio.Event()

    async def change(
        self, job_id: str, plan: Callable[[Job], Transition | None]
    ) -> tuple[Job, Applied | None]:
        self.asked += 1
        self.waits.set()
        await self.answers.wait()
        return await self._jobs.change(job_id, plan)


async def test_sweeps_of_one_process_do_not_pile_up(tended: Tended) -> None:
    """One is wanted every second, however long each takes: what asks while one runs leaves the work to it."""
    ids = tended.enqueue_batch("b", 3, webhook="", deadline_at=FAR_AWAY_MS)
    for job_id in ids:
        tended.let_pass("expiring", job_id)
    tended.sweep._jobs = slow = Slow(tended.sweep._jobs)  # type: ignore[assignment]  # stands in for it
    first = asyncio.create_task(tended.sweep.run())
    await slow.waits.wait()
    slow.waits.clear()
    second = asyncio.create_task(tended.sweep.run())
    await asyncio.wait({second, asyncio.create_task(slow.waits.wait())}, return_when=asyncio.FIRST_COMPLETED)
    slow.answers.set()
    await asyncio.gather(first, second)
    assert (slow.asked, tended.due("expiring")) == (len(ids), {})
    await tended.sweep.run()
    assert slow.asked == len(ids)


# --- the policy resubmit_once


async def test_resubmit_once_is_once(tended: Tended) -> None:
    """Queued again when the first POST cannot be in flight: its money in doubt, told; the next time it stays unknown."""
    job_id = await tended.unknown(on_unknown="resubmit_once")
    tended.let_intent_age(job_id)
    tended.let_pass("resubmit", job_id)
    await tended.sweep.run()
    job = tended.job(job_id)
    assert (job.state, job.hold_micros, job.intent_id, job.unknown_cause) == ("queued", 0, None, None)
    assert (tended.due("resubmit"), tended.due("unknown"), tended.slots()) == ({}, {}, 0)
    assert (tended.closed_at("held:acme"), tended.closed_at("doubt:acme")) == (0, PRICE)
    assert tended.told.events[-1] == ("retried", job_id)
    await tended.submit(raising(httpx.ReadTimeout("t")))
    assert (tended.job(job_id).state, tended.due("resubmit")) == ("unknown", {})
    await tended.sweep.run()
    assert len(tended.requests) == 2


async def test_no_resubmit_while_the_first_post_may_be_in_flight(tended: Tended) -> None:
    """Whatever the index says, the record's intent decides: it is looked at again, and nothing is sent."""
    job_id = await tended.unknown(on_unknown="resubmit_once")
    tended.let_pass("resubmit", job_id)
    await tended.sweep.run()
    assert tended.job(job_id).state == "unknown"
    assert job_id in tended.due("resubmit")


async def test_a_resolved_job_is_not_resubmitted(tended: Tended) -> None:
    """Its id turned up in the meantime: the policy has nothing to do any more."""
    job_id = await tended.unknown(on_unknown="resubmit_once")
    tended.let_intent_age(job_id)
    tended.state.client.hset(tended.state.keys.job(job_id), "state", "generating")
    tended.let_pass("resubmit", job_id)
    await tended.sweep.run()
    assert (tended.job(job_id).state, tended.due("resubmit")) == ("generating", {})


async def test_other_policies_are_not_resubmitted(tended: Tended) -> None:
    """Hold is the default: nothing is armed."""
    await tended.unknown()
    assert tended.due("resubmit") == {}


# --- the policy fail


async def test_the_policy_fail_survives_its_worker(tended: Tended, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker died right after it had recorded the unknown outcome: the sweep fails the job, and keeps its money."""
    job_id = tended.enqueue(on_unknown="fail", webhook=WEBHOOK)
    monkeypatch.setattr(tended.submit_stage, "_became_unknown", nothing)  # where it died
    await tended.submit(raising(httpx.ReadTimeout("t")))
    assert tended.job(job_id).state == "unknown"
    tended.let_pass("giving_up", job_id)
    await tended.sweep.run()
    job = tended.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "unknown_outcome", PRICE)
    assert (job.accounting_open, tended.due("giving_up"), list(tended.due("unknown"))) == (True, {}, [job_id])
    assert tended.events() == ["image.failed", "image.unknown"]
    assert tended.told.events[-1] == ("failed", job_id)


async def nothing(*_: object) -> None:
    """What a dead worker does."""


async def test_the_policy_fail_holds_for_a_generation_of_another_job(tended: Tended) -> None:
    """The provider names a generation that another job has: that outcome is unknown, too."""
    owner = tended.enqueue()
    await tended.submit(accepted())
    job_id = tended.enqueue(on_unknown="fail")
    await tended.submit(accepted())
    tended.let_pass("giving_up", job_id)
    await tended.sweep.run()
    job = tended.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "unknown_outcome", PRICE)
    assert tended.job(owner).state == "generating"


@pytest.mark.parametrize("policy", ["hold", "fail"])
async def test_the_policy_fail_leaves_alone_what_is_known_or_to_be_held(tended: Tended, policy: str) -> None:
    """An entry says look, not fail: the record decides."""
    job_id = await tended.unknown()
    if policy == "fail":
        tended.state.client.hset(
            tended.state.keys.job(job_id), mapping={"on_unknown": policy, "state": "queued"}
        )
    tended.let_pass("giving_up", job_id)
    await tended.sweep.run()
    assert tended.job(job_id).state == ("queued" if policy == "fail" else "unknown")
    assert tended.due("giving_up") == {}


# --- batches


async def test_an_idle_batch_is_sealed_and_completed(tended: Tended) -> None:
    """All its jobs had ended, but it was open: sealing it by time announces it, once."""
    (job_id,) = tended.enqueue_batch("b", deadline_at=FAR_AWAY_MS)
    tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    assert "completed_at" not in tended.batch("b")
    tended.let_pass("batches", "acme:b")
    for _ in range(2):
        await tended.sweep.run()
    batch = tended.batch("b")
    assert (batch["sealed"], "completed_at" in batch, tended.events()) == ("1", True, ["batch.completed"])
    assert tended.due("batches") == {}
    with pytest.raises(AssertionError, match=r"\[5\]"):
        tended.enqueue_batch("b")


async def test_an_idle_batch_with_jobs_is_sealed_and_waits(tended: Tended) -> None:
    """Sealed, but not complete: the event waits for its last job."""
    (job_id,) = tended.enqueue_batch("b", deadline_at=FAR_AWAY_MS)
    tended.let_pass("batches", "acme:b")
    await tended.sweep.run()
    assert (tended.batch("b")["sealed"], tended.events()) == ("1", [])
    tended.let_pass("expiring", job_id)
    await tended.sweep.run()
    assert tended.events() == ["batch.completed"]


async def test_a_batch_in_use_stays_open(tended: Tended) -> None:
    """Each chunk moves the idle time on."""
    tended.enqueue_batch("b")
    first = tended.due("batches")["acme:b"]
    tended.let_pass("batches", "acme:b")
    tended.enqueue_batch("b")
    await tended.sweep.run()
    assert "sealed" not in tended.batch("b")
    assert tended.due("batches")["acme:b"] >= first


async def test_a_batch_that_is_gone_leaves_the_index(tended: Tended) -> None:
    """Its hash has expired: nothing is created anew for it."""
    for index in ("batches", "stalling"):
        tended.let_pass(index, "acme:gone")
    await tended.sweep.run()
    assert (tended.due("batches"), tended.due("stalling"), tended.batch("gone")) == ({}, {}, {})


async def stalled(tended: Tended) -> str:
    """Give the unknown job of a sealed batch whose other job has ended."""
    unknown, other = tended.enqueue_batch("b", 2, deadline_at=FAR_AWAY_MS)
    tended.state.client.zadd(tended.state.keys.queue("wan2.7-image", "acme"), {unknown: 1, other: 2})
    claim = await tended.submit_stage.claim(LANE, 1, suspects=True)
    tended.answer = raising(httpx.ReadTimeout("t"))
    await tended.submit_stage.handle(claim.entries[0])
    tended.let_pass("expiring", other)
    tended.let_pass("batches", "acme:b")
    await tended.sweep.run()
    assert (tended.job(unknown).state, tended.job(other).state) == ("unknown", "failed")
    return unknown


async def test_a_batch_with_only_unknown_jobs_left_is_stalled(tended: Tended) -> None:
    """Not at once, but after its time; told once; and it still completes when the unknown job has ended."""
    unknown = await stalled(tended)
    seconds, _ = tended.state.client.time()
    left_s = tended.due("stalling")["acme:b"] / 1000 - seconds
    assert 0 < left_s <= tended.settings.limits.batch_stalled_s + 1
    await tended.sweep.run()
    assert tended.events() == []
    tended.let_pass("stalling", "acme:b")
    for _ in range(2):
        await tended.sweep.run()
    assert (tended.events(), tended.due("stalling")) == (["batch.stalled"], {})
    assert "completed_at" not in tended.batch("b")
    tended.state.client.hdel(tended.state.keys.lane(LANE), "ambiguous", "probe_at")
    store = JobStore(tended.state.client, tended.state.keys, tended.settings.limits)
    store.change(unknown, lambda job: plan_release(job, by="ops"))
    assert tended.events() == ["batch.completed", "batch.stalled"]


# --- what the scripts of claims and looks end by time


async def test_a_slot_frees_itself_in_time(tended: Tended) -> None:
    """An unknown job keeps its slot for generation_max_s; then the next job may go, and the money stays held."""
    account = tended.lane.settings.model_copy(update={"max_in_flight": 1})
    tended.submit_stage._lanes = {LANE: replace(tended.lane, settings=account)}
    unknown = await tended.unknown()
    following = tended.enqueue()
    claim = await tended.submit_stage.claim(LANE, 10, suspects=True)
    assert (claim.entries, claim.reason) == ((), "slots")
    assert 0 < claim.next_in_ms <= 1000 * tended.settings.worker.generation_max_s
    tended.state.client.zadd(tended.state.keys.slots(LANE), {unknown: 1})
    await tended.submit(accepted())
    assert tended.job(following).state == "generating"
    assert tended.job(unknown).hold_micros == PRICE


async def test_a_blocked_lane_is_probed_and_heals(tended: Tended) -> None:
    """A wrong key pauses the lane; when its time has come one job is tried, and its success opens it for all."""
    ids = [tended.enqueue() for _ in range(3)]
    lane = tended.state.keys.lane(LANE)
    tended.answer = json_answer(401, {"error": {"code": 401, "message": "m"}})
    claim = await tended.submit_stage.claim(LANE, 1, suspects=True)
    await tended.submit_stage.handle(claim.entries[0])
    assert tended.lane_record()["blocked"] == "invalid_api_key"
    blocked = await tended.submit_stage.claim(LANE, 10, suspects=True)
    assert (blocked.entries, blocked.reason) == ((), "blocked")
    tended.state.client.hset(lane, "probe_at", 1)
    await tended.submit(accepted("task_1"))
    assert len(tended.requests) == 2
    assert "blocked" not in tended.lane_record()
    numbers = iter(range(2, 9))

    def next_accepted(request: httpx.Request) -> httpx.Response:
        return accepted(f"task_{next(numbers)}")(request)

    await tended.submit(next_accepted)
    assert {tended.job(job_id).state for job_id in ids} == {"generating"}


def look_at(tended: Tended, worker: str, *, sweep: bool = False) -> tuple[int, bool]:
    alive, elected, _ = look(
        tended.state.client, tended.state.keys, [Look("notify", "", "")],
        worker=worker, alive_ms=12_000, hint_ttl_ms=250, k=100, sweep=sweep,
    )  # fmt: skip
    return alive, elected


async def test_dead_workers_are_forgotten(tended: Tended) -> None:
    """Who gave no sign of life for a lease does not count any more, and no key of his grows old."""
    workers = tended.state.keys.workers
    tended.state.client.zadd(workers, {"w-dead": 1})
    assert look_at(tended, "w1")[0] == 1
    assert look_at(tended, "w2")[0] == 2
    left: Any = tended.state.client.zrange(workers, 0, -1)
    assert {name.decode() for name in left} == {"w1", "w2"}


async def test_one_worker_sweeps_and_only_if_something_is_due(tended: Tended) -> None:
    """Of many that look within a second one is elected; with nothing due nobody is."""
    job_id = tended.enqueue(deadline_at=FAR_AWAY_MS)
    assert not look_at(tended, "w1", sweep=True)[1]
    tended.let_pass("expiring", job_id)
    assert not look_at(tended, "w1", sweep=False)[1]
    assert [look_at(tended, name, sweep=True)[1] for name in ("w1", "w2", "w1")] == [True, False, False]


# --- redriven jobs


async def test_a_job_put_back_is_told_of_while_it_waits(tended: Tended) -> None:
    """Flower hears of the retry once, without a worker that takes the job."""
    job_id = tended.enqueue()
    await tended.submit(json_answer(400, {"error": {"code": 400, "message": "no"}}))
    assert redrive(tended.settings, Selection(ids=(job_id,)), by="anna").done == 1
    tended.told.events.clear()
    await tended.sweep.run()
    await tended.sweep.run()
    assert tended.told.events == [("retried", job_id)]
    assert tended.due("told") == {}


# --- batches that reached a cap of their own


async def test_a_stopped_batch_is_gone_through_seldom_while_only_a_person_can_end_it(tended: Tended) -> None:
    """What may come back in a second is looked for every second; an unknown outcome may take days, and be one of 100,000."""
    unknown, posting, queued = tended.enqueue_batch("b", 3, webhook="")
    await tended.submit_first(raising(httpx.ReadTimeout("t")))
    (claimed,) = (await tended.submit_stage.claim(LANE, 1, suspects=True)).entries
    assert claimed.id == posting
    tended.state.client.hset(tended.state.keys.batch("acme", "b"), "stopped", "max_cost")
    tended.let_pass("stopping", "acme:b")
    await tended.sweep.run()
    assert tended.job(queued).state == "cancelled"
    assert tended.due("stopping")["acme:b"] - tended.now_ms() <= AGAIN_MS
    tended.answer = json_answer(400, {"error": {"code": 400, "message": "no"}})
    await tended.submit_stage.handle(claimed)
    tended.let_pass("stopping", "acme:b")
    await tended.sweep.run()
    assert tended.due("stopping")["acme:b"] - tended.now_ms() > SELDOM_MS / 2
    release = plan_release(tended.job(unknown), by="ops")
    assert release is not None
    await tended.recorder.apply(release)
    tended.let_pass("stopping", "acme:b")
    await tended.sweep.run()
    assert tended.due("stopping") == {}
    assert "completed_at" in tended.batch("b")


async def test_a_batch_of_a_later_version_does_not_end_the_sweep(tended: Tended) -> None:
    """A job that this process cannot read is for others; whatever else is due is done."""
    (newer,), (queued,) = tended.enqueue_batch("a", webhook=""), tended.enqueue_batch("b", webhook="")
    tended.state.client.hset(tended.state.keys.job(newer), "v", SCHEMA + 1)
    for name in "ab":
        tended.state.client.hset(tended.state.keys.batch("acme", name), "stopped", "max_cost")
        tended.let_pass("stopping", f"acme:{name}")
    await tended.sweep.run()
    assert tended.job(queued).state == "cancelled"
    assert (
        tended.state.client.hget(tended.state.keys.job(newer), "state"),
        "acme:a" in tended.due("stopping"),
    ) == (
        b"queued",
        True,
    )
