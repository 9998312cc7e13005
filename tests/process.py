"""The life of one server process of the tests: started, ready, hurt, stopped; its log kept and its end certain.

A test may `kill` (SIGKILL), `pause` (SIGSTOP), `resume`, `stop` (SIGTERM, then SIGKILL) and `start` again: port and
data directory stay. Nothing is ever found by name: every signal goes to the pid that was started.
Start a process from a thread that lives as long as it should: it is tied to its parent's thread [prctl(2)].
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


class ServerFailed(Exception):
    """A server did not start, or did not become ready in time; carries the end of its log."""


def free_ports(count: int) -> list[int]:
    """Give ports nobody listens on now.

    They are below those that the system gives to outgoing connections: a port chosen there could be taken by any
    client before its server starts, or while it is down between two starts.
    """
    found: set[int] = set()
    while len(found) < count:
        port = 10_240 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.add(port)
    return list(found)


class Proc(ABC):
    """One process: started, ready, stopped. Subclasses give `command` and say when it is `ready`."""

    alive: ClassVar[list[Proc]] = []  # for the report of a failed test
    ready_within_s: ClassVar[float] = 30
    stop_within_s: ClassVar[float] = 5

    def __init__(self, name: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder = name, folder
        self.log_path = folder / f"{name}.log"
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Give the command line."""

    @abstractmethod
    def ready(self) -> bool:
        """Say whether it serves; asked again and again while it starts."""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self, *, wait: bool = True) -> Self:
        """Start the process and, unless told otherwise, wait until it is ready. Raises ServerFailed."""
        assert not self.running, f"{self.name} runs already"
        self._log_start = len(self.log().encode())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*_tied_to_us(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._env},
            )
        Proc.alive.append(self)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the server serves. Raises ServerFailed, and leaves no process behind."""
        give_up_at = time.monotonic() + self.ready_within_s
        while time.monotonic() < give_up_at:
            if not self.running:
                self._forget()
                raise ServerFailed(f"{self.name} ended with {self.exit_code} at start:\n{self.log()[-4000:]}")
            if self.ready():
                return
            time.sleep(0.02)
        self.kill()
        raise ServerFailed(f"{self.name} was not ready in {self.ready_within_s} s:\n{self.log()[-4000:]}")

    def stop(self, within_s: float | None = None) -> int:
        """Ask it to end (SIGTERM), insist after a while (SIGKILL); give the exit code."""
        assert self._process is not None, f"{self.name} was not started"
        if self.running:
            self.resume()
            self._process.terminate()
        try:
            self._process.wait(self.stop_within_s if within_s is None else within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._end()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a machine that dies would."""
        assert self._process is not None, f"{self.name} was not started"
        self._process.kill()
        self._end()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} was not started"
        self._process.send_signal(number)

    def pause(self) -> None:
        """Let it hang: sockets stay open, nothing answers (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Kill it and start it again on the same port and data."""
        if self.running:
            self.kill()
        return self.start()

    def log(self) -> str:
        """Everything it wrote, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_of_this_start(self) -> str:
        return self.log().encode()[self._log_start :].decode(errors="replace")

    def cpu_s(self) -> float:
        """CPU seconds (user and system) it has used since it started [proc(5)]."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self) -> int:
        assert self._process is not None
        code = self._process.wait(10)
        self._forget()
        return code

    def _forget(self) -> None:
        if self in Proc.alive:
            Proc.alive.remove(self)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()


def _tied_to_us() -> list[str]:
    """Give the prefix that ends a child with its parent, however that dies (util-linux; elsewhere nothing)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
