"""Syncing for many at once: who asked before a round is served by it, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import StorageError
from shared.folder_sync import FolderSync, can_sync_folder
from shared.object_folder import ObjectFolder
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.integration.storage_content import KEY, Contents

if TYPE_CHECKING:
    from pathlib import Path


class SlowSync(FolderSync):
    """A folder whose syncs begin when the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go, self.fails = threading.Semaphore(0), False

    def _sync(self) -> None:
        self.go.acquire()
        if self.fails:
            raise OSError(errno.EIO, "cannot write")
        super()._sync()


async def test_many_wait_for_few_rounds(tmp_path: Path) -> None:
    """The first asks alone; all who come meanwhile share the second round."""
    folder = SlowSync(tmp_path)
    first = asyncio.create_task(folder.durable())
    await asyncio.sleep(0)
    others = [asyncio.create_task(folder.durable()) for _ in range(50)]
    await asyncio.sleep(0)
    folder.go.release()
    await first
    assert not any(each.done() for each in others)
    folder.go.release()
    await asyncio.gather(*others)
    assert folder.rounds == 2


async def test_a_cancelled_waiter_leaves_the_others_alone(tmp_path: Path) -> None:
    """Its round goes on for those who still wait, and later ones begin their own."""
    folder = SlowSync(tmp_path)
    gone, stays = asyncio.create_task(folder.durable()), asyncio.create_task(folder.durable())
    await asyncio.sleep(0)
    gone.cancel()
    folder.go.release()
    await stays
    folder.go.release()
    await folder.durable()
    assert gone.cancelled()
    assert folder.rounds == 2


async def test_a_disk_that_cannot_write_says_so_to_each(tmp_path: Path) -> None:
    """Nobody takes a failed sync for success; the next round is a new try."""
    folder = SlowSync(tmp_path)
    folder.fails = True
    folder.go.release(2)
    said = await asyncio.gather(folder.durable(), folder.durable(), return_exceptions=True)
    assert [getattr(each, "errno", None) for each in said] == [errno.EIO, errno.EIO]
    folder.fails = False
    await folder.durable()


async def test_what_could_not_be_synced_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object must not appear: a power loss could leave it torn."""

    def fail(_: FolderSync) -> None:
        raise OSError(errno.EIO, "cannot write")

    monkeypatch.setattr(FolderSync, "_sync", fail)
    store = open_store(StorageSettings(url=f"file://{tmp_path / 'store'}"))
    image = Contents(tmp_path)()
    with pytest.raises(StorageError, match="Input/output error"):
        await store.put_file(KEY, image.path, **image.facts)
    assert not (tmp_path / "store" / KEY).exists()


async def test_a_slow_disk_is_left_to_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one slow directory entry the event loop waits for none of them, and every object is there all the same."""
    monkeypatch.setattr("shared.object_writers._SLOW_S", -1.0)
    store = open_store(StorageSettings(url=f"file://{tmp_path / 'store'}"))
    content = Contents(tmp_path)
    linked_by: list[str] = []
    folder_type = ObjectFolder
    name_it = folder_type._name_it

    def spy(self: ObjectFolder, *args: Any) -> bool:
        linked_by.append(threading.current_thread().name.partition("_")[0])
        return name_it(self, *args)

    monkeypatch.setattr(folder_type, "_name_it", spy)
    for number in range(3):
        image = content(b"image %d" % number)
        key = f"acme/job_{number}/0.png"
        assert await store.put_file(key, image.path, **image.facts) == "created"
    assert linked_by == ["MainThread", "objects", "objects"]


def test_this_system_syncs_together() -> None:
    """The tests above mean something only where the quick way is taken; Linux since 5.8 has it."""
    assert can_sync_folder()
