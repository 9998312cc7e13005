"""What each answer to a poll makes of the job and its money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.integration.stages.conftest import accepted, json_answer, raising

if TYPE_CHECKING:
    from tests.integration.stages.conftest import Works

pytestmark = pytest.mark.anyio

PRICE = 200_000


def task(status: str, **more: Any) -> Any:
    return json_answer(200, {"code": 200, "data": {"id": "task_1", "status": status, **more}})


def images(count: int) -> dict[str, Any]:
    return {
        "images": [{"url": [f"https://r.test/{at}.png"], "expires_at": 2_000_000_000} for at in range(count)]
    }


async def generating(works: Works, n: int = 1) -> str:
    job_id = works.enqueue(n=n)
    await works.submit(accepted())
    assert works.job(job_id).state == "generating"
    return job_id


async def test_completed_is_settled_and_announced(works: Works) -> None:
    """All images came: settled at the price, slot free, event told."""
    job_id = await generating(works, n=2)
    await works.poll(task("completed", result=images(2)))
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.partial) == ("completed", 2 * PRICE, 0, False)
    assert [artifact.url for artifact in job.artifacts] == ["https://r.test/0.png", "https://r.test/1.png"]
    assert works.slots() == 0
    assert works.told.events[-1] == ("succeeded", job_id)


async def test_fewer_images_are_partial_and_billed_as_delivered(works: Works) -> None:
    """Two of four came: completed, partial, settled at two."""
    job_id = await generating(works, n=4)
    await works.poll(task("completed", result=images(2)))
    job = works.job(job_id)
    assert (job.state, job.partial, job.cost_micros) == ("completed", True, 2 * PRICE)


async def test_more_images_than_asked_for_are_kept_and_not_paid(works: Works) -> None:
    """The provider charges n in advance, and no cap was asked for more: all come, and n are settled."""
    job_id = await generating(works)
    await works.poll(task("completed", result=images(3)))
    job = works.job(job_id)
    assert (job.state, job.partial, job.cost_micros, job.hold_micros) == ("completed", False, PRICE, 0)
    assert len(job.artifacts) == 3


async def test_images_that_come_after_the_end_are_not_given_up(works: Works) -> None:
    """Completed without an image is asked once more: the end may be told before its images."""
    job_id = await generating(works)
    await works.poll(task("completed", result={"images": []}))
    job = works.job(job_id)
    assert (job.state, job.hold_micros, job.polls, works.slots()) == ("generating", PRICE, 1, 1)
    await works.poll(task("completed", result=images(1)))
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, len(job.artifacts)) == ("completed", PRICE, 0, 1)


async def test_no_images_is_a_failure_and_free(works: Works) -> None:
    """Completed without an image, twice, is never silently a success; other answers in between do not count."""
    job_id = await generating(works)
    await works.poll(task("completed", result={"images": []}))
    await works.poll(task("processing"))
    await works.poll(task("completed", result={"images": []}))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.cost_micros, job.hold_micros) == ("failed", "no_images", 0, 0)


async def test_provider_failure_releases(works: Works) -> None:
    """Task errors come in HTTP 200; the hold is released, nothing is resubmitted."""
    job_id = await generating(works)
    await works.poll(task("failed", error={"code": "content_rejected", "message": "no"}))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.cost_micros) == ("failed", "provider:content_rejected", 0)
    assert len(works.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        task("processing", progress=40),
        task("a status nobody has heard of"),
        json_answer(500, {}),
        json_answer(429, {}),
        json_answer(401, {}),
        lambda _: httpx.Response(200, content=b"<html>"),
        raising(httpx.ReadTimeout("t")),
        json_answer(
            404, {"error": {"code": 404, "message": "task does not exist", "type": "not_found_error"}}
        ),
    ],
    ids=["running", "unknown status", "500", "429", "401", "html", "timeout", "404 within the grace"],
)
async def test_not_done_is_a_snooze(works: Works, answer: Any) -> None:
    """Still running, or no clear answer: the job stays, keeps its hold and is due again; no attempt is counted."""
    job_id = await generating(works)
    await works.poll(answer)
    job = works.job(job_id)
    assert (job.state, job.hold_micros, job.polls, job.attempts) == ("generating", PRICE, 1, 0)
    assert works.state.client.zscore(works.state.keys.index("poll:main/wan2.7-image"), job_id)
    assert works.slots() == 1


async def test_polls_too_fast_are_no_loop(works: Works) -> None:
    """Not even if the provider says that no wait is needed: every answer would be followed by a question."""
    job_id = await generating(works)
    await works.poll(json_answer(429, {}, **{"Retry-After": "0"}))
    seconds, micros = works.state.client.time()
    due = works.state.client.zscore(works.state.keys.index("poll:main/wan2.7-image"), job_id)
    assert due is not None
    assert due - (seconds * 1000 + micros // 1000) > 800


async def test_an_answer_about_another_generation_is_noted(works: Works) -> None:
    """Its images are not taken, nothing is settled, and an operator sees why the job goes on."""
    job_id = await generating(works)
    body = {"code": 200, "data": {"id": "task_2", "status": "completed", "result": images(1)}}
    await works.poll(json_answer(200, body))
    job = works.job(job_id)
    assert (job.state, job.hold_micros, job.cost_micros, job.artifacts) == ("generating", PRICE, 0, ())
    assert job.timeline[-1].note == "the provider answered about another generation"


async def age(works: Works, job_id: str, seconds: float) -> None:
    """Let the submit have been so long ago."""
    job = works.job(job_id)
    assert job.submitted_at
    works.state.client.hset(
        works.state.keys.job(job_id), "submitted_at", job.submitted_at - int(1000 * seconds)
    )


async def test_missing_past_the_grace_is_asked_rarely(works: Works) -> None:
    """A task that the provider no longer knows stays generating, polled every late_every_s."""
    job_id = await generating(works)
    await age(works, job_id, 120)
    await works.poll(json_answer(404, {"error": {"code": 404, "message": "gone", "type": "not_found_error"}}))
    seconds, _ = works.state.client.time()
    due = works.state.client.zscore(works.state.keys.index("poll:main/wan2.7-image"), job_id)
    assert due is not None
    assert 290 < due / 1000 - seconds < 310
    assert works.job(job_id).state == "generating"


async def test_given_up_after_a_day_and_settled_at_the_full_price(works: Works) -> None:
    """Never finished: failed(lost), settled at price times n, flagged for whoever checks the bill."""
    job_id = await generating(works, n=3)
    await age(works, job_id, 86_401)
    await works.poll(task("processing"))
    job = works.job(job_id)
    assert (job.state, job.error_code, job.cost_micros) == ("failed", "lost", 3 * PRICE)
    assert works.slots() == 0
