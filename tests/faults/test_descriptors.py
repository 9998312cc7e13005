"""File descriptors run out: workers can open nothing, or the state server takes no more connections."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from shared.errors import StateUnavailable
from tests.descriptors import none_left
from tests.faults.dials import tune
from tests.faults.load import again_and_again, judged, kill_clients, under_load
from tests.process import HOST, free_ports

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse
    from tests.servers import ValkeyProc

OUTAGE_S = 5.0  # longer than three leases
CPU_SHARE = 0.2  # of one core, while nothing can be done: a worker that spins takes what it gets
ENDED_WITHIN_S = 30.0

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("cut", [False, True], ids=["connections stay", "connections cut"])
def test_workers_can_open_nothing(faults: FaultHouse, *, cut: bool) -> None:
    """No socket and no file for 5 s, with or without the connections to the state server that were open before.

    Somebody asks for metrics meanwhile, and waits at the door of one worker.
    """
    port = free_ports(1)[0]
    tune(faults, "metrics", worker_port=port)
    ids = under_load(faults)
    with (
        none_left(*(worker.pid for worker in faults.workers)),
        closing(socket.create_connection((HOST, port))),
    ):
        if cut:
            _cut(faults.state)
        used_s = [worker.cpu_s() for worker in faults.workers]
        time.sleep(OUTAGE_S)
        for worker, before_s in zip(faults.workers, used_s, strict=True):
            assert worker.cpu_s() - before_s < CPU_SHARE * OUTAGE_S, f"{worker.name} spins"
    way = ", cut off from the state server" if cut else ""
    judged(faults, f"workers without file descriptors for 5 s{way}", ids)


def test_workers_can_open_nothing_and_lose_the_broker(faults: FaultHouse) -> None:
    """Celery ends a worker that cannot reach its broker for want of a descriptor: with an error, so it is restarted."""
    ids = under_load(faults)
    with none_left(*(worker.pid for worker in faults.workers)):
        _cut(faults.state)
        _cut(faults.broker)
        time.sleep(OUTAGE_S)
    faults.until(
        lambda: not any(worker.running for worker in faults.workers), ENDED_WITHIN_S, "both have ended"
    )
    for worker in faults.workers:
        assert worker.exit_code == 1
        assert "Too many open files" in worker.log()
        worker.start()
    judged(faults, "workers without file descriptors, cut off from the broker too, restarted", ids)


@pytest.mark.parametrize("faults", [{}, {"binary": "redis-server"}], ids=["valkey", "redis7"], indirect=True)
def test_the_server_takes_no_more_connections(faults: FaultHouse) -> None:
    """Maxclients is reached, and workers lose what they had: an enqueue says why it fails, workers come back."""
    ids = under_load(faults)
    with faults.state.client() as client:
        client.config_set("maxclients", 1)
        with again_and_again(lambda: kill_clients(client), 0.5):
            time.sleep(OUTAGE_S)
            with pytest.raises(StateUnavailable, match="maxclients"):
                faults.producer().enqueue_many(
                    faults.requests(3, "refused"), batch="refused", webhook=faults.hook
                )
        assert not client.keys("{darkroom}:*refused*"), "an enqueue is refused whole"
        client.config_set("maxclients", 10_000)
    judged(faults, "state server at its maxclients for 5 s", ids)


def _cut(server: ValkeyProc) -> None:
    with server.client() as client:
        kill_clients(client)
