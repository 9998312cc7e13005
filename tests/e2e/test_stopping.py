"""Stopping and going on, with a real worker: what is paused is not submitted, and comes through when it is resumed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from producers import Frozen

if TYPE_CHECKING:
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)

PRO_LANE = "main/wan2.7-image-pro"
STILL_S = 2.5  # retries come every second at the latest


def put(house: House, count: int, name: str, **more: Any) -> list[str]:
    """Enqueue jobs whose marker at the provider begins with the name."""
    return list(house.darkroom.enqueue_many(house.requests(count, name), **more).job_ids)


def submitted(house: House) -> set[str]:
    """Give the names under which the provider was sent anything."""
    return {group["marker"].rpartition("-")[0] for group in house.ledger()["groups"]}


def completed(house: House, ids: list[str]) -> bool:
    return all(job is not None and job.state == "completed" for job in house.darkroom.get_many(ids))


def test_what_is_paused_waits_while_the_rest_flows(house: House) -> None:
    """A lane, a tenant, a batch and a job are paused: none of it is submitted, nor what comes later.

    All of it completes after the resume, and every image is charged once.
    """
    darkroom = house.darkroom
    pro = [request | {"model": "wan2.7-image-pro"} for request in house.requests(3, "lane")]
    held = list(darkroom.enqueue_many(pro).job_ids)
    held += put(house, 4, "tenant", tenant="acme")
    held += put(house, 4, "batch", batch="held", seal=False)
    (single,) = put(house, 1, "job")
    assert darkroom.pause(PRO_LANE, why="odd bill")
    assert darkroom.pause_tenant("acme", why="odd bill").waiting == 4
    assert darkroom.pause_batch("held", why="odd bill").waiting == 4
    darkroom.pause_jobs([single], why="odd bill")
    flowing = put(house, 6, "rest", batch="flowing")
    house.worker()
    house.until(lambda: completed(house, flowing), 60, "what is not paused")
    held += [single, *put(house, 2, "tenant2", tenant="acme"), *put(house, 2, "batch2", batch="held")]
    more = put(house, 3, "rest2", tenant="other")
    house.until(lambda: completed(house, more), 60, "what is not paused, later")
    assert submitted(house) == {"rest", "rest2"}
    assert {job.state for job in darkroom.get_many(held) if job} == {"queued"}
    darkroom.pause(PRO_LANE, False)
    darkroom.pause_tenant("acme", False)
    darkroom.pause_batch("held", False)
    darkroom.pause_jobs([single], False)
    house.until(lambda: completed(house, held), 60, "what was resumed")
    assert darkroom.batch("held").completed_at is not None
    assert house.charged_twice() == []
    assert house.ledger()["charged_images"] == len(held) + len(flowing) + len(more)
    told = [(entry.what, entry.jobs) for entry in darkroom.audit()]
    assert told == [
        ("resume", 1), ("resume", 6), ("resume", 6), ("resume", None),
        ("pause", 1), ("pause", 4), ("pause", 4), ("pause", None),
    ]  # fmt: skip


def test_what_was_submitted_is_finished_while_its_tenant_is_paused(house: House) -> None:
    """A pause stops submits only: what has an intent is answered, stored and told."""
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "2"}]})
    house.worker()
    house.enqueue(5)
    house.until(lambda: house.counts().get("submitting", 0) == 5, 30, "POSTs in flight")
    assert house.darkroom.pause_tenant("default").waiting == 0
    house.until(lambda: house.counts() == {"completed": 5}, 60, "what was begun")
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == 6, 20, "told, with the batch")


def test_freezing_everything_stops_store_and_notify(house: House) -> None:
    """No image is copied and no webhook sent while it holds, though both could be; `off` lets all end."""
    artifacts = house.folder / "artifacts"
    artifacts.mkdir()
    blocker = artifacts / "default"
    blocker.write_text("in the way")
    house.worker()
    house.enqueue(5)
    house.until(lambda: house.counts().get("storing", 0) == 5, 60, "all wait for the store")
    told = put(house, 2, "told", tenant="other", webhook=f"{house.sink.url}/status/500")
    house.until(lambda: house.sink.get("/summary")["deliveries"] >= 2, 60, "the endpoint was asked")
    assert completed(house, told)
    assert house.darkroom.freeze(Frozen.EVERYTHING, why="a drill") is None
    time.sleep(1)  # what was claimed before is finished
    blocker.unlink()
    before = (house.sink.get("/summary")["deliveries"], house.counts())
    assert house.darkroom.overview().deliveries == 2
    time.sleep(STILL_S)
    assert (house.sink.get("/summary")["deliveries"], house.counts()) == before
    assert before[1] == {"storing": 5}
    assert house.darkroom.freeze(None) is Frozen.EVERYTHING
    house.until(lambda: house.counts() == {"completed": 5}, 60, "stored after all")
    house.until(lambda: house.sink.get("/summary")["by_type"].get("batch.completed") == 1, 30, "and told")
    assert house.sink.get("/summary")["deliveries"] > before[0]
    assert house.ledger()["charged_images"] == 7
