"""Caps and cancels with real workers and a provider that bills: what is spent, what is told, and when."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from producers.receipt import CancelOutcome
from shared.money.caps import BatchCaps
from shared.settings import CapSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers import Job
    from shared.webhooks.events import BatchEventType, ImageEventType
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)
PRICE = 200_000


def bodies(house: House, kind: BatchEventType | ImageEventType) -> list[dict[str, Any]]:
    """Give the data of the events of a kind that the sink took, one per webhook-id."""
    found = {}
    for delivery in house.sink.get("/received")["deliveries"]:
        body = delivery["body"]
        if body["type"] == kind:
            found[delivery["webhook_id"]] = body["data"]
    return list(found.values())


def limit(house: House, **account: Any) -> None:
    """Give the house's account other limits."""
    main = house.settings.accounts["main"].model_copy(update=account)
    house.settings = house.settings.model_copy(update={"accounts": {"main": main}})


def test_a_cap_that_waits_is_never_passed(house: House) -> None:
    """Spent and held together stay at or under it at every instant; failed generations make room for others."""
    cap = CapSettings(scope="tenant:default", window="total", limit=Decimal("2.00"))
    house.settings = house.settings.model_copy(update={"caps": (cap,)})
    requests = [
        request | ({"prompt": f"{request['prompt']} [[fault:fail]]"} if at % 3 == 0 else {})
        for at, request in enumerate(house.requests(30, "b"))
    ]
    house.darkroom.enqueue_many(requests, batch="b")
    client, keys = house.state.client(), ("CNY|spent:default", "CNY|held:default")
    seen, ended = list[int](), threading.Event()

    def sample() -> None:
        while not ended.wait(0.002):
            found: Any = client.hmget("{darkroom}:balances", keys)
            seen.append(sum(int(each or 0) for each in found))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        house.worker("w1")
        house.worker("w2")
        house.until(lambda: house.counts().get("completed") == 10, 90, "the cap is used to the last job")
        house.until(
            lambda: set(house.counts()) <= {"completed", "failed", "queued"}, 30, "nothing is under way"
        )
    finally:
        ended.set()
        sampling.join()
    assert len(seen) > 100
    assert max(seen) == 10 * PRICE
    assert house.ledger()["charged_micros"] == 10 * PRICE
    assert house.counts()["queued"] > 0


def run_capped(house: House, requests: list[dict[str, Any]], caps: BatchCaps) -> dict[str, Any]:
    """Run a capped batch, two jobs at a time; give what its one completion event says."""
    limit(house, max_in_flight=2)
    house.darkroom.enqueue_many(
        requests,
        batch="b",
        batch_caps=caps,
        batch_webhook=f"{house.sink.url}/ok",
        webhook=f"{house.sink.url}/ok",
    )
    house.worker()
    house.darkroom.wait_batch("b", timeout_s=90)
    ids = len(requests) + 1
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == ids, 30, "every event arrived")
    (event,) = bodies(house, "batch.completed")
    assert len(bodies(house, "image.cancelled")) == event["counts"]["cancelled"]
    return event


def test_a_batch_stops_at_its_cost(house: House) -> None:
    """`stop at 1.00`: five jobs of twelve are paid, the rest cancelled; the completion fires once, and says why."""
    event = run_capped(house, house.requests(12, "b"), BatchCaps(max_cost=Decimal("1.00")))
    assert event["counts"] == {"cancelled": 7, "completed": 5}
    assert (event["cost_micros"], event["max_cost_micros"], event["max_failed_percent"]) == (
        1_000_000, 1_000_000, None,
    )  # fmt: skip
    assert event["stopped"] == "max_cost"
    assert event["stopped_at"] <= event["completed_at"]
    assert house.ledger()["charged_micros"] == 5 * PRICE
    assert all(
        each["cost_micros"] == 0 and each["cost_is_final"] for each in bodies(house, "image.cancelled")
    )


def test_a_batch_stops_at_its_failures(house: House) -> None:
    """`stop at 5 % failed`: the second failure of thirty stops it; what is queued then is cancelled."""
    requests = [
        request | {"prompt": f"{request['prompt']} [[fault:fail]]"} for request in house.requests(30, "b")
    ]
    event = run_capped(house, requests, BatchCaps(max_failed_percent=Decimal(5)))
    assert set(event["counts"]) == {"cancelled", "failed"}
    assert 2 <= event["counts"]["failed"] <= 6
    assert (event["stopped"], event["max_failed_percent"], event["max_cost_micros"]) == (
        "max_failed",
        5.0,
        None,
    )
    assert event["cost_micros"] == house.ledger()["charged_micros"] == 0


def test_a_cancel_says_what_it_costs(house: House) -> None:
    """Free while queued; after the submit billed later, and settled though nobody waits for it any more."""
    house.provider.post("/control/settings", {"latency": 4})
    hook = f"{house.sink.url}/ok"
    queued = house.darkroom.enqueue(house.requests(1, "queued")[0], webhook=hook).job_id
    free = house.darkroom.cancel(queued)
    assert (free.outcome, free.job.accounting_open) == (CancelOutcome.FREE, False)
    house.worker()
    begun = house.darkroom.enqueue(house.requests(1, "begun")[0], webhook=hook).job_id

    def job() -> Job:
        return house.darkroom.get(begun)

    house.until(lambda: job().state == "generating", 30, "the provider has it")
    billed = house.darkroom.cancel(begun)
    assert (billed.outcome, billed.job.accounting_open) == (CancelOutcome.BILLED_LATER, True)
    told: Mapping[str, Any] = {}

    def events() -> bool:
        nonlocal told
        told = {each["job_id"]: each for each in bodies(house, "image.cancelled")}
        return len(told) == 2

    house.until(events, 30, "both events arrived")
    assert (told[queued]["cost_is_final"], told[queued]["cost_micros"]) == (True, 0)
    assert (told[begun]["cost_is_final"], told[begun]["cost_micros"]) == (False, 0)
    house.until(lambda: not job().accounting_open, 60, "the provider is done, and its bill is settled")
    assert (job().state, job().cost_micros) == ("cancelled", PRICE)
    assert house.ledger()["charged_micros"] == PRICE
    assert house.darkroom.cancel(begun).outcome is CancelOutcome.ALREADY_ENDED
