"""What the state server may do to its workers: die, hang, load, refuse. Work goes on by itself when it is back."""

from __future__ import annotations

import resource
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from shared.errors import StateUnavailable
from tests.faults.judge import judge
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.campaign import FaultHouse

JOBS = 40
SLOTS = 6  # so that the jobs outlast the fault
RESUME_S = 10.0
BUSY_MACHINE = 2.0  # promises are of a quiet machine
REDIS7 = {"binary": "redis-server"}
BOTH = pytest.mark.parametrize("faults", [{}, REDIS7], ids=["valkey", "redis7"], indirect=True)

pytestmark = pytest.mark.timeout(240)


def _under_load(faults: FaultHouse) -> list[str]:
    """Start two workers on more jobs than they can do at once, and wait until all stages have work."""
    faults.lane(max_in_flight=SLOTS)
    faults.worker("one")
    faults.worker("two")
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: faults.counts().get("completed", 0) >= 2, 60, "work in progress")
    return ids


def _judged(faults: FaultHouse, fault: str, ids: list[str], *, resume_s: float = RESUME_S) -> float:
    """The fault has just ended: work goes on by itself, every promise is kept. Gives the seconds until it went on."""
    resumed_s = faults.resumed(resume_s * BUSY_MACHINE)
    recovered_s = resumed_s + faults.quiet(len(ids))
    verdict = judge(faults, ids)
    name = faults.state_binary or "valkey"
    note_row(f"{fault} ({name})", faults.seed, verdict, recovered_s, resumed_s=resumed_s)
    assert verdict.clean, verdict
    assert verdict.failed == 0, verdict
    assert all(worker.running for worker in faults.workers), "no worker ends over it"
    return resumed_s


@contextmanager
def _again_and_again(hurt: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it again and again while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            hurt()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@BOTH
def test_killed_and_restarted(faults: FaultHouse) -> None:
    """SIGKILL, 2 s without a server, then the same AOF."""
    ids = _under_load(faults)
    faults.state.kill()
    time.sleep(2)
    faults.state.start()
    _judged(faults, "state server killed, back after 2 s", ids)


def test_paused(faults: FaultHouse) -> None:
    """SIGSTOP for three leases: no connection breaks, nothing is answered."""
    ids = _under_load(faults)
    faults.state.pause()
    time.sleep(5)
    faults.state.resume()
    _judged(faults, "state server paused for 5 s", ids)


@BOTH
def test_loading(faults: FaultHouse) -> None:
    """A restart whose data takes seconds to load: -LOADING is waited for."""
    ids = _under_load(faults)
    with faults.state.client() as client:
        client.bgrewriteaof()
        faults.until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, 20, "AOF rewritten")
        keys = client.dbsize()
    faults.state.kill()
    slow = {"key-load-delay": str(3_000_000 // keys), "loading-process-events-interval-bytes": "1024"}
    faults.state.set_options(slow)
    faults.state.start(wait=False)
    faults.until(lambda: _refusal(faults) is redis.BusyLoadingError, 10, "it loads")
    faults.state.wait_ready()
    _judged(faults, "state server loading for 3 s", ids)


def _refusal(faults: FaultHouse) -> type[Exception] | None:
    with faults.state.client(socket_timeout=2) as client:
        try:
            client.set("{darkroom}:probe", 1, px=1)
        except redis.RedisError as error:
            return type(error)
    return None


@BOTH
def test_read_only(faults: FaultHouse) -> None:
    """The server becomes the replica of a dead host, as in a failover that finds no master, then a master again."""
    ids = _under_load(faults)
    with faults.state.client() as client:
        client.replicaof("127.0.0.1", "9")
        assert _refusal(faults) is redis.exceptions.ReadOnlyError
        time.sleep(4)
        client.replicaof("NO", "ONE")
    _judged(faults, "state server read-only for 4 s", ids)


@BOTH
def test_full(faults: FaultHouse) -> None:
    """Maxmemory is reached: an enqueue is refused whole, what is accepted is finished; more room ends it."""
    ids = _under_load(faults)
    with faults.state.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StateUnavailable, match="full"):
            faults.darkroom.enqueue_many(faults.requests(3, "refused"), batch="refused", webhook=faults.hook)
        assert not client.keys("{darkroom}:*refused*"), "an enqueue is refused whole"
        faults.quiet(JOBS)
        assert faults.counts() == {"completed": JOBS}
        client.config_set("maxmemory", 0)
    more = faults.enqueue_for_judgement(5, "more")
    faults.until(lambda: faults.settled(5, "more"), 30, "new jobs are taken again")
    faults.quiet(JOBS)
    verdict = judge(faults, ids + more)
    note_row(f"state server full ({faults.state_binary or 'valkey'})", faults.seed, verdict, 0.0)
    assert verdict.clean, verdict
    assert verdict.failed == verdict.unknown == 0, verdict


def test_disk_full(faults: FaultHouse) -> None:
    """The AOF cannot be written (-MISCONF): an enqueue is refused, workers wait, room on the disk ends it.

    The disk's end is the greatest file that the server may write.
    """
    patient = faults.folder / "valkey-without-xfsz"  # else the kernel ends it instead of refusing the write
    patient.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {faults.state.binary} \"$@\"\n")
    patient.chmod(0o700)
    faults.state.binary = str(patient)
    faults.state.restart()
    ids = _under_load(faults)
    _, hard = resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE, (1024, hard))
    faults.until(lambda: _refusal(faults) is redis.ResponseError, 20, "the server refuses writes")
    with pytest.raises(StateUnavailable, match="MISCONF"):
        faults.darkroom.enqueue_many(faults.requests(3, "refused"), batch="refused", webhook=faults.hook)
    time.sleep(3)
    resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE, (hard, hard))
    faults.until(lambda: _refusal(faults) is None, 20, "the server writes again")
    _judged(faults, "disk of the state server full for 3 s", ids)


def test_scripts_forgotten(faults: FaultHouse) -> None:
    """SCRIPT FLUSH every 20 ms: each call finds NOSCRIPT and sends its text again."""
    with faults.state.client() as client, _again_and_again(client.script_flush, 0.02):
        ids = _under_load(faults)
        time.sleep(3)
    _judged(faults, "scripts flushed every 20 ms", ids)


def test_clients_killed(faults: FaultHouse) -> None:
    """CLIENT KILL of every connection, twice a second for 2 s."""
    ids = _under_load(faults)
    with faults.state.client() as client, _again_and_again(lambda: _kill_clients(client), 0.5):
        time.sleep(2)
    _judged(faults, "connections killed twice a second for 2 s", ids)


def _kill_clients(client: redis.Redis) -> None:
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
