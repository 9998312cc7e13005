"""The folder in which workers of this machine keep generation ids while the state server is away. Nothing is made there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from producers.doctor.findings import bad, beware, good
from shared.spool_folder import SET_ASIDE, WAITING, spool_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers.doctor.findings import Finding
    from shared.settings import WorkerSettings

_ROOM_BYTES: Final = 16 * 1024 * 1024
_DO: Final = "Set worker.spool to a folder on a disk of this machine that workers can write to."


def look_at_spool(settings: WorkerSettings) -> Iterator[Finding]:
    """Say whether ids could be kept, and what waits there."""
    folder = spool_folder(settings)
    if folder is None:
        what = "no folder keeps generation ids while the state server is away: a worker that dies then leaves them unknown"
        yield beware("spool", what, _DO)
        return
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield bad("spool", f"this user cannot write to {folder}", _DO)
        return
    disk = os.statvfs(there)
    if disk.f_bavail * disk.f_frsize < _ROOM_BYTES:
        yield bad("spool", f"the disk of {folder} is full", "Make room, or set worker.spool to another disk.")
        return
    yield good("spool", f"generation ids could be kept in {folder}")
    yield from _contents(folder)


def _contents(folder: Path) -> Iterator[Finding]:
    waiting = sum(1 for _ in folder.glob(f"*/*{WAITING}"))
    aside = sum(1 for _ in folder.glob(f"*/*{SET_ASIDE}"))
    if waiting:
        what = f"{waiting} generation ids wait in {folder} for a worker of this machine"
        do = "Start one; if they stay, they are of a state that is gone: compare them with the provider's list."
        yield beware("spool", what, do)
    if aside:
        what = f"{aside} files in {folder} cannot be read"
        yield beware("spool", what, "Look at them: each was a generation id of a paid submit.")
