"""The state server goes between the provider's 2xx and its record, and then the worker: the id is on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.judge import judge
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.campaign import FaultHouse

JOBS = 6

pytestmark = pytest.mark.timeout(180)


def _with_spool(faults: FaultHouse, folder: Path) -> None:
    worker = faults.settings.worker.model_copy(update={"spool": folder})
    faults.settings = faults.settings.model_copy(update={"worker": worker})


def _files(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/*.json"))


def _wait(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@pytest.mark.parametrize("lost", ["server", "server and worker"])
def test_accepted_while_the_state_server_is_away(faults: FaultHouse, tmp_path: Path, lost: str) -> None:
    """Every POST was accepted and none could be recorded: nothing is unknown, and each is charged once.

    The worker that knows the ids goes on when the server is back; or it is killed, too, and the next one of this
    machine finds them on its disk.
    """
    spool = tmp_path / "spool"
    _with_spool(faults, spool)
    faults.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "1.5"}]})
    worker = faults.worker()
    ids = faults.enqueue_for_judgement(JOBS)
    _wait(lambda: len(faults.ledger()["groups"]) == JOBS, "accepted by the provider")
    faults.state.kill()
    _wait(lambda: _files(spool) == JOBS, "every id on the disk")
    assert all(b"[[m:" not in path.read_bytes() for path in spool.glob("*/*"))
    if lost != "server":
        worker.kill()
    faults.provider.post("/control/faults", {"rules": []})
    faults.state.start()
    if lost != "server":
        faults.worker("heir")
    faults.until(lambda: faults.counts().get("completed") == JOBS, 60, "every job completed")
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(f"{lost} lost between 2xx and record", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert (verdict.unknown, verdict.failed) == (0, 0), verdict
    assert faults.ledger()["charged_images"] == JOBS
    _wait(lambda: _files(spool) == 0, "no file is left")
