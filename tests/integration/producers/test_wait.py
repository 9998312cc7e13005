"""`wait`: many waiters, few connections, each returns when its jobs have ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from producers import Darkroom, JobNotFound, StateUnavailable
from tests.integration.producers.conftest import FOX, until
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker


def named(state: State, name: str) -> Any:
    """The settings for a client whose connections have a name."""
    redis = state.settings.redis.model_copy(update={"url": f"{state.settings.redis.url}?client_name={name}"})
    return state.settings.model_copy(update={"redis": redis})


def connections(state: State, name: str) -> int:
    return sum(each["name"] == name for each in state.client.client_list())


def listeners(state: State) -> int:
    return int(state.client.pubsub_numsub(state.keys.ended)[0][1])


def test_returns_at_once_for_what_has_ended(darkroom: Darkroom) -> None:
    """A job that ended before is not waited for."""
    job_id = darkroom.enqueue(FOX).job_id
    darkroom.cancel(job_id)
    assert darkroom.wait(job_id, timeout_s=0).state == "cancelled"


def test_returns_when_the_job_ends(darkroom: Darkroom) -> None:
    """The announcement wakes the waiter."""
    job_id = darkroom.enqueue(FOX).job_id
    threading.Timer(0.2, darkroom.cancel, (job_id,)).start()
    assert darkroom.wait(job_id, timeout_s=10).state == "cancelled"


def test_waits_for_all_of_many(darkroom: Darkroom) -> None:
    """Several ids give their jobs in the order asked for, repeated ones, too."""
    ids = darkroom.enqueue_many([FOX] * 5).job_ids
    for job_id in reversed(ids):
        threading.Timer(0.1, darkroom.cancel, (job_id,)).start()
    jobs = darkroom.wait([*ids, ids[0]], timeout_s=10)
    assert [job.id for job in jobs] == [*ids, ids[0]]


def test_times_out(darkroom: Darkroom) -> None:
    """What has not ended is named, and nothing is changed."""
    ended, waiting = darkroom.enqueue_many([FOX] * 2).job_ids
    darkroom.cancel(ended)
    with pytest.raises(TimeoutError, match=f"1 of 2 jobs have not ended yet: {waiting}"):
        darkroom.wait([ended, waiting], timeout_s=0.1)
    assert darkroom.get(waiting).state == "queued"


def test_an_unknown_job_has_not_ended(darkroom: Darkroom, worker: FakeWorker) -> None:
    """Its outcome is still to come."""
    darkroom.enqueue(FOX)
    job_id = worker.make_unknown()
    with pytest.raises(TimeoutError):
        darkroom.wait(job_id, timeout_s=0.1)


def test_knows_when_there_is_no_such_job(darkroom: Darkroom) -> None:
    """Waiting for nothing would be for ever."""
    with pytest.raises(JobNotFound, match="job_nope"):
        darkroom.wait("job_nope", timeout_s=10)


def test_hears_that_a_record_is_gone(darkroom: Darkroom, state: State) -> None:
    """A record that vanishes while it is waited for ends the wait."""
    job_id = darkroom.enqueue(FOX).job_id
    threading.Timer(0.2, state.client.delete, (state.keys.job(job_id), state.keys.spec(job_id))).start()
    with pytest.raises(JobNotFound):
        darkroom.wait(job_id, timeout_s=10)


def test_a_lost_announcement_costs_a_second(darkroom: Darkroom, state: State) -> None:
    """Pub/sub keeps nothing: the read-back finds what was never announced."""
    job_id = darkroom.enqueue(FOX).job_id
    state.owned.append(f"[jr]:{job_id}")
    threading.Timer(0.2, state.client.hset, (state.keys.job(job_id), "state", "failed")).start()
    assert darkroom.wait(job_id, timeout_s=10).state == "failed"


def test_a_hundred_waiters_share_two_connections(state: State) -> None:
    """Every waiter gets its own job, and together they use one connection to listen and one to read."""
    with Darkroom(state.settings) as producer, Darkroom(named(state, state.namespace)) as darkroom:
        ids = producer.enqueue_many([FOX] * 100).job_ids
        with ThreadPoolExecutor(100) as pool:
            waits = [pool.submit(darkroom.wait, job_id, 30) for job_id in ids]
            until(lambda: len(darkroom._waiters._registry.waited()) == 100)
            until(lambda: listeners(state) == 1)
            for job_id in reversed(ids):
                producer.cancel(job_id)
            assert [wait.result().id for wait in waits] == ids
        assert connections(state, state.namespace) == 2


def test_survives_a_restart_of_the_server(state: State, tmp_path: Path) -> None:
    """A waiter outlives an outage shorter than its patience."""
    with ValkeyProc(tmp_path, appendfsync="always") as server:
        redis = state.settings.redis.model_copy(update={"url": server.url()})
        with Darkroom(state.settings.model_copy(update={"redis": redis})) as darkroom:
            job_id = darkroom.enqueue(FOX).job_id
            with ThreadPoolExecutor(1) as pool:
                wait = pool.submit(darkroom.wait, job_id, 30)
                with server.client() as client:
                    channel = state.keys.ended
                    until(lambda: client.pubsub_numsub(channel)[0][1] == 1)
                server.restart()
                darkroom.cancel(job_id)
                assert wait.result().state == "cancelled"


def test_says_when_the_server_is_not_there(state: State) -> None:
    """A wait that cannot even begin does not hang."""
    redis = state.settings.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"})
    darkroom = Darkroom(state.settings.model_copy(update={"redis": redis}))
    with darkroom, pytest.raises(StateUnavailable, match="no Redis at"):
        darkroom.wait("job_1", timeout_s=10)


def test_closing_ends_waits(state: State) -> None:
    """No thread is left waiting on a client that is closed."""
    darkroom = Darkroom(state.settings)
    job_id = darkroom.enqueue(FOX).job_id
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(darkroom.wait, job_id, 30)
        until(lambda: listeners(state) == 1)
        darkroom.close()
        with pytest.raises(TimeoutError):
            wait.result(timeout=5)
    assert listeners(state) == 0


def test_the_listener_goes_when_nobody_waits(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle client holds no thread; the next wait starts one."""
    monkeypatch.setattr("producers.waiters._IDLE_S", 0.0)
    for _ in range(2):
        job_id = darkroom.enqueue(FOX).job_id
        threading.Timer(0.1, darkroom.cancel, (job_id,)).start()
        darkroom.wait(job_id, timeout_s=10)
        until(lambda: darkroom._waiters._thread is None)


# --- batches ---


def test_waits_for_a_batch(darkroom: Darkroom, worker: FakeWorker) -> None:
    """It completes when it is sealed and its last job has ended; counts, images and cost add up."""
    ids = darkroom.enqueue_many([FOX] * 3, batch="b").job_ids
    first, second = worker.claim(2)
    worker.intend(first)
    worker.accept(first, "generation-1")
    worker.deliver(first)
    worker.complete(first)
    worker.fail(second)
    with pytest.raises(TimeoutError, match="2 of 3 jobs"):
        darkroom.wait_batch("b", timeout_s=0.1)
    threading.Timer(0.1, darkroom.cancel, (ids[2],)).start()
    status = darkroom.wait_batch("b", timeout_s=10, every_s=0.05)
    assert (status.done, status.total, status.images, status.cost_micros) == (3, 3, 1, 200_000)
    assert {state: count for state, count in status.counts.items() if count} == {
        "completed": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    assert status.completed_at is not None


def test_an_open_batch_does_not_complete(darkroom: Darkroom) -> None:
    """Not before it is sealed, even if all its jobs have ended."""
    job_id = darkroom.enqueue(FOX, batch="b").job_id
    darkroom.cancel(job_id)
    with pytest.raises(TimeoutError, match="1 of 1"):
        darkroom.wait_batch("b", timeout_s=0.1)
    darkroom.seal("b")
    assert darkroom.wait_batch("b", timeout_s=5).done == 1


def test_a_wait_is_not_delayed_by_others(darkroom: Darkroom) -> None:
    """A waiter returns for its own job, while another waits on."""
    slow, fast = darkroom.enqueue_many([FOX] * 2).job_ids
    with ThreadPoolExecutor(2) as pool:
        waits: list[Any] = [pool.submit(darkroom.wait, job_id, 30) for job_id in (slow, fast)]
        until(lambda: len(darkroom._waiters._registry.waited()) == 2)
        darkroom.cancel(fast)
        assert waits[1].result(timeout=10).id == fast
        assert not waits[0].done()
        darkroom.cancel(slow)
        assert waits[0].result(timeout=10).id == slow
