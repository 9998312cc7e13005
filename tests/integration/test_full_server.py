"""A state server whose memory is full: what was accepted can still be looked at, cancelled and accounted for."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import OutOfMemoryError

from shared.jobs.commands import plan_cancel
from shared.jobs.store import JobStore
from shared.money import ledger
from shared.redis.keys import Keys
from shared.settings import LimitSettings
from tests.integration.lua.conftest import State
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["valkey", "redis7"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """Two jobs, one of them claimed, on a server that takes no more."""
    binary = shutil.which("redis-server") if request.param == "redis7" else None
    with ValkeyProc(tmp_path, binary=binary) as server, server.client() as client:
        state = State(client, Keys.of("full"))
        state.enqueue(2)
        state.claim_submit(1)
        client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            state.enqueue()
        yield state


def test_jobs_are_read_and_cancelled(full: State) -> None:
    """`darkroom status` and `cancel` need no memory [Redis 7.0 refuses MULTI then, even of reads]."""
    store = JobStore(full.client, full.keys, LimitSettings())
    ids = [key.decode().rpartition(":")[2] for key in full.client.scan_iter(match=full.keys.job("*"))]
    assert {str(job.state) for job in store.read(ids) if job} == {"queued", "submitting"}
    for job_id in ids:
        store.change(job_id, plan_cancel)
    assert {str(job.state) for job in store.read(ids) if job} == {"cancelled"}


def test_the_ledger_is_verified(full: State) -> None:
    """So does `darkroom ledger verify`."""
    report = ledger.verify(full.client, full.keys)
    assert report.adds_up
    assert report.open_holds == 1
