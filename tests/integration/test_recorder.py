"""The recorder on a real server: one call for what comes together, a result for each, patience, and an end to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

import workers.recorder as recorder_module
from shared.errors import IllegalTransition, StateUnavailable
from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition
from shared.redis.client import make_async_client
from shared.redis.keys import Keys
from shared.redis.scripts import run
from shared.settings import LimitSettings, RedisSettings, WorkerSettings
from tests.e2e.conftest import House
from tests.servers import ValkeyProc
from workers.recorder import RUN_MAX, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import redis

NAMESPACE = "recorder"
KEYS = Keys.of(NAMESPACE)
LIMITS = LimitSettings()
PATIENCE_S = 60


@pytest.fixture(scope="module")
def shared_server(folder_of_servers: Path) -> Iterator[ValkeyProc]:
    with ValkeyProc(folder_of_servers / "recorder", name="recorder", appendfsync="always") as proc:
        yield proc


@pytest.fixture
def server(shared_server: ValkeyProc) -> Iterator[ValkeyProc]:
    """A server that tests may hurt; empty for each."""
    with shared_server.client() as client:
        client.flushall()
        client.script_flush()
        yield shared_server


@pytest.fixture
def client(server: ValkeyProc) -> Iterator[redis.Redis]:
    with server.client() as connected:
        yield connected


@asynccontextmanager
async def recording(server: ValkeyProc) -> AsyncIterator[Recorder]:
    settings = RedisSettings(
        url=server.url(), namespace=NAMESPACE, socket_timeout_s=0.5, connect_timeout_s=0.5
    )
    connected = make_async_client(settings)
    recorder = Recorder(connected, KEYS, LIMITS)
    try:
        yield recorder
    finally:
        await recorder.close(0)
        await connected.aclose()


def enqueued(client: redis.Redis, count: int) -> list[str]:
    ids = list(new_job_ids(count))
    request = b'{"model":"wan2.7-image","n":1,"prompt":"a"}'
    args = [
        part
        for job_id in ids
        for part in job_arguments(job_id, request, "fp", "wan2.7-image", 1, False, JobParams())
    ]
    assert (
        run(client, "enqueue_jobs", KEYS.prefix, header_json("acme", None, None, LIMITS), *args)
        == [0] * count
    )
    return ids


def touch(job_id: str, *, epoch: int | None = None, note: str = "touched") -> Transition:
    """A transition that leaves its mark each time it is applied."""
    change = Change(before=JobState.QUEUED, after=JobState.QUEUED, bump={"touched": 1}, note=note)
    return Transition(job_id=job_id, epoch=epoch, changes=(change,))


def cancel(job_id: str) -> Transition:
    change = Change(before=JobState.QUEUED, after=JobState.CANCELLED, unqueue=True)
    return Transition(job_id=job_id, changes=(change,))


def touched(client: redis.Redis, job_id: str) -> int:
    return int(client.hget(KEYS.job(job_id), "touched") or 0)


def calls(client: redis.Redis) -> int:
    """How many scripts the server has run."""
    stats: Any = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for is seen from outside only
            await asyncio.sleep(0.005)


async def all_of(recorder: Recorder, *transitions: Transition) -> list[Applied | BaseException]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*map(recorder.apply, transitions), return_exceptions=True)


# --- together, but each for itself


async def test_what_comes_together_shares_a_call(server: ValkeyProc, client: redis.Redis) -> None:
    """Fifty transitions asked for at one moment are one script call, all applied."""
    ids = enqueued(client, 51)
    async with recording(server) as recorder:
        await recorder.apply(touch(ids[50]))  # the server learns the script
        before = calls(client)
        assert await all_of(recorder, *map(touch, ids[:50])) == [Applied.FIRST] * 50
        assert calls(client) - before == 1
    assert [touched(client, job_id) for job_id in ids] == [1] * 51


async def test_a_full_run_does_not_wait_for_the_window(server: ValkeyProc, client: redis.Redis) -> None:
    """More than one call can take go in several, none larger than RUN_MAX."""
    ids = enqueued(client, 2 * RUN_MAX + 1)
    async with recording(server) as recorder:
        await recorder.apply(touch(ids[0]))
        before = calls(client)
        assert await all_of(recorder, *map(touch, ids)) == [Applied.FIRST] * len(ids)
        assert calls(client) - before == 3


async def test_each_has_its_own_result(server: ValkeyProc, client: redis.Redis) -> None:
    """Applied, fenced by state, fenced by epoch and missing, in one call, each to whoever asked."""
    live, ended, other = enqueued(client, 3)
    async with recording(server) as recorder:
        assert await recorder.apply(cancel(ended)) is Applied.FIRST
        asked = (touch(live), touch(ended), touch(other, epoch=7), touch("job_nobody"), cancel(other))
        results = await all_of(recorder, *asked)
    assert results == [Applied.FIRST, Applied.FENCED, Applied.FENCED, Applied.MISSING, Applied.FIRST]


async def test_order_is_kept(server: ValkeyProc, client: redis.Redis) -> None:
    """Two for one job are applied as they were asked for."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        results = await all_of(recorder, touch(job_id), cancel(job_id), touch(job_id))
    assert results == [Applied.FIRST, Applied.FIRST, Applied.FENCED]


async def test_an_illegal_transition_is_its_askers_alone(server: ValkeyProc, client: redis.Redis) -> None:
    """It raises at once; those beside it are applied."""
    first, second = enqueued(client, 2)
    change = Change(before=JobState.QUEUED, after=JobState.COMPLETED)
    illegal = Transition(job_id=first, changes=(change,))
    async with recording(server) as recorder:
        results = await all_of(recorder, touch(first), illegal, touch(second))
    assert [type(result) for result in results] == [Applied, IllegalTransition, Applied]


async def test_what_cannot_be_written_is_its_askers_alone(server: ValkeyProc, client: redis.Redis) -> None:
    """Text that has no bytes (a lone surrogate) raises for its asker; those beside it are applied, none hangs."""
    first, second = enqueued(client, 2)
    async with recording(server) as recorder:
        results = await all_of(recorder, touch(first), touch(first, note="\ud800"), touch(second))
    assert isinstance(results[1], ValueError)
    assert [results[0], results[2]] == [Applied.FIRST, Applied.FIRST]


async def test_what_the_server_refuses_is_found(server: ValkeyProc, client: redis.Redis) -> None:
    """One that the script cannot apply fails for its asker, and the others of its run are applied, once."""
    first, broken, last = enqueued(client, 3)
    client.set(KEYS.timeline(broken), "not a list")
    async with recording(server) as recorder:
        with capture_logs() as logs:
            results = await all_of(recorder, cancel(first), touch(broken), cancel(last))
    assert isinstance(results[1], ResponseError)
    # What the broken run had applied already is fenced the second time.
    assert [results[0], results[2]] == [Applied.FENCED, Applied.FIRST]
    assert [client.hget(KEYS.job(job_id), "state") for job_id in (first, last)] == [b"cancelled"] * 2
    refused = [line["id"] for line in logs if line["event"] == "transition_refused_by_server"]
    assert refused == [broken]


async def test_a_caller_that_goes_away_changes_nothing(server: ValkeyProc, client: redis.Redis) -> None:
    """Once asked for, a transition is on its way: what the provider said is recorded though nobody waits."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        asking = asyncio.create_task(recorder.apply(touch(job_id)))
        await asyncio.sleep(0)
        asking.cancel()
        await until(lambda: touched(client, job_id) == 1)
        assert asking.cancelled()


# --- patience


async def test_a_server_that_was_away_gets_it(server: ValkeyProc, client: redis.Redis) -> None:
    """Killed before the call, started again: the same call is made until it is answered."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        server.kill()
        try:
            asking = asyncio.create_task(recorder.apply(touch(job_id)))
            await asyncio.sleep(0.1)
            assert not asking.done()
        finally:
            server.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await asking is Applied.FIRST
    assert touched(client, job_id) == 1


async def test_a_server_that_hung_gets_it(server: ValkeyProc, client: redis.Redis) -> None:
    """A call whose answer did not come is made again; its guards keep it from happening twice."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        await recorder.apply(touch(job_id))
        server.pause()
        try:
            asking = asyncio.create_task(recorder.apply(cancel(job_id)))
            await asyncio.sleep(0.6)
            assert not asking.done()
        finally:
            server.resume()
        async with asyncio.timeout(PATIENCE_S):
            # The first call may lie in the socket yet, and be executed before the second.
            assert await asking in (Applied.FIRST, Applied.FENCED)
    assert client.hget(KEYS.job(job_id), "state") == b"cancelled"
    assert client.hget(KEYS.counts, "*|cancelled") == b"1"


async def test_a_failover_loses_nothing(server: ValkeyProc, client: redis.Redis) -> None:
    """A server that takes no writes for a moment (READONLY: it became a replica) is asked until it does."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        client.replicaof("127.0.0.1", "1")
        try:
            asking = asyncio.create_task(recorder.apply(touch(job_id)))
            await asyncio.sleep(0.1)
            assert not asking.done()
        finally:
            client.replicaof("NO", "ONE")
        async with asyncio.timeout(PATIENCE_S):
            assert await asking is Applied.FIRST
    assert touched(client, job_id) == 1


async def test_a_primary_without_its_replicas_gets_it(server: ValkeyProc, client: redis.Redis) -> None:
    """-NOREPLICAS (min-replicas-to-write, and no replica in touch) passes: it is asked until it takes writes."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        client.config_set("min-replicas-to-write", 1)
        try:
            asking = asyncio.create_task(recorder.apply(touch(job_id)))
            await asyncio.sleep(0.1)
            assert not asking.done()
        finally:
            client.config_set("min-replicas-to-write", 0)
        async with asyncio.timeout(PATIENCE_S):
            assert await asking is Applied.FIRST
    assert touched(client, job_id) == 1


async def test_patience_ends(
    server: ValkeyProc, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After RETRY_FOR_S every asker of the run is told."""
    ids = enqueued(client, 2)
    monkeypatch.setattr(recorder_module, "RETRY_FOR_S", 0.0)
    async with recording(server) as recorder:
        server.kill()
        try:
            results = await all_of(recorder, *map(touch, ids))
        finally:
            server.start()
    assert [type(result) for result in results] == [StateUnavailable] * 2


# --- the end


async def test_close_flushes(server: ValkeyProc, client: redis.Redis) -> None:
    """What was asked for before the close is applied when it returns, window or not."""
    ids = enqueued(client, 3)
    async with recording(server) as recorder:
        asking = [asyncio.create_task(recorder.apply(touch(job_id))) for job_id in ids]
        await asyncio.sleep(0)
        await recorder.close(PATIENCE_S)
        assert [touched(client, job_id) for job_id in ids] == [1, 1, 1]
        assert await asyncio.gather(*asking) == [Applied.FIRST] * 3


@pytest.mark.parametrize("hurt", [ValkeyProc.kill, ValkeyProc.pause])
async def test_close_gives_up_in_time(
    server: ValkeyProc, client: redis.Redis, hurt: Callable[[ValkeyProc], None]
) -> None:
    """With the server gone or hung, close returns after its grace and those who wait are told."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        hurt(server)
        try:
            asking = asyncio.create_task(recorder.apply(touch(job_id)))
            await asyncio.sleep(0.05)
            with capture_logs() as logs:
                async with asyncio.timeout(PATIENCE_S):
                    assert await recorder.close(0.1) == 1
            with pytest.raises(StateUnavailable):
                await asking
        finally:
            server.resume() if server.running else server.start()
    assert [(line["event"], line["count"]) for line in logs] == [("transitions_given_up", 1)]


async def test_close_waits_for_a_server_that_comes_back(server: ValkeyProc, client: redis.Redis) -> None:
    """Within the grace, an answer of the provider is still recorded."""
    (job_id,) = enqueued(client, 1)
    async with recording(server) as recorder:
        server.pause()
        try:
            asking = asyncio.create_task(recorder.apply(touch(job_id)))
            closing = asyncio.create_task(recorder.close(PATIENCE_S))
            await asyncio.sleep(0.1)
            assert not closing.done()
        finally:
            server.resume()
        async with asyncio.timeout(PATIENCE_S):
            await closing
            assert await asking is Applied.FIRST


@pytest.mark.timeout(180)
def test_a_worker_ends_orderly_though_its_answers_cannot_be_recorded(tmp_path: Path) -> None:
    """State gone while POSTs are in flight, then SIGTERM: the process drains within its bounds and ends by itself.

    Its exit code says that something was left behind.
    """
    with House(tmp_path) as house:
        worker_settings = WorkerSettings(submit_timeout_s=4, shutdown_s=2)
        house.settings = house.settings.model_copy(update={"worker": worker_settings})
        house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "1"}]})
        worker = house.worker()
        house.enqueue(3)
        house.until(lambda: house.counts() == {"submitting": 3}, 30, "POSTs in flight")
        house.until(lambda: len(house.ledger()["groups"]) == 3, 30, "accepted by the provider")
        house.state.kill()
        assert worker.stop(within_s=30) == 1
        assert "transitions_given_up" in worker.log()
        assert "work_left_behind" in worker.log()
        assert "shutdown_overdue" not in worker.log()
        house.state.start()
