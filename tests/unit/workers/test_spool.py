"""The spool: an id is on disk when the block could not record it, one process looks after it, nobody reads rubbish."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.process import ROOT
from workers import spool as spool_module
from workers.spool import LateId, Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

INTENT = "0123456789abcdef"
LATE = LateId(intent_id=INTENT, job_id="job_1", lane="main/wan2.7-image", generation_id="task_1", at=1.5)
KEEP_AND_DIE = """
import asyncio, os
from pathlib import Path
from workers.spool import LateId, Spool

async def die():
    spool = Spool(Path({folder!r}))
    async with spool.keeping(LateId.model_validate_json({late!r})):
        await asyncio.sleep(1.5)
        os.kill(os.getpid(), 9)

asyncio.run(die())
"""


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool" / "mark")
    yield made
    made.close()


def names(tmp_path: Path) -> list[str]:
    """What is in the spool; also if there is no folder."""
    return sorted(path.name for path in tmp_path.glob("spool/mark/*"))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_server_that_answers_in_time_costs_no_disk(spool: Spool, tmp_path: Path) -> None:
    """The happy path touches nothing."""
    async with spool.keeping(LATE):
        await asyncio.sleep(0)
    assert await spool.leftovers() == []
    assert names(tmp_path) == []


async def test_an_id_that_waits_is_on_disk_and_goes_when_recorded(spool: Spool, tmp_path: Path) -> None:
    """While the block waits the file is whole, says no more than it must, and belongs to its writer."""
    async with spool.keeping(LATE):
        async with asyncio.timeout(30):
            while not names(tmp_path):  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.02)
        (name,) = names(tmp_path)
        file = tmp_path / "spool" / "mark" / name
        assert json.loads(file.read_text()) == {
            "v": 1, "intent_id": INTENT, "job_id": "job_1", "lane": "main/wan2.7-image", "generation_id": "task_1",
            "at": 1.5,
        }  # fmt: skip
        assert file.stat().st_mode & 0o077 == 0
        other = Spool(file.parent)
        assert await other.leftovers() == []
        other.close()
    assert names(tmp_path) == []


async def test_a_block_that_fails_leaves_the_id(spool: Spool, tmp_path: Path) -> None:
    """Given up or cancelled before half a second is over: the id is on disk, and anybody may take it."""
    with pytest.raises(TimeoutError):
        async with spool.keeping(LATE):
            raise TimeoutError
    (kept,) = await spool.leftovers()
    assert kept.late == LATE
    kept.remove()
    kept.let_go()
    assert names(tmp_path) == []


async def test_the_id_of_a_process_that_was_killed_is_taken_over(spool: Spool, tmp_path: Path) -> None:
    """SIGKILL ends the lock and not the file: the next process of this machine has it, once."""
    folder = tmp_path / "spool" / "mark"
    program = KEEP_AND_DIE.format(folder=str(folder), late=LATE.model_dump_json())
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True
    )
    assert ended.returncode == -9, ended.stderr
    (kept,) = await spool.leftovers()
    assert kept.late == LATE
    assert await spool.leftovers() == []
    kept.let_go()
    (again,) = await spool.leftovers()
    again.let_go()


async def test_what_cannot_be_read_is_set_aside_once(spool: Spool, tmp_path: Path) -> None:
    """Rubbish is told and kept for a person; the file of a later version is left alone."""
    folder = tmp_path / "spool" / "mark"
    folder.mkdir(parents=True)
    (folder / "aa.json").write_text("not json")
    (folder / "bb.json").write_text(json.dumps({"v": 1, "intent_id": "b"}))
    (folder / "cc.json").write_text(json.dumps({"v": 2, "anything": 1}))
    with capture_logs() as logs:
        assert await spool.leftovers() == []
        assert await spool.leftovers() == []
    assert sorted(line["file"] for line in logs) == ["aa.json", "bb.json"]
    assert names(tmp_path) == ["aa.unreadable", "bb.unreadable", "cc.json"]


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """A file in the way, as a read-only or full disk would be: it is told, and the block goes on."""
    (tmp_path / "spool").write_text("in the way")
    spool = Spool(tmp_path / "spool" / "mark")
    with capture_logs() as logs, pytest.raises(TimeoutError):
        async with spool.keeping(LATE):
            raise TimeoutError
    assert [line["event"] for line in logs] == ["spool_failed"]
    assert logs[0]["job_id"] == "job_1"
    spool.close()


async def test_a_torn_file_is_cleared_away(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its writer could not finish says nothing: it goes after a while."""
    folder = tmp_path / "spool" / "mark"
    folder.mkdir(parents=True)
    (folder / f"{INTENT}.tmp").write_text('{"v":1,"inte')
    assert await spool.leftovers() == []
    assert names(tmp_path) == [f"{INTENT}.tmp"]
    monkeypatch.setattr(spool_module, "_TORN_AFTER_S", -1.0)
    assert await spool.leftovers() == []
    assert names(tmp_path) == []


async def test_switched_off_it_keeps_nothing() -> None:
    """No folder: nothing is written, nothing is found."""
    spool = Spool(None)
    with pytest.raises(TimeoutError):
        async with spool.keeping(LATE):
            raise TimeoutError
    assert await spool.leftovers() == []
    spool.close()


async def test_no_descriptor_is_left_open(spool: Spool) -> None:
    """Kept, taken, let go: the process has as many files open as before."""
    await spool.leftovers()
    before = open_files()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with spool.keeping(LATE):
                raise TimeoutError
        (kept,) = await spool.leftovers()
        kept.remove()
        kept.let_go()
    assert open_files() == before
