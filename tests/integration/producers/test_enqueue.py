"""`enqueue`: durable when it returns, once per key, within the caps."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from producers import (
    BacklogFull,
    BatchSealed,
    Darkroom,
    Disposition,
    GenerationRequest,
    IdempotencyConflict,
    InvalidRequest,
    JobNotFound,
    UnknownPrice,
)
from shared.settings import CapSettings
from tests.integration.producers.conftest import FOX, MODEL, until
from tests.servers import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import State


def with_limits(state: State, **limits: int) -> Any:
    """The settings with other caps."""
    return state.settings.model_copy(update={"limits": state.settings.limits.model_copy(update=limits)})


def test_gives_a_receipt_and_a_record(darkroom: Darkroom) -> None:
    """The receipt states price and retention; the record holds all that was given."""
    receipt = darkroom.enqueue(
        FOX | {"n": 3}, tenant="acme", batch="b", idempotency_key="k", priority=7, metadata={"a": [1, None]},
        on_unknown="fail",
    )  # fmt: skip
    assert (receipt.disposition, receipt.price_micros, receipt.currency) == ("enqueued", 600_000, "CNY")
    assert "7 days" in receipt.retention
    job = darkroom.get(receipt.job_id)
    assert (job.state, job.tenant, job.batch, job.n, job.model) == ("queued", "acme", "b", 3, MODEL)
    assert (job.metadata, job.on_unknown, job.request["prompt"]) == ({"a": [1, None]}, "fail", "a red fox")


def test_takes_a_ready_request(darkroom: Darkroom) -> None:
    """A GenerationRequest is as good as its fields."""
    job_id = darkroom.enqueue(GenerationRequest(model="wan2.7-image", prompt="a red fox", size="2K")).job_id
    assert darkroom.get(job_id).request == {"model": MODEL, "prompt": "a red fox", "n": 1, "size": "2K"}


def test_warns_of_what_the_api_ignores(darkroom: Darkroom) -> None:
    """What has no effect is said on the receipt."""
    request = FOX | {"enable_sequential": True, "n": 6, "thinking_mode": True}
    assert darkroom.enqueue(request).warnings == ("thinking_mode: ignored in sequential mode",)


def test_same_key_and_request_is_the_same_job(darkroom: Darkroom) -> None:
    """A second enqueue under a key answers with the first job."""
    first = darkroom.enqueue(FOX, idempotency_key="k")
    second = darkroom.enqueue(dict(reversed(FOX.items())), idempotency_key="k")
    assert (second.job_id, second.disposition) == (first.job_id, Disposition.DUPLICATE)


def test_same_key_other_request_is_a_conflict(darkroom: Darkroom) -> None:
    """The error names the job that has the key."""
    first = darkroom.enqueue(FOX, idempotency_key="k")
    with pytest.raises(IdempotencyConflict) as caught:
        darkroom.enqueue(FOX | {"n": 2}, idempotency_key="k")
    assert caught.value.job_id == first.job_id


def test_keys_belong_to_a_tenant(darkroom: Darkroom) -> None:
    """Another tenant may use the same key."""
    darkroom.enqueue(FOX, idempotency_key="k", tenant="a")
    assert darkroom.enqueue(FOX, idempotency_key="k", tenant="b").disposition is Disposition.ENQUEUED


def test_fifty_concurrent_duplicates_are_one_job(darkroom: Darkroom, state: State) -> None:
    """However many enqueue at once, one wins and all get its id."""
    barrier = threading.Barrier(50)

    def enqueue(_: int) -> tuple[str, str]:
        barrier.wait()
        receipt = darkroom.enqueue(FOX, idempotency_key="k")
        return receipt.job_id, receipt.disposition

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(enqueue, range(50)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert [disposition for _, disposition in answers].count("enqueued") == 1
    assert state.client.hget(state.keys.counts, "*|queued") == b"1"


@pytest.mark.parametrize("scope", ["backlog_per_tenant", "backlog"])
def test_backlog_caps_are_exact_under_concurrency(state: State, scope: str) -> None:
    """Ten threads that want 30 places in 20 get exactly 20; the others are told which cap it was."""
    with Darkroom(with_limits(state, **{scope: 20})) as darkroom:

        def enqueue(nr: int) -> str:
            try:
                return darkroom.enqueue(FOX | {"seed": nr}, tenant="acme").disposition
            except BacklogFull as error:
                return error.scope

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(enqueue, range(30)))
    refused = "tenant acme" if scope == "backlog_per_tenant" else "all tenants"
    assert (answers.count("enqueued"), answers.count(refused)) == (20, 10)


# One process of several: four threads enqueue jobs one by one; it says how many were admitted and how many refused.
CROWD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from producers import Darkroom
from shared.errors import CapReached
def enqueue(_):
    try:
        darkroom.enqueue({"model": "wan2.7-image", "prompt": "a red fox"}, tenant="acme")
    except CapReached:
        return 0
    return 1
with Darkroom() as darkroom, ThreadPoolExecutor(4) as pool:
    darkroom.now_ms()
    print("ready", flush=True)
    sys.stdin.readline()
    admitted = sum(pool.map(enqueue, range(250)))
print(admitted, 250 - admitted)
"""


@pytest.mark.timeout(180)
def test_a_rejecting_cap_admits_exactly_what_fits_whoever_asks(state: State) -> None:
    """Four processes of four threads at once want a thousand jobs under a cap of a hundred: exactly a hundred are admitted."""
    cap = CapSettings(scope="tenant:acme", limit=Decimal("20.00"), over_cap="reject")
    env = {**os.environ, **environment(state.settings.model_copy(update={"caps": (cap,)}))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outs = [process.communicate(timeout=150)[0] for process in processes]
    answers = [tuple(map(int, out.split())) for out in outs]
    assert [sum(column) for column in zip(*answers, strict=True)] == [100, 900]
    assert state.client.hget(state.keys.usage, "CNY|tenant:acme|q") == b"20000000"


def test_a_sealed_batch_takes_no_more(darkroom: Darkroom) -> None:
    """Adding to it is an error, unless the job is in it already."""
    first = darkroom.enqueue(FOX, batch="b", idempotency_key="k")
    assert darkroom.seal("b")
    assert not darkroom.seal("b")
    with pytest.raises(BatchSealed, match="sealed"):
        darkroom.enqueue(FOX, batch="b")
    assert darkroom.enqueue(FOX, batch="b", idempotency_key="k").job_id == first.job_id


def test_refuses_a_model_without_a_price(state: State) -> None:
    """A price that is not known is never taken as zero."""
    account = state.settings.accounts["default"].model_copy(update={"models": (MODEL,)})
    with Darkroom(state.settings.model_copy(update={"accounts": {"default": account}})) as darkroom:
        with pytest.raises(UnknownPrice, match="image-pro"):
            darkroom.enqueue(FOX | {"model": "wan2.7-image-pro"})
        assert darkroom.overview().counts["queued"] == 0


@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"priority": 101}, "priority", "range"),
        ({"priority": True}, "priority", "range"),
        ({"idempotency_key": ""}, "idempotency_key", "length"),
        ({"idempotency_key": "\ud800"}, "idempotency_key", "length"),
        ({"metadata": {"a": float("nan")}}, "metadata", "json"),
        ({"metadata": "\ud800"}, "metadata", "json"),
        ({"metadata": "x" * 5000}, "metadata", "size"),
        ({"not_before": datetime(2030, 1, 1)}, "not_before", "timezone"),  # noqa: DTZ001 - the point
        ({"not_before": 1_800_000_000_000}, "not_before", "range"),
        ({"deadline": "soon"}, "deadline", "format"),
        ({"deadline": timedelta(seconds=-1)}, "deadline", "range"),
        ({"not_before": "2h", "deadline": "1h"}, "deadline", "order"),
        ({"on_unknown": "ignore"}, "on_unknown", "choice"),
        ({"webhook": "nowhere"}, "webhook", "choice"),
        ({"webhook": 5}, "webhook", "type"),
        ({"tenant": "a b"}, "tenant", "name"),
        ({"batch": ""}, "batch", "name"),
        ({"colour": 1}, "colour", "unknown_field"),
    ],
)
def test_names_the_field_and_rule_of_a_bad_option(
    darkroom: Darkroom, options: dict[str, Any], field: str, rule: str
) -> None:
    """What a job carries is judged like its request: nothing is enqueued, and the message says why."""
    with pytest.raises(InvalidRequest) as caught:
        darkroom.enqueue(FOX, **options)
    assert [(issue.field, issue.rule) for issue in caught.value.issues] == [(field, rule)]
    assert field in str(caught.value)
    assert darkroom.overview().counts["queued"] == 0


def in_an_hour(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms / 1000 + 3600, UTC)


@pytest.mark.parametrize(
    "instant",
    [
        lambda _: timedelta(hours=1),
        lambda _: "60m",
        in_an_hour,
        lambda now_ms: now_ms / 1000 + 3600,
        lambda now_ms: in_an_hour(now_ms).isoformat(),
    ],
    ids=["timedelta", "duration", "datetime", "seconds", "iso"],
)
def test_not_before_may_be_given_in_many_ways(darkroom: Darkroom, instant: Callable[[int], Any]) -> None:
    """Durations count from the state server's clock; the rest says the instant itself."""
    now_ms = darkroom.now_ms()
    job = darkroom.get(darkroom.enqueue(FOX, not_before=instant(now_ms)).job_id)
    assert job.not_before_at is not None
    assert 0 <= job.not_before_at - (now_ms + 3_600_000) < 5000


def test_a_job_not_yet_due_waits_apart(darkroom: Darkroom, state: State) -> None:
    """Before its time a job is in no tenant's queue."""
    job_id = darkroom.enqueue(FOX, not_before=timedelta(hours=1), deadline=timedelta(hours=2)).job_id
    assert state.client.zrange(state.keys.index(f"later:{MODEL}"), 0, -1) == [job_id.encode()]
    assert state.client.zrange(state.keys.index("expiring"), 0, -1) == [job_id.encode()]
    assert state.client.exists(state.keys.queue(MODEL, "default")) == 0


def test_get_many_has_none_for_what_is_not_there(darkroom: Darkroom) -> None:
    """One missing record does not spoil the others."""
    job_id = darkroom.enqueue(FOX).job_id
    found = darkroom.get_many([job_id, "job_nope"])
    assert [job and job.id for job in found] == [job_id, None]
    with pytest.raises(JobNotFound):
        darkroom.get("job_nope")


def test_hints_the_lanes_of_the_model(darkroom: Darkroom, state: State) -> None:
    """While a worker lives, an enqueue leaves a hint in the broker, which names the lane and nothing of the job."""
    state.client.zadd(state.keys.workers, {"w1": darkroom.now_ms()})
    darkroom.enqueue(FOX)
    queue = f"{state.namespace}.broker.darkroom.submit"
    with state.server.client(1) as broker:
        until(lambda: broker.llen(queue) == 1)
        (message,) = broker.lrange(queue, 0, -1)
    assert b"darkroom.submit" in message
    assert b"fox" not in message


def test_a_dead_broker_neither_delays_nor_fails_an_enqueue(state: State) -> None:
    """The hint is lost, and nothing else."""
    nowhere = state.settings.broker.model_copy(update={"url": "redis://127.0.0.1:1/0"})
    with Darkroom(state.settings.model_copy(update={"broker": nowhere})) as darkroom:
        state.client.zadd(state.keys.workers, {"w1": darkroom.now_ms()})
        assert darkroom.enqueue(FOX).disposition is Disposition.ENQUEUED
        assert darkroom.enqueue(FOX).disposition is Disposition.ENQUEUED
