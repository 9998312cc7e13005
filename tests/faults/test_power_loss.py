"""The machine of the state server loses power: its AOF ends some time before its death.

The disk of T seconds ago is a copy of the AOF taken then; a restart from it is what a power loss leaves.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import forgotten_intents, intents, judged, judged_with_a_gap, under_load
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from pathlib import Path

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


def _lose_power(faults: FaultHouse, ids: list[str]) -> set[str]:
    """Kill the server and start it from the copied disk; give the jobs whose intents that disk does not have."""
    faults.state.kill()
    now, then = faults.state.folder / "appendonlydir", faults.folder / "disk"
    lost = forgotten_intents(had=_intents_on(now, faults, ids), kept=_intents_on(then, faults, ids))
    shutil.rmtree(now)
    shutil.move(then, now)
    faults.state.start()
    return lost


def _intents_on(disk: Path, faults: FaultHouse, ids: list[str]) -> dict[str, str]:
    """Read an AOF by a server of its own, from a copy: what was answered is in it, as it is written first."""
    folder = faults.folder / f"reader of {disk.name}"
    shutil.copytree(disk, folder / "appendonlydir")
    with ValkeyProc(folder, name="reader", binary=faults.state_binary) as reader:
        return intents(reader, ids)


def test_the_last_second_is_lost(faults: FaultHouse) -> None:
    """`everysec`: POSTs of the lost second may be sent again, and no others; nothing older is lost."""
    ids = under_load(faults)
    _copy_disk(faults)
    time.sleep(CUT_S)
    doubtful = _lose_power(faults, ids)
    assert doubtful, "the lost second had POSTs"
    judged_with_a_gap(faults, "power loss, 1 s of the AOF lost", ids, doubtful)


@pytest.mark.parametrize("faults", [ALWAYS], ids=["always"], indirect=True)
def test_nothing_is_lost_if_every_write_is_on_the_disk(faults: FaultHouse) -> None:
    """`always`: what was answered is on the disk at every instant, so a power loss is a restart."""
    ids = under_load(faults)
    _copy_disk(faults, resume=False)
    assert not _lose_power(faults, ids)
    judged(faults, "power loss, appendfsync always", ids)


@pytest.mark.parametrize("faults", [{}, {"binary": "redis-server"}], ids=["valkey", "redis7"], indirect=True)
def test_the_end_of_the_file_is_torn(faults: FaultHouse) -> None:
    """The AOF ends in the middle of a command: it is read up to there, and no script is half applied.

    The script that is torn may have been a claim, so its POSTs may be sent again.
    """
    ids = under_load(faults)
    _copy_disk(faults)
    last = max((faults.folder / "disk").glob("*.incr.aof"))
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 7)
    judged_with_a_gap(faults, "AOF torn in a command", ids, _lose_power(faults, ids))
