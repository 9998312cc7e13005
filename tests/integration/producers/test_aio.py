"""`AsyncDarkroom`: the blocking client's behaviour on an event loop; what they share is tested there."""

from __future__ import annotations

import asyncio
import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from producers import (
    AsyncDarkroom,
    BatchNotFound,
    BatchSealed,
    Darkroom,
    IdempotencyConflict,
    JobNotFound,
    TransitionRefused,
)
from producers.link import AsyncLink
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_enqueue_many import data_uri, foxes, storing
from tests.integration.producers.test_wait import connections, named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

pytestmark = pytest.mark.anyio
CHUNK_JOBS = 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks small."""
    monkeypatch.setattr("producers.bulk.CHUNK_JOBS", CHUNK_JOBS)


@pytest.fixture
async def client(state: State) -> AsyncIterator[AsyncDarkroom]:
    """A client of the test's own namespace."""
    async with AsyncDarkroom(state.settings) as darkroom:
        yield darkroom


def test_both_clients_have_the_same_methods() -> None:
    """Method for method with the same parameters; only what needs no server is blocking alone."""

    def surface(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    blocking = surface(Darkroom)
    assert blocking.pop("check_many")
    assert surface(AsyncDarkroom) == blocking


async def test_enqueues_once_per_key(client: AsyncDarkroom) -> None:
    """Fifty tasks at once are one job; another request under the key is a conflict."""
    receipts = await asyncio.gather(*(client.enqueue(FOX, idempotency_key="k") for _ in range(50)))
    assert len({receipt.job_id for receipt in receipts}) == 1
    assert [str(receipt.disposition) for receipt in receipts].count("enqueued") == 1
    with pytest.raises(IdempotencyConflict):
        await client.enqueue(FOX | {"n": 2}, idempotency_key="k")


async def test_durations_count_from_the_servers_clock(client: AsyncDarkroom) -> None:
    """Relative instants cost one question to the server."""
    now_ms = await client.now_ms()
    receipt = await client.enqueue(FOX, not_before=timedelta(hours=1))
    job = await client.get(receipt.job_id)
    assert job.not_before_at is not None
    assert 0 <= job.not_before_at - now_ms - 3_600_000 < 5000


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_streams_iterables_of_both_kinds(client: AsyncDarkroom, asynchronous: bool) -> None:
    """Chunks, dispositions and the sealed batch are as with the blocking client."""

    async def items() -> AsyncIterator[Any]:
        for item in foxes(3 * CHUNK_JOBS):
            yield item
        yield FOX | {"n": 9}

    source: Any = items() if asynchronous else [*foxes(3 * CHUNK_JOBS), FOX | {"n": 9}]
    receipt = await client.enqueue_many(source, batch="b", priority=1)
    assert (receipt.enqueued, receipt.rejected, receipt.sealed) == (3 * CHUNK_JOBS, 1, True)
    assert (await client.batch("b")).total == 3 * CHUNK_JOBS
    jobs = await client.get_many(receipt.job_ids)
    assert [job.request["seed"] for job in jobs if job] == list(range(3 * CHUNK_JOBS))


async def test_an_iterable_that_raises_leaves_the_batch_open(client: AsyncDarkroom) -> None:
    """Its error comes through; what was sent is recorded."""

    async def items() -> AsyncIterator[Any]:
        for item in foxes(CHUNK_JOBS):
            yield item
        raise LookupError("out of foxes")

    with pytest.raises(LookupError):
        await client.enqueue_many(items(), batch="b")
    status = await client.batch("b")
    assert (status.total, status.sealed) == (CHUNK_JOBS, False)
    assert await client.seal("b")


async def test_a_sealed_batch_ends_the_call(client: AsyncDarkroom) -> None:
    """The error carries the receipt."""
    await client.enqueue_many(foxes(1), batch="b")
    with pytest.raises(BatchSealed) as caught:
        await client.enqueue_many(foxes(2), batch="b")
    assert [item.disposition for item in caught.value.receipt.items] == ["duplicate", "rejected"]


async def test_a_lost_reply_does_not_enqueue_twice(
    client: AsyncDarkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reply is lost once after the server accepted the chunk, which is then sent again."""
    read, reads = AsyncLink._read, 0

    async def lose_every_other(link: AsyncLink) -> Any:
        nonlocal reads
        reads += 1
        replies = await read(link)
        if reads % 2:
            raise redis.ConnectionError("cut")
        return replies

    monkeypatch.setattr(AsyncLink, "_read", lose_every_other)
    receipt = await client.enqueue_many([FOX] * (3 * CHUNK_JOBS), batch="b")
    assert receipt.enqueued == (await client.batch("b")).total == 3 * CHUNK_JOBS


async def test_data_uris_go_to_the_object_store(state: State, tmp_path: Path) -> None:
    """Redis gets a reference."""
    request = FOX | {"image_urls": [data_uri()]}
    async with AsyncDarkroom(storing(state, tmp_path)) as client:
        one = await client.enqueue(request)
        many = await client.enqueue_many([request])
        for job_id in (one.job_id, *many.job_ids):
            (url,) = (await client.get(job_id)).request["image_urls"]
            assert (tmp_path / url.removeprefix("darkroom-input:")).exists()


async def test_many_tasks_wait_over_two_connections(state: State) -> None:
    """A hundred waiters: one connection listens, one reads; a third may have enqueued."""
    async with AsyncDarkroom(named(state, state.namespace)) as client:
        ids = (await client.enqueue_many([FOX] * 100)).job_ids
        waits = [asyncio.create_task(client.wait(job_id, 30)) for job_id in ids]
        await asyncio.sleep(0.1)
        with Darkroom(state.settings) as other:
            for job_id in reversed(ids):
                await asyncio.to_thread(other.cancel, job_id)
        assert [job.id for job in await asyncio.gather(*waits)] == ids
        assert connections(state, state.namespace) <= 3


async def test_waits_time_out(client: AsyncDarkroom) -> None:
    """One job, many jobs, a batch."""
    ids = (await client.enqueue_many([FOX] * 2, batch="b")).job_ids
    with pytest.raises(TimeoutError, match="1 of 1 jobs"):
        await client.wait(ids[0], timeout_s=0.05)
    with pytest.raises(TimeoutError, match="0 of 2 jobs have ended"):
        await client.wait_batch("b", timeout_s=0.05)
    with pytest.raises(JobNotFound):
        await client.wait([*ids, "job_nope"], timeout_s=5)


async def test_a_cancelled_wait_leaves_the_others_alone(client: AsyncDarkroom) -> None:
    """A task that gives up waiting takes nothing from one that does not, nor from later calls."""
    job_id = (await client.enqueue(FOX)).job_id
    first, second = (asyncio.create_task(client.wait(job_id, 30)) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    await client.cancel(job_id)
    assert (await second).state == "cancelled"
    assert first.cancelled()


async def test_waits_for_a_batch(client: AsyncDarkroom) -> None:
    """Until its last job has ended."""
    ids = (await client.enqueue_many([FOX] * 2, batch="b")).job_ids
    wait = asyncio.create_task(client.wait_batch("b", timeout_s=10, every_s=0.02))
    for job_id in ids:
        assert (await client.cancel(job_id, why="typo")).outcome == "free"
    assert (await wait).done == 2
    told = [(each.who, each.on, each.jobs, each.why) for each in await client.audit()]
    assert told == [("owner", f"job {job_id}", 1, "typo") for job_id in reversed(ids)]
    with pytest.raises(BatchNotFound):
        await client.wait_batch("nothing")
    with pytest.raises(BatchNotFound):
        await client.seal("nothing")


async def test_operators_decide_on_unknown_jobs(
    client: AsyncDarkroom, worker: FakeWorker, state: State
) -> None:
    """List, resolve, resubmit, release: as with the blocking client."""
    await client.enqueue_many([FOX] * 3)
    first, second, third = (worker.make_unknown() for _ in range(3))
    assert [job.id for job in await client.unknown()] == [first, second, third]
    assert (await client.resolve(first, "generation-7")).state == "generating"
    with pytest.raises(TransitionRefused, match="belongs to another job"):
        await client.resolve(second, "generation-7")
    state.client.hincrby(state.keys.job(second), "intent_at", -130_000)
    assert (await client.resubmit(second)).state == "queued"
    assert (await client.release(third)).error_code == "released"
    overview = await client.overview()
    assert (overview.unknown, overview.counts["generating"], overview.counts["failed"]) == (0, 1, 1)
