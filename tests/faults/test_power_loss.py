"""The machine of the state server loses power: its AOF ends some time before its death.

The disk of T seconds ago is a copy of the AOF taken then; a restart from it is what a power loss leaves.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from shared.money.ledger import verify
from shared.redis.keys import Keys
from tests.faults.judge import judge
from tests.faults.load import BUSY_MACHINE, RESUME_S, judged, under_load
from tests.faults.table import note_row

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

CUT_S = 1.0  # what `everysec` may lose
ALWAYS = {"appendfsync": "always"}

pytestmark = pytest.mark.timeout(240)


def _copy_disk(faults: FaultHouse, *, resume: bool = True) -> None:
    """Copy the AOF while the server stands still: between two system calls, as a disk would have it."""
    faults.state.pause()
    shutil.copytree(faults.state.folder / "appendonlydir", faults.folder / "disk")
    if resume:
        faults.state.resume()


def _lose_power(faults: FaultHouse) -> int:
    """Kill the server and start it from the copied disk; give the submits that the provider had seen by then."""
    faults.state.kill()
    time.sleep(0.3)  # POSTs whose intent was written arrive
    seen = _submits(faults)
    shutil.rmtree(faults.state.folder / "appendonlydir")
    shutil.move(faults.folder / "disk", faults.state.folder / "appendonlydir")
    faults.state.start()
    return seen


def _submits(faults: FaultHouse) -> int:
    submits: int = faults.ledger()["submits_seen"]
    return submits


def _judged_with_a_gap(faults: FaultHouse, fault: str, ids: list[str], in_doubt: int) -> None:
    """Every promise is kept but for the POSTs `in_doubt`: of those, each may have been sent again.

    What was sent twice runs twice at the provider, so its slots may be passed by as many, and one of the two charges
    belongs to no job. If the first image was stored already, the second is not put over it: failed(copy_failed).
    Nothing else is wrong, and the books themselves add up.
    """
    resumed_s = faults.resumed(RESUME_S * BUSY_MACHINE)
    recovered_s = resumed_s + faults.quiet(len(ids))
    verdict = judge(faults, ids)
    name = faults.state_binary or "valkey"
    note_row(f"{fault} ({name})", faults.seed, verdict, recovered_s, resumed_s=resumed_s)
    again = verdict.double_charged
    assert again <= in_doubt, verdict
    assert max(verdict.forgotten, verdict.wrong_bill, verdict.over_limit) <= again, verdict
    assert max(verdict.failed, verdict.wrong_terminal) <= again, verdict
    assert not any((verdict.lost, verdict.damaged, verdict.untold, verdict.duplicate_events)), verdict
    assert verify(faults.state.client(), Keys.of("darkroom")).adds_up
    assert all(worker.running for worker in faults.workers)


def test_the_last_second_is_lost(faults: FaultHouse) -> None:
    """`everysec`: POSTs of the lost second may be sent again, and no others; nothing older is lost."""
    ids = under_load(faults)
    before = _submits(faults)
    _copy_disk(faults)
    time.sleep(CUT_S)
    _judged_with_a_gap(faults, "power loss, 1 s of the AOF lost", ids, _lose_power(faults) - before)


@pytest.mark.parametrize("faults", [ALWAYS], ids=["always"], indirect=True)
def test_nothing_is_lost_if_every_write_is_on_the_disk(faults: FaultHouse) -> None:
    """`always`: what was answered is on the disk at every instant, so a power loss is a restart."""
    ids = under_load(faults)
    _copy_disk(faults, resume=False)
    _lose_power(faults)
    judged(faults, "power loss, appendfsync always", ids)


@pytest.mark.parametrize("faults", [{}, {"binary": "redis-server"}], ids=["valkey", "redis7"], indirect=True)
def test_the_end_of_the_file_is_torn(faults: FaultHouse) -> None:
    """The AOF ends in the middle of a command: it is read up to there, and no script is half applied."""
    ids = under_load(faults)
    before = _submits(faults)
    _copy_disk(faults)
    last = max((faults.folder / "disk").glob("*.incr.aof"))
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 7)
    _judged_with_a_gap(faults, "AOF torn in a command", ids, _lose_power(faults) - before)
