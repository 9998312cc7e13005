"""What the state server may do to its workers: die, hang, load, refuse. Work goes on by itself when it is back."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import pytest
import redis

from shared.errors import StateUnavailable
from tests.faults.judge import judge
from tests.faults.load import JOBS, again_and_again, judged, kill_clients, under_load
from tests.faults.table import note_row

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

REDIS7 = {"binary": "redis-server"}
BOTH = pytest.mark.parametrize("faults", [{}, REDIS7], ids=["valkey", "redis7"], indirect=True)

pytestmark = pytest.mark.timeout(240)


@BOTH
def test_killed_and_restarted(faults: FaultHouse) -> None:
    """SIGKILL, 2 s without a server, then the same AOF."""
    ids = under_load(faults)
    faults.state.kill()
    time.sleep(2)
    faults.state.start()
    judged(faults, "state server killed, back after 2 s", ids)


def test_paused(faults: FaultHouse) -> None:
    """SIGSTOP for three leases: no connection breaks, nothing is answered."""
    ids = under_load(faults)
    faults.state.pause()
    time.sleep(5)
    faults.state.resume()
    judged(faults, "state server paused for 5 s", ids)


@BOTH
def test_loading(faults: FaultHouse) -> None:
    """A restart whose data takes seconds to load: -LOADING is waited for."""
    ids = under_load(faults)
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
    judged(faults, "state server loading for 3 s", ids)


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
    ids = under_load(faults)
    with faults.state.client() as client:
        client.replicaof("127.0.0.1", "9")
        assert _refusal(faults) is redis.exceptions.ReadOnlyError
        time.sleep(4)
        client.replicaof("NO", "ONE")
    judged(faults, "state server read-only for 4 s", ids)


@BOTH
def test_full(faults: FaultHouse) -> None:
    """Maxmemory is reached: an enqueue is refused whole, what is accepted is finished; more room ends it."""
    ids = under_load(faults)
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
    ids = under_load(faults)
    _, hard = resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE, (1024, hard))
    faults.until(lambda: _refusal(faults) is redis.ResponseError, 20, "the server refuses writes")
    with pytest.raises(StateUnavailable, match="MISCONF"):
        faults.darkroom.enqueue_many(faults.requests(3, "refused"), batch="refused", webhook=faults.hook)
    time.sleep(3)
    resource.prlimit(faults.state.pid, resource.RLIMIT_FSIZE, (hard, hard))
    faults.until(lambda: _refusal(faults) is None, 20, "the server writes again")
    judged(faults, "disk of the state server full for 3 s", ids)


def test_scripts_forgotten(faults: FaultHouse) -> None:
    """SCRIPT FLUSH every 20 ms: each call finds NOSCRIPT and sends its text again."""
    with faults.state.client() as client, again_and_again(client.script_flush, 0.02):
        ids = under_load(faults)
        time.sleep(3)
    judged(faults, "scripts flushed every 20 ms", ids)


def test_clients_killed(faults: FaultHouse) -> None:
    """CLIENT KILL of every connection, twice a second for 2 s."""
    ids = under_load(faults)
    with faults.state.client() as client, again_and_again(lambda: kill_clients(client), 0.5):
        time.sleep(2)
    judged(faults, "connections killed twice a second for 2 s", ids)
