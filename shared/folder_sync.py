"""Making files durable for many at once: one `syncfs` of the folder's filesystem serves everybody who waits for it.

Syncing each file and its directories costs three or four system calls per object, each a hand-over of Python's lock
between threads: measured, two thirds of what storing a small image costs a worker. `syncfs(2)` writes back all of the
filesystem, so it may take longer beside another heavy writer; callers wait for it together, and none waits alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

# Before Linux 5.8, syncfs(2) did not tell of data that could not be written.
_HONEST_SINCE: Final = (5, 8)


def can_sync_folder() -> bool:
    """Say whether this system has a syncfs that tells of failures."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return (
        sys.platform == "linux"
        and release is not None
        and (int(release[1]), int(release[2])) >= _HONEST_SINCE
        and hasattr(_libc(), "syncfs")
    )


class FolderSync:
    """Syncs the filesystem of one folder, in rounds. Belongs to the event loop it is first used on."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="folder-sync")
        self._waiting: list[asyncio.Future[None]] = []
        self._rounds: asyncio.Task[None] | None = None
        self.rounds = 0

    async def durable(self) -> None:
        """Return when all that was written before this call is on the disk. Raises OSError if it cannot be."""
        loop = asyncio.get_running_loop()
        asked = loop.create_future()
        self._waiting.append(asked)
        if self._rounds is None:
            self._rounds = loop.create_task(self._run(loop))
        await asked

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve whoever asked before a round begins; those who ask during it are the next round."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                try:
                    await loop.run_in_executor(self._thread, self._sync)
                except OSError as error:
                    _answer(asked, error)
                else:
                    _answer(asked, None)
        finally:
            self._rounds = None

    def _sync(self) -> None:
        self.rounds += 1
        if _libc().syncfs(self._folder) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _answer(asked: list[asyncio.Future[None]], error: OSError | None) -> None:
    for future in asked:
        if future.done():  # who asked was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
