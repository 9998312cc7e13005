"""Clocks that step: Debian's libfaketime in a process of the tests, told by a file what the clock is off by.

Only the wall clock is off. Monotonic time and the times of files stay as they are.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

MISSING: Final = (
    "the tests of clocks need libfaketime: Debian package faketime (`make faults` installs it when it may; "
    "else: apt-get install faketime)"
)
# libc's malloc after it: Debian's Redis has jemalloc, which asks for the time before its first allocation is done, and
# libfaketime allocates when it is first asked.
_AFTER: Final = "libc.so.6"


class WallClock:
    """The wall clock of one process. Its offset may be changed while the process runs."""

    def __init__(self, folder: Path, offset_s: int = 0) -> None:
        self._library, self._file, self._folder = library(), folder / "clock", folder
        self.set(offset_s)

    def set(self, offset_s: int) -> None:
        """Let it be off by so many seconds from now on."""
        told = self._file.with_suffix(".new")
        told.write_text(f"{offset_s:+d}\n")
        told.rename(self._file)  # whole, whenever it is read

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        return {
            "LD_PRELOAD": f"{self._library} {_AFTER}",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # each look at the clock reads the file
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def of_state_server(self, faults: FaultHouse) -> None:
        """Restart the state server, still without data, with this clock."""
        binary = shutil.which(faults.state.binary)
        assert binary is not None
        wrapped = self._folder / f"{Path(binary).name}-with-a-clock"
        words = " ".join(f"'{name}={value}'" for name, value in self.environment.items())
        wrapped.write_text(f'#!/bin/sh\nexec env {words} {binary} "$@"\n')
        wrapped.chmod(0o700)
        faults.state.binary = str(wrapped)
        faults.state.restart()


def server_is_off_by_s(faults: FaultHouse) -> float:
    """Give how far the clock of the state server is ahead of this process's, in seconds."""
    with faults.state.client() as client:
        seconds, micros = cast("tuple[int, int]", client.time())
    return seconds + micros / 1e6 - time.time()


def library(libraries: Path = Path("/usr/lib")) -> Path:
    """Find libfaketime for this machine. Fails the test, and says what to install, if it is missing."""
    found = sorted(libraries.glob("*/faketime/libfaketimeMT.so.1"))
    mine = [path for path in found if os.uname().machine in path.parent.parent.name]
    if not mine:
        pytest.fail(MISSING)
    return mine[0]
