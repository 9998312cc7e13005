"""The object store in a folder: what disks, filesystems and killed processes do to it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import StorageConflict, StorageError
from shared.folder_sync import FolderSync
from shared.object_folder import STAGING
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.integration.storage_content import KEY, PNG, Contents, forbid_links_from_outside

if TYPE_CHECKING:
    from shared.storage import ObjectStore


@pytest.fixture
def content(tmp_path: Path) -> Contents:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Contents(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def file_store(folder: Path) -> ObjectStore:
    return open_store(StorageSettings(url=f"file://{folder}"))


async def test_objects_are_plain_files(file_store: ObjectStore, folder: Path, content: Contents) -> None:
    """Where the key says, readable for who may enter the folder, and not a second copy of the download."""
    image = content()
    await file_store.put_file(KEY, image.path, **image.facts)
    stored = (folder / KEY).stat()
    assert stored.st_mode & 0o777 == 0o644
    assert stored.st_ino == image.path.stat().st_ino


async def test_staging_is_left_empty(
    file_store: ObjectStore, folder: Path, content: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After success, conflict and failure alike."""
    forbid_links_from_outside(monkeypatch)
    first, other = content(), content(b"other")
    await file_store.put_file(KEY, first.path, **first.facts)
    with pytest.raises(StorageConflict):
        await file_store.put_file(KEY, other.path, **other.facts)
    monkeypatch.setattr(os, "link", failing_with(errno.EIO))
    with pytest.raises(StorageError):
        await file_store.put_input_async("acme", b"x", PNG, "png")
    assert list((folder / STAGING).iterdir()) == []


async def test_a_file_made_in_staging_is_put_without_a_copy(
    file_store: ObjectStore, content: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloads belong there when the system's temporary directory is on another filesystem."""
    forbid_links_from_outside(monkeypatch)
    assert file_store.staging is not None
    download = file_store.staging / "darkroom-result-1.part"
    image = content()
    image.path.rename(download)
    await file_store.put_file(KEY, download, **image.facts)
    assert (file_store.staging.parent / KEY).samefile(download)


def failing_with(number: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EACCES, "denied"),
        (errno.EROFS, "denied"),
        (errno.EIO, "unavailable"),
        (errno.ESTALE, "unavailable"),
    ],
)
async def test_what_a_disk_says_is_told_by_kind(
    file_store: ObjectStore, content: Contents, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    """The kind decides what a worker does; the message has the system's words."""
    monkeypatch.setattr(os, "link", failing_with(number))
    image = content()
    with pytest.raises(StorageError) as caught:
        await file_store.put_file(KEY, image.path, **image.facts)
    assert caught.value.kind == kind
    assert os.strerror(number) in str(caught.value)


async def test_a_filesystem_without_hard_links_says_so(
    file_store: ObjectStore, content: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and some shares have none: an operator must choose another place."""
    monkeypatch.setattr(os, "link", failing_with(errno.EPERM))
    image = content()
    with pytest.raises(StorageError, match="has no hard links") as caught:
        await file_store.put_file(KEY, image.path, **image.facts)
    assert caught.value.kind == "denied"


def test_a_folder_that_vanished_is_not_made_anew(
    file_store: ObjectStore, folder: Path, content: Contents
) -> None:
    """Its disk may have been unmounted: images must not go to what was under it."""
    folder.rename(folder.with_name("unmounted"))
    image = content()
    for use in (
        file_store.put_file(KEY, image.path, **image.facts),
        file_store.put_input_async("acme", b"x", PNG, "png"),
    ):
        with pytest.raises(StorageError) as caught:
            asyncio.run(use)
        assert caught.value.kind == "missing"
    assert not folder.exists()


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernel is asked to link and to sync, in order."""
    calls: list[str] = []
    link, sync = os.link, os.fsync

    def spy_link(source: str, target: str) -> None:
        link(source, target)
        calls.append("link")

    def spy_sync(number: int) -> None:
        sync(number)
        calls.append(f"sync {Path(f'/proc/self/fd/{number}').readlink().name.partition('-')[0]}")

    def spy_sync_folder(self: FolderSync) -> None:
        sync_folder(self)
        calls.append("sync folder")

    sync_folder = FolderSync._sync
    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(FolderSync, "_sync", spy_sync_folder)
    return calls


@pytest.mark.parametrize(
    ("fsync", "together", "calls"),
    [
        (True, True, ["sync folder", "link", "sync folder"]),
        (True, False, ["sync result", "sync store", "sync acme", "link", "sync job_1"]),
        (False, True, ["link"]),
    ],
)
async def test_durable_before_visible_and_before_success(
    folder: Path,
    content: Contents,
    disk_calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    fsync: bool,
    together: bool,
    calls: list[str],
) -> None:
    """The content is synced before it has its name, then every directory with a new entry; nothing if switched off."""
    monkeypatch.setattr("shared.object_writers.can_sync_folder", lambda: together)
    store = open_store(StorageSettings(url=f"file://{folder}", fsync=fsync))
    image = content()
    await store.put_file(KEY, image.path, **image.facts)
    assert disk_calls == calls


async def test_copies_are_as_durable_and_as_readable(
    file_store: ObjectStore, folder: Path, disk_calls: list[str]
) -> None:
    """What is written by way of staging is synced there, whole, and gets the mode of every object."""
    umask = os.umask(0o077)
    try:
        key = await file_store.put_input_async("acme", b"payload", PNG, "png")
    finally:
        os.umask(umask)
    assert disk_calls == ["sync put", "sync store", "sync inputs", "link", "sync acme"]
    assert (folder / key).stat().st_mode & 0o777 == 0o644


def test_what_killed_processes_left_is_swept(folder: Path) -> None:
    """Opening removes staged files that nobody can be writing any more, and no others."""
    open_store(StorageSettings(url=f"file://{folder}"))
    old, fresh = folder / STAGING / "put-old", folder / STAGING / "put-fresh"
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    open_store(StorageSettings(url=f"file://{folder}"))
    assert sorted(each.name for each in (folder / STAGING).iterdir()) == ["put-fresh"]


KILLED = """
import os, sys
from shared.settings import StorageSettings
from shared.storage import open_store
store = open_store(StorageSettings(url=sys.argv[1]))
print("ready", flush=True)
while True:
    store.put_input("acme", os.urandom(4_000_000), "image/png", "png")
"""


def test_a_writer_that_is_killed_leaves_no_part_of_an_object(folder: Path) -> None:
    """Killed at any moment, every object that has its name is what its name says."""
    for delay_s in (0.05, 0.11, 0.17):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, f"file://{folder}"], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    objects = list((folder / "inputs" / "acme").iterdir())
    assert objects
    for each in objects:
        assert hashlib.sha256(each.read_bytes()).hexdigest() == each.stem
