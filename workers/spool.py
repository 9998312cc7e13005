"""Generation ids on disk, while the state server cannot take them: what is paid for must outlive this process.

One small file per intent, synced before anybody relies on it: {v, intent_id, job_id, lane, generation_id, at}; never
a prompt or a URL. Whoever holds the lock on a file [flock(2)] looks after it: its writer while it lives, and after
its death, which ends the lock, any process that shares the folder. Nothing is written while the server answers in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from shared.spool_folder import SET_ASIDE, WAITING
from workers import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

VERSION: Final = 1
SOON_S: Final = 0.5  # a server that has not answered by then may be gone for longer than this process lives
AT_ONCE: Final = 100
_TORN: Final = ".tmp"
_TORN_AFTER_S: Final = 60.0


class LateId(BaseModel):
    """What the provider said of one intent, as it is kept. `at`: unix seconds of the writer's clock, to be read by people."""

    model_config = ConfigDict(frozen=True)

    v: int = VERSION
    intent_id: str = Field(pattern=r"^[0-9a-f]{1,64}$")
    job_id: str = Field(min_length=1, max_length=64)
    lane: str = Field(min_length=1)
    generation_id: str = Field(min_length=1, max_length=1024)
    at: float = Field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file whose lock this process holds."""

    late: LateId
    path: Path
    descriptor: int

    def remove(self) -> None:
        """Forget the id: it is recorded elsewhere."""
        self.path.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Leave what is still there to whoever looks next."""
        os.close(self.descriptor)


class Spool:
    """The spool of one installation on this machine. `folder` None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="darkroom-spool")  # started at first use
        self._asked: set[str] = set()
        self._kept: dict[str, Kept] = {}

    @asynccontextmanager
    async def keeping(self, late: LateId) -> AsyncIterator[None]:
        """Keep the id from SOON_S on until the block has recorded it; for good if the block ends by an error."""
        soon = asyncio.get_running_loop().call_later(SOON_S, self._ask, late)
        try:
            yield
        except BaseException:
            soon.cancel()
            self._thread.submit(self._keep, late).result()  # this process may be about to end
            self._release(late)
            raise
        soon.cancel()
        if late.intent_id in self._asked:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._drop, late)

    def _ask(self, late: LateId) -> None:
        self._asked.add(late.intent_id)
        self._thread.submit(self._keep, late)

    def _keep(self, late: LateId) -> None:
        if self._folder is None or late.intent_id in self._kept:
            return
        try:
            self._kept[late.intent_id] = _write(self._folder, late)
        except OSError as error:  # the disk is full or read-only: then only this process knows the id
            cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
            log.error("spool_failed", job_id=late.job_id, cause=cause)  # noqa: TRY400 - the cause says it all
        else:
            log.warning("generation_kept_on_disk", job_id=late.job_id, lane=late.lane)

    def _drop(self, late: LateId) -> None:
        if late.intent_id in self._kept:
            self._kept[late.intent_id].remove()
        self._release(late)

    def _release(self, late: LateId) -> None:
        self._asked.discard(late.intent_id)
        kept = self._kept.pop(late.intent_id, None)
        if kept is not None:
            kept.let_go()

    async def leftovers(self) -> list[Kept]:
        """Take over what nobody looks after, some at a time. Each must be let go."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._take_over)

    def _take_over(self) -> list[Kept]:
        if self._folder is None:
            return []
        found: list[Kept] = []
        waiting = set_aside = 0
        try:
            for entry in _entries(self._folder):
                waiting += entry.suffix == WAITING
                set_aside += entry.suffix == SET_ASIDE
                if entry.suffix == WAITING and len(found) < AT_ONCE and (kept := _take(entry)):
                    found.append(kept)
        except OSError as error:
            log.error("spool_failed", cause=errno.errorcode.get(error.errno or 0, ""))  # noqa: TRY400 - as above
        metrics.show(metrics.SPOOL_FILES, waiting, "waiting")
        metrics.show(metrics.SPOOL_FILES, set_aside, "unreadable")
        return found

    def close(self) -> None:
        self._thread.shutdown()


def _entries(folder: Path) -> Iterator[Path]:
    """Give the files, and clear away what a writer that died left half written."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix != _TORN:
            yield path
        elif time.time() - path.stat().st_mtime > _TORN_AFTER_S:
            path.unlink(missing_ok=True)


def _write(folder: Path, late: LateId) -> Kept:
    """Write, lock and sync the file, and only then give it its name. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{late.intent_id}{WAITING}"
    torn = path.with_suffix(_TORN)
    descriptor = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, late.model_dump_json().encode() + b"\n")
        os.fsync(descriptor)
        torn.rename(path)
        for each in (folder, folder.parent):
            _sync_folder(each)
    except OSError:
        os.close(descriptor)
        for left in (torn, path):
            with contextlib.suppress(OSError):
                left.unlink()
        raise
    return Kept(late, path, descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take(path: Path) -> Kept | None:
    """Lock a file and read it; None if somebody looks after it, it is gone, or it says what we cannot read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    late = None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            late = _read(path, descriptor)
    except BlockingIOError:
        return None
    finally:
        if late is None:
            os.close(descriptor)
    return None if late is None else Kept(late, path, descriptor)


def _read(path: Path, descriptor: int) -> LateId | None:
    """Read a locked file. One that a later version wrote is left to it; what cannot be read is set aside."""
    text = os.read(descriptor, 65_536)
    try:
        given = from_json(text)
        if isinstance(given, dict) and isinstance(given.get("v"), int) and given["v"] > VERSION:
            return None
        return LateId.model_validate(given)
    except (ValueError, ValidationError):
        path.rename(path.with_suffix(SET_ASIDE))
        log.error("spool_file_unreadable", file=path.name)  # noqa: TRY400 - its text is nobody's business
        return None
