"""The machine of the state server loses power: its AOF ends some time before its death.

The disk of T seconds ago is a copy of the AOF taken then; a restart from it is what a power loss leaves.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import judged, judged_with_a_gap, submits, under_load

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
    seen = submits(faults)
    shutil.rmtree(faults.state.folder / "appendonlydir")
    shutil.move(faults.folder / "disk", faults.state.folder / "appendonlydir")
    faults.state.start()
    return seen


def test_the_last_second_is_lost(faults: FaultHouse) -> None:
    """`everysec`: POSTs of the lost second may be sent again, and no others; nothing older is lost."""
    ids = under_load(faults)
    before = submits(faults)
    _copy_disk(faults)
    time.sleep(CUT_S)
    judged_with_a_gap(faults, "power loss, 1 s of the AOF lost", ids, _lose_power(faults) - before)


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
    before = submits(faults)
    _copy_disk(faults)
    last = max((faults.folder / "disk").glob("*.incr.aof"))
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 7)
    judged_with_a_gap(faults, "AOF torn in a command", ids, _lose_power(faults) - before)
