"""What must hold when parts fail: nothing lost, nothing paid twice, and the operator sees why."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import API_KEY

if TYPE_CHECKING:
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)


def test_a_good_day(house: House) -> None:
    """Every job completes, is stored, announced once, and our bill is the provider's."""
    house.worker()
    house.enqueue(40)
    house.until(lambda: house.counts() == {"completed": 40}, 60, "40 completed")
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == 41, 20, "41 events")
    summary, ledger = house.sink.get("/summary"), house.ledger()
    assert summary["by_type"] == {"image.completed": 40, "batch.completed": 1}
    assert summary["bad_signature"] == 0
    assert house.darkroom.batch("b").cost_micros == ledger["charged_micros"] == 40 * 200_000
    assert house.charged_twice() == []
    assert len(list((house.folder / "artifacts").rglob("*.png"))) == 40


def test_killed_worker_leaves_unknowns_only_for_posts_in_flight(house: House) -> None:
    """SIGKILL while POSTs hang: those jobs are `unknown` within 30 s, no more than were in flight; the rest complete.

    Resolving them with the ids of the provider's ledger completes the batch; no prompt is charged twice.
    """
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "4"}]})
    victim = house.worker("victim")
    house.enqueue(60)
    house.until(lambda: house.counts().get("submitting", 0) >= 10, 20, "POSTs in flight")
    time.sleep(1)
    victim.kill()
    in_flight = house.state.client().zcard("{darkroom}:z:intents:main/wan2.7-image")
    killed_at = time.monotonic()
    house.provider.post("/control/faults", {"rules": []})
    house.worker("heir")
    house.until(
        lambda: house.counts().get("submitting", 0) == 0, 30, "no job left on the dead worker's lease"
    )
    unknown = house.counts().get("unknown", 0)
    assert time.monotonic() - killed_at < 30
    assert 0 < unknown <= in_flight
    house.until(
        lambda: house.counts() == {"completed": 60 - unknown, "unknown": unknown}, 60, "the rest completed"
    )
    tasks = {group["marker"]: group["task_ids"] for group in house.ledger()["groups"]}
    for job in house.darkroom.unknown():
        marker = str(job.request["prompt"]).split("[[m:")[1].rstrip("]")
        house.darkroom.resolve(job.id, tasks[marker][0])
    house.until(lambda: house.counts() == {"completed": 60}, 60, "all completed")
    house.until(
        lambda: house.sink.get("/summary")["by_type"].get("batch.completed") == 1, 20, "batch.completed"
    )
    assert house.charged_twice() == []
    assert house.darkroom.batch("b").cost_micros == house.ledger()["charged_micros"]


def test_paused_worker_cannot_undo_what_others_did(house: House) -> None:
    """SIGSTOP past the lease, then SIGCONT: the sleeper's late ids are attached, nothing is sent again."""
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "2"}]})
    sleeper = house.worker("sleeper")
    house.enqueue(20)
    house.until(lambda: house.counts().get("submitting", 0) >= 5, 20, "POSTs in flight")
    time.sleep(0.5)
    sleeper.pause()
    house.provider.post("/control/faults", {"rules": []})
    house.worker("other")
    house.until(lambda: house.counts().get("submitting", 0) == 0, 30, "the lease ends")
    sleeper.resume()
    house.until(lambda: house.counts() == {"completed": 20}, 60, "late ids are attached")
    assert house.charged_twice() == []


def test_broker_flushed_every_second(house: House) -> None:
    """Celery's messages are hints: deleting all of them, again and again, only costs time."""
    house.worker()
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(1):
            house.broker.client().flushall()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        house.enqueue(60)
        house.until(lambda: house.counts() == {"completed": 60}, 60, "all completed under flushes")
    finally:
        stop.set()
        flusher.join()
    assert house.charged_twice() == []


def test_dead_broker_stops_nothing(house: House) -> None:
    """Without a broker the stages run in the process that noticed the work; producers do not wait for it."""
    house.worker()
    house.broker.kill()
    started = time.monotonic()
    house.enqueue(30)
    assert time.monotonic() - started < 5
    house.until(lambda: house.counts() == {"completed": 30}, 60, "all completed without a broker")


def test_wrong_key_pauses_the_lane_and_heals(house: House) -> None:
    """401: one probe, the lane is paused and says why, every job is kept; a corrected key heals it by itself."""
    house.key_file.write_text("sk-wrong")
    worker = house.worker()
    house.enqueue(20)

    def blocked() -> bool:
        record = house.state.client().hgetall("{darkroom}:lane:main/wan2.7-image")
        return record.get(b"blocked") == b"invalid_api_key"

    house.until(blocked, 20, "lane paused")
    # POSTs that were under way when the first was refused come back, too.
    house.until(lambda: house.counts() == {"queued": 20}, 20, "every job queued again")
    assert house.provider.get("/stats")["answers_by_status"]["401"] <= 20
    worker.stop()
    house.key_file.write_text(API_KEY)
    house.worker("w2")
    house.state.client().hset("{darkroom}:lane:main/wan2.7-image", "probe_at", 0)
    house.until(lambda: house.counts() == {"completed": 20}, 60, "all completed with the right key")


def test_provider_down_then_up(house: House) -> None:
    """Connections refused are proved not sent: jobs wait, free of charge, and go on when the provider is back."""
    house.worker()
    assert house.provider.url
    house.provider.kill()
    house.enqueue(10)
    time.sleep(3)
    assert house.counts().get("unknown", 0) == 0
    house.provider.start()
    house.until(lambda: house.counts() == {"completed": 10}, 60, "all completed")


def test_429_closes_the_lane_and_nothing_is_lost(house: House) -> None:
    """A storm of 429 with Retry-After: the lane is closed for everybody, no attempt is burned."""
    rule = {"on": "submit", "kind": "429", "arg": "1", "times": 5}
    house.provider.post("/control/faults", {"rules": [rule]})
    house.worker()
    house.enqueue(10)
    house.until(lambda: house.counts() == {"completed": 10}, 60, "all completed")
    members: Any = house.state.client().lrange("{darkroom}:bj:default:b", 0, -1)
    ids = [member.decode() for member in members]
    jobs = house.darkroom.get_many(ids)
    assert [job.attempts for job in jobs if job is not None] == [0] * 10


def test_storage_down_is_retried(house: House) -> None:
    """A directory that cannot be written: paid images wait, and are stored when it can."""
    artifacts = house.folder / "artifacts"
    artifacts.write_text("in the way")  # not a directory: root ignores permissions
    artifacts.unlink()
    artifacts.mkdir()
    house.worker()
    blocker = artifacts / "default"
    blocker.write_text("in the way")
    house.enqueue(5)
    house.until(lambda: house.counts().get("storing", 0) == 5, 30, "all wait for the store")
    blocker.unlink()
    house.until(lambda: house.counts() == {"completed": 5}, 60, "stored after all")
    assert house.ledger()["charged_images"] == 5


def test_endpoint_down_is_retried_under_one_id(house: House) -> None:
    """An endpoint that fails twice gets each event again, under the same id."""
    house.worker()
    hook = f"{house.sink.url}/fail-first/2"
    receipt = house.darkroom.enqueue_many(house.requests(5), batch="b", webhook=hook)
    assert receipt.enqueued == 5
    house.until(lambda: house.sink.get("/summary")["deliveries"] >= 18, 60, "three tries per event")
    assert house.sink.get("/summary")["unique_ids"] == 6


def test_sigterm_finishes_posts_in_flight(house: House) -> None:
    """A deploy: claims stop at once, POSTs in flight are waited for, nothing becomes unknown."""
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "2"}]})
    first = house.worker("first")
    house.enqueue(40)
    house.until(lambda: house.counts().get("submitting", 0) >= 10, 20, "POSTs in flight")
    time.sleep(0.5)
    assert first.stop(within_s=20) == 0
    house.provider.post("/control/faults", {"rules": []})
    assert house.counts().get("unknown", 0) == 0
    house.worker("second")
    house.until(lambda: house.counts() == {"completed": 40}, 60, "the next worker goes on")
    assert house.charged_twice() == []


def test_state_server_killed_and_restarted(house: House) -> None:
    """SIGKILL of the state server, AOF kept: work goes on by itself, nothing is charged twice."""
    house.worker()
    house.enqueue(60)
    house.until(lambda: house.counts().get("generating", 0) > 0, 20, "work in progress")
    house.state.kill()
    time.sleep(2)
    house.state.start()
    house.until(
        lambda: sum(house.counts().get(state, 0) for state in ("completed", "unknown")) == 60, 90, "all done"
    )
    assert house.charged_twice() == []


def test_the_rate_is_one_over_all_workers_and_is_used(house: House) -> None:
    """Two workers, ten permits a second: never more than that in any second, and hardly less."""
    account = house.settings.accounts["main"].model_copy(update={"submit_per_s": 10.0, "submit_burst": 1})
    house.settings = house.settings.model_copy(update={"accounts": {"main": account}})
    house.worker("one")
    house.worker("two")
    house.enqueue(60)
    took_s = house.until(lambda: house.counts() == {"completed": 60}, 40, "60 jobs at 10 a second")
    assert (
        house.provider.get("/stats")["max_submits_accepted_in_1s"] <= 11
    )  # 10 permits and the edges of a second
    assert took_s < 12  # 6 s at the full rate
