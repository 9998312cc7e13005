"""The table of design.md: what each answer to the POST makes of job, money, slot and lane."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from shared.jobs.commands import plan_cancel, plan_resolve
from shared.jobs.store import JobStore
from shared.jobs.transition import Applied
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.integration.stages.conftest import LANE, Answer, accepted, json_answer, raising
from workers import metrics
from workers.http import HttpxClient
from workers.stages.inputs import Inputs
from workers.stages.submit_plans import plan_intent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.stages.conftest import Works
    from workers.http import HttpFailure, HttpRequest, HttpResponse

pytestmark = pytest.mark.anyio


def error(status: int, code: Any, message: str = "m", **headers: str) -> Answer:
    return json_answer(status, {"error": {"code": code, "message": message, "type": "t"}}, **headers)


CASES: list[tuple[str, Answer, dict[str, Any]]] = [
    ("accepted", accepted(), {"state": "generating", "hold": 200_000, "slots": 1}),
    ("429", error(429, 429), {"state": "queued", "attempts": 0, "lane": "closed_until"}),
    ("429 billing", error(429, "PrepaidBillOverdue"), {"state": "queued", "lane": "blocked"}),
    ("401", error(401, 401), {"state": "queued", "lane": "blocked"}),
    ("402", error(402, 402), {"state": "queued", "lane": "blocked"}),
    ("403", error(403, 403), {"state": "queued", "lane": "blocked"}),
    ("get_channel_failed", error(503, "get_channel_failed"), {"state": "queued", "attempts": 1}),
    ("400", error(400, 400), {"state": "failed"}),
    ("413", error(413, 413), {"state": "failed"}),
    ("422", error(422, 422), {"state": "failed"}),
    ("build_request_failed", error(500, "build_request_failed", "invalid size"), {"state": "failed"}),
    ("bare 503", error(503, 503), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("500", error(500, 500, "oops"), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("502 html", lambda _: httpx.Response(502, html="<h1>bad gateway</h1>"), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("2xx without id", json_answer(200, {"code": "success", "data": []}), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("garbage", lambda _: httpx.Response(200, content=b"\xff\x00"), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("read timeout", raising(httpx.ReadTimeout("t")), {"state": "unknown", "hold": 200_000, "slots": 1}),
    ("connect error of a foreign transport", raising(httpx.ConnectError("c")), {"state": "unknown", "hold": 200_000, "slots": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_outcome(works: Works, answer: Answer, expected: dict[str, Any]) -> None:
    """One POST; then state, hold, slot, attempts and lane are what the table says."""
    job_id = works.enqueue()
    await works.submit(answer)
    job = works.job(job_id)
    assert len(works.requests) == 1
    assert job.state == expected["state"]
    assert job.hold_micros == expected.get("hold", 0)
    assert works.slots() == expected.get("slots", 0)
    assert job.attempts == expected.get("attempts", 0)
    record = works.lane_record()
    for field in ("closed_until", "blocked"):
        assert (field in record) == (expected.get("lane") == field)


async def test_an_intent_of_another_holder_is_not_overwritten(works: Works) -> None:
    """After a split of the servers two holders may have one epoch, each from its own side: only the first sends."""
    job_id = works.enqueue()
    works.answer = accepted()
    (entry,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
    theirs = plan_intent(entry, works.lane, "ab" * 16)
    assert await works.recorder.apply(theirs) is Applied.FIRST
    await works.submit_stage.handle(entry)
    assert works.requests == []
    assert works.state.client.hget(works.state.keys.job(job_id), "intent_id") == b"ab" * 16


async def test_an_intent_whose_answer_was_lost_is_written_again(works: Works) -> None:
    """The same one: it is the holder's own."""
    works.enqueue()
    (entry,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
    plan = plan_intent(entry, works.lane, "ab" * 16)
    assert [await works.recorder.apply(plan) for _ in range(2)] == [Applied.FIRST] * 2


async def test_an_error_with_a_generation_keeps_its_id_for_the_operator(works: Works) -> None:
    """A 429 is free, and sent again, unless it names what was made."""
    job_id = works.enqueue()
    await works.submit(json_answer(429, {"error": {"code": 429}, "data": [{"task_id": "task_9"}]}))
    job = works.job(job_id)
    assert (job.state, job.timeline[-1].note) == ("unknown", "outcome unknown: error_with_generation, task_9")
    assert works.state.client.hget(works.state.keys.job(job_id), "claimed_generation_id") == b"task_9"


async def test_unknown_is_never_sent_again(works: Works) -> None:
    """After an ambiguous answer nothing but an operator or a late id moves the job: no second POST."""
    job_id = works.enqueue()
    await works.submit(raising(httpx.ReadTimeout("t")))
    for _ in range(3):
        await works.submit(accepted())
    assert len(works.requests) == 1
    assert works.job(job_id).unknown_cause


class Unbuildable:
    """A client that is asked for what no client takes."""

    def __init__(self) -> None:
        self._client = HttpxClient()

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure:
        return await self._client.send(replace(request, url="no-url"))

    async def aclose(self) -> None:
        await self._client.aclose()


async def test_what_cannot_be_sent_fails_at_once(works: Works) -> None:
    """A request that our own client does not take will not get better: failed, free, and no word on the lane."""
    job_id = works.enqueue()
    works.state.client.hset(works.state.keys.lane(LANE), "ambiguous", 1)
    works.submit_stage._client = client = Unbuildable()
    await works.submit(accepted())
    await client.aclose()
    job = works.job(job_id)
    assert (job.state, job.error_code, job.hold_micros, job.cost_micros) == (
        "failed",
        "refused:unsendable",
        0,
        0,
    )
    assert job.error_message
    assert (works.requests, works.slots()) == ([], 0)
    assert works.lane_record()["ambiguous"] == "1"
    assert works.told.events[-1] == ("failed", job_id)
    assert works.armed[-1] == ("notify", "", 0)


async def with_input(works: Works, folder: Path) -> tuple[str, Path]:
    """Enqueue a job with an input in a store of its own; give the job and the input's file."""
    store = open_store(StorageSettings(url=f"file://{folder}"))
    await store.identity()  # as every worker does when it starts
    works.submit_stage._inputs = Inputs(store)
    key = store.put_input("acme", b"pixels", "image/png", "png")
    return works.enqueue(image_urls=(f"darkroom-input:{key}",)), folder / key


async def test_an_input_that_is_gone_fails_the_job(works: Works, tmp_path: Path) -> None:
    """Its store is there and does not have it: nothing is sent, and waiting would not help."""
    job_id, file = await with_input(works, tmp_path / "objects")
    file.unlink()
    await works.submit(accepted())
    job = works.job(job_id)
    assert (job.state, job.error_code, job.hold_micros, works.requests) == ("failed", "input_missing", 0, [])


async def test_a_store_that_is_gone_keeps_the_job(works: Works, tmp_path: Path) -> None:
    """A bucket that was removed, a disk that is not mounted: every queued job with an input would fail."""
    folder, away = tmp_path / "objects", tmp_path / "away"
    job_id, _ = await with_input(works, folder)
    folder.rename(away)
    folder.mkdir()  # what a mount point is without its disk
    await works.submit(accepted())
    job = works.job(job_id)
    assert (job.state, job.hold_micros, works.slots(), works.requests) == ("queued", 0, 0, [])
    folder.rmdir()
    away.rename(folder)
    works.state.client.zadd(works.state.keys.index("later:wan2.7-image"), {job_id: 0})
    await works.submit(accepted())
    assert works.job(job_id).state == "generating"
    assert json.loads(works.requests[0].content)["image_urls"] == ["data:image/png;base64,cGl4ZWxz"]


async def test_retry_after_closes_the_lane_and_is_clamped(works: Works) -> None:
    """An absurd Retry-After is cut to the configured cap."""
    works.enqueue()
    await works.submit(error(429, 429, **{"Retry-After": "999999999"}))
    seconds, micros = works.state.client.time()
    left_ms = int(works.lane_record()["closed_until"]) - (seconds * 1000 + micros // 1000)
    assert 290_000 < left_ms <= 300_000


NO_WAIT = {"0": "0", "a moment": "0.001", "passed": "Thu, 01 Jan 2026 00:00:00 GMT"}
DATE = "Thu, 01 Jan 2026 00:01:00 GMT"


@pytest.mark.parametrize("wait", NO_WAIT.values(), ids=NO_WAIT)
async def test_a_wish_for_no_wait_is_no_loop(works: Works, wait: str) -> None:
    """A lane without a rate would ask as fast as the answers come."""
    works.enqueue()
    await works.submit(error(429, 429, **{"Retry-After": wait, "Date": DATE}))
    claim = await works.submit_stage.claim(LANE, 10, suspects=False)
    assert (claim.entries, claim.reason) == ((), "closed")
    assert 800 < claim.next_in_ms <= 1000


@pytest.mark.parametrize("wait", NO_WAIT.values(), ids=NO_WAIT)
async def test_a_wish_for_no_wait_does_not_burn_the_attempts(works: Works, wait: str) -> None:
    """They are counted: all of them would be gone within a second of missing capacity."""
    job_id = works.enqueue()
    await works.submit(error(503, "get_channel_failed", **{"Retry-After": wait, "Date": DATE}))
    seconds, micros = works.state.client.time()
    due = works.state.client.zscore(works.state.keys.index("later:wan2.7-image"), job_id)
    assert due is not None
    assert due - (seconds * 1000 + micros // 1000) > 800


async def test_not_executed_is_bounded(works: Works) -> None:
    """A provider that never has capacity is asked submit_attempts times, then the job fails, free."""
    job_id = works.enqueue()
    for _ in range(works.settings.retry.submit_attempts):
        for key in works.state.client.scan_iter(works.state.keys.index("later:*")):
            members: Any = works.state.client.zrange(key, 0, -1)
            works.state.client.zadd(key, dict.fromkeys(members, 0))
        await works.submit(error(503, "get_channel_failed"))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "provider_unavailable", 0)
    assert len(works.requests) == works.settings.retry.submit_attempts


async def test_cancelled_during_the_post_is_still_attached(works: Works) -> None:
    """The owner cancels while the POST is in flight: cancelled at once, but the accepted id is kept and polled."""
    job_id = works.enqueue()

    def cancel_then_accept(request: httpx.Request) -> httpx.Response:
        store = JobStore(works.state.client, works.state.keys, works.settings.limits)
        store.change(job_id, plan_cancel)
        return accepted()(request)

    await works.submit(cancel_then_accept)
    job = works.job(job_id)
    assert (job.state, job.generation_id, job.accounting_open) == ("cancelled", "task_1", True)
    done = {"id": "task_1", "status": "completed", "result": {"images": [{"url": ["https://r.test/a.png"]}]}}
    await works.poll(json_answer(200, {"code": 200, "data": done}))
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.accounting_open) == (
        "cancelled",
        200_000,
        0,
        False,
    )
    assert works.slots() == 0


async def test_cancelled_during_a_refused_post_is_free(works: Works) -> None:
    """The same, but the provider refuses: the accounting closes at nothing."""
    job_id = works.enqueue()

    def cancel_then_refuse(request: httpx.Request) -> httpx.Response:
        store = JobStore(works.state.client, works.state.keys, works.settings.limits)
        store.change(job_id, plan_cancel)
        return error(400, 400)(request)

    await works.submit(cancel_then_refuse)
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.accounting_open) == ("cancelled", 0, 0, False)
    assert works.slots() == 0


@pytest.mark.parametrize("status", [400, 429], ids=["refused", "throttled"])
async def test_a_proof_after_a_cancel_and_a_lost_lease_leaves_nothing_unknown(
    works: Works, status: int
) -> None:
    """Cancelled during its POST, then given up by an heir; the holder wakes with the answer: free, and listed nowhere."""
    job_id = works.enqueue()
    unknown = works.state.keys.index("unknown")

    async def cancel_sleep_and_refuse(request: httpx.Request) -> httpx.Response:
        JobStore(works.state.client, works.state.keys, works.settings.limits).change(job_id, plan_cancel)
        works.state.client.zadd(works.state.keys.index(f"submit:{LANE}"), {job_id: 1})
        (taken_over,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
        await works.submit_stage.handle(taken_over)
        assert works.state.client.zscore(unknown, job_id) is not None
        return error(status, status)(request)

    await works.submit(cast("Answer", cancel_sleep_and_refuse))
    job = works.job(job_id)
    assert (job.state, job.hold_micros, job.accounting_open, job.unknown_cause) == (
        "cancelled",
        0,
        False,
        None,
    )
    assert works.state.client.zscore(unknown, job_id) is None
    assert works.slots() == 0


async def test_policy_fail_fails_but_keeps_the_hold(works: Works) -> None:
    """on_unknown = fail: failed for the owner, while the money waits for the truth."""
    job_id = works.enqueue(on_unknown="fail")
    await works.submit(raising(httpx.ReadTimeout("t")))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "unknown_outcome", 200_000)


@pytest.mark.parametrize("status", [400, 429], ids=["refused", "throttled"])
async def test_a_proof_after_the_policy_fail_gives_the_money_back(works: Works, status: int) -> None:
    """An heir gave it up and the policy failed it; the holder wakes and knows better: failed it stays, and free."""
    job_id = works.enqueue(on_unknown="fail")

    async def sleep_and_refuse(request: httpx.Request) -> httpx.Response:
        works.state.client.zadd(works.state.keys.index(f"submit:{LANE}"), {job_id: 1})
        (taken_over,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
        await works.submit_stage.handle(taken_over)
        assert (works.job(job_id).state, works.job(job_id).hold_micros) == ("failed", 200_000)
        return error(status, status)(request)

    await works.submit(cast("Answer", sleep_and_refuse))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.cost_micros) == ("failed", "unknown_outcome", 0)
    assert (job.hold_micros, job.accounting_open, job.unknown_cause) == (0, False, None)
    assert works.state.client.zscore(works.state.keys.index("unknown"), job_id) is None
    assert works.state.client.pttl(works.state.keys.job(job_id)) > 0
    assert works.slots() == 0
    assert [kind for kind, _ in works.told.events].count("failed") == 1


@pytest.mark.parametrize("policy", ["hold", "fail"])
async def test_a_proof_takes_back_what_an_operator_attached_to_an_ended_job(
    works: Works, policy: str
) -> None:
    """Then the provider refused it after all: there is no generation to ask for, and nothing to pay."""
    job_id = works.enqueue(on_unknown=policy)
    store = JobStore(works.state.client, works.state.keys, works.settings.limits)

    async def be_resolved_and_refused(request: httpx.Request) -> httpx.Response:
        if policy == "hold":
            store.change(job_id, plan_cancel)
        works.state.client.zadd(works.state.keys.index(f"submit:{LANE}"), {job_id: 1})
        (taken_over,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
        await works.submit_stage.handle(taken_over)
        store.change(job_id, lambda job: plan_resolve(job, "task_of_another", by="ops"))
        return error(400, 400)(request)

    await works.submit(cast("Answer", be_resolved_and_refused))
    assert works.job(job_id).generation_id is None
    assert works.state.client.zcard(works.state.keys.index(f"poll:{LANE}")) == 0
    assert (works.job(job_id).hold_micros, works.job(job_id).accounting_open) == (0, False)


async def test_policy_resubmit_once_is_armed_after_the_wait(works: Works) -> None:
    """on_unknown = resubmit_once: due for the sweep when the first POST cannot be in flight any more."""
    job_id = works.enqueue(on_unknown="resubmit_once")
    await works.submit(raising(httpx.ReadTimeout("t")))
    due = works.state.client.zscore(works.state.keys.index("resubmit"), job_id)
    job = works.job(job_id)
    assert due is not None
    assert job.intent_at is not None
    wait_ms = 1000 * (works.settings.worker.submit_timeout_s + works.settings.worker.resubmit_after_s)
    assert due >= job.intent_at + wait_ms


async def test_the_key_is_sent_and_nowhere_else(works: Works) -> None:
    """The POST carries the account's key; no key of Redis does."""
    works.enqueue()
    await works.submit(accepted())
    assert works.requests[0].headers["authorization"] == "Bearer canary-key"
    for key in works.state.client.scan_iter("*"):
        assert b"canary-key" not in (works.state.client.dump(key) or b"")


@pytest.mark.parametrize("answer", [accepted(), error(500, 500), error(400, 400)], ids=["200", "500", "400"])
async def test_a_post_that_ends_gives_its_place_to_the_next_job_at_once(works: Works, answer: Answer) -> None:
    """A claim that found no place for a POST is made again when one is free, not at the next tick."""
    account = works.lane.settings.model_copy(update={"max_outstanding_posts": 1})
    lane = replace(works.lane, settings=account)
    works.submit_stage._lanes = {LANE: lane}
    works.enqueue()
    works.enqueue()
    works.answer = answer
    (entry,) = (await works.submit_stage.claim(LANE, 10, suspects=True)).entries
    assert (await works.submit_stage.claim(LANE, 10, suspects=True)).reason == "posts"
    await works.submit_stage.handle(entry)
    assert works.armed.count(("submit", LANE, 0)) == 1


async def test_a_post_that_ends_wakes_nobody_if_there_was_a_place(works: Works) -> None:
    """Without a claim that was turned away there is nothing to look for."""
    works.enqueue()
    await works.submit(accepted())
    assert ("submit", LANE, 0) not in works.armed


async def test_a_claim_that_gets_no_permit_is_counted_with_its_reason(works: Works) -> None:
    """A lane that a 429 closed turns the next claim away; an empty queue is no refusal."""

    def refused(reason: str) -> float:
        labels = {"lane": LANE, "reason": reason}
        return metrics.registry.get_sample_value("darkroom_permits_refused_total", labels) or 0.0

    before = {reason: refused(reason) for reason in ("closed", "idle")}
    await works.submit(accepted())
    works.enqueue()
    await works.submit(error(429, 429))
    await works.submit(accepted())
    assert {reason: refused(reason) - count for reason, count in before.items()} == {"closed": 1, "idle": 0}
