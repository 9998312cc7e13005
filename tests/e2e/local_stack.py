"""Running `darkroom` as users do, and finding what it left running."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.process import Proc

if TYPE_CHECKING:
    from collections.abc import Sequence

DARKROOM = str(Path(sys.executable).with_name("darkroom"))  # the console script beside this interpreter


@dataclass(slots=True)
class Terminal:
    """One user's terminals, with a home for the stack's file and a folder for temporary files."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir()
        (self.folder / "cwd").mkdir()

    @property
    def cwd(self) -> Path:
        return self.folder / "cwd"

    @property
    def dev_file(self) -> Path:
        return self.folder / "state" / "dev.toml"

    @property
    def env(self) -> dict[str, str]:
        return {
            "DARKROOM_DEV_FILE": str(self.dev_file),
            "DARKROOM_CONFIG": str(self.cwd / "darkroom.toml"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def run(self, *arguments: str, timeout_s: float = 100, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [DARKROOM, *arguments], cwd=self.cwd, env={**os.environ, **self.env, **env},
            capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def left_running(self) -> list[str]:
        """Give the command lines of living processes that work in, or were told of, this folder [proc(5)].

        Both are looked at: Valkey writes its title over its environment.
        """
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended, or is somebody else's
                told = str(self.folder).encode() in (process / "environ").read_bytes()
                if told or str((process / "cwd").readlink()).startswith(str(self.folder)):
                    command = (process / "cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def left_behind(self) -> list[Path]:
        """Give what is left in the folder for temporary files."""
        return list((self.folder / "tmp").glob("darkroom-*"))


class CommandProc(Proc):
    """`darkroom ...` that goes on until it is ended; ready once its output holds `ready_when`."""

    ready_within_s = 90
    stop_within_s = 40

    def __init__(self, terminal: Terminal, arguments: Sequence[str], *, ready_when: str) -> None:
        super().__init__(arguments[0], terminal.folder / "log", terminal.env)
        self._arguments, self._ready_when = arguments, ready_when

    def command(self) -> Sequence[str]:
        return [DARKROOM, *self._arguments]

    def ready(self) -> bool:
        return self._ready_when in self.log_of_this_start()
