"""The processes of a local stack: each started with a log of its own, watched, and ended with its parent."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

HOST: Final = "127.0.0.1"
START_WITHIN_S: Final = 60.0  # a small machine that installs, compiles and starts at the same time
STOP_WITHIN_S: Final = 15.0
EVERY_S: Final = 0.05
_LOG_TAIL_BYTES: Final = 2000
_PORTS: Final = range(10_240, 30_240)  # below those that systems give to outgoing connections
# What would lead a part to somebody else's servers: settings of ours, of Celery and Flower, and click's for Celery.
_FOREIGN: Final = ("DARKROOM_", "CELERY_", "FLOWER_")
_FOREIGN_NAMES: Final = frozenset({"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE"})


@dataclass(slots=True)
class Part:
    """One process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def how_it_ended(self) -> str:
        """Say it in a few words, such as `was ended by SIGKILL`."""
        code = self.process.returncode
        if code is None or code >= 0:
            return f"ended with status {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def log_tail(self) -> str:
        """Give the end of what it wrote."""
        with suppress(OSError), self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return ""

    def check(self) -> None:
        """Raise ConfigurationError with the end of the log if the process has ended."""
        if self.ended:
            raise ConfigurationError(f"{self.name} {self.how_it_ended()}. Its log ends: {self.log_tail()}")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready. Raises ConfigurationError if it ends, or takes longer than START_WITHIN_S."""
        until = time.monotonic() + START_WITHIN_S
        while not ready():
            self.check()
            if time.monotonic() > until:
                tail = self.log_tail()
                raise ConfigurationError(
                    f"{self.name} was not ready after {START_WITHIN_S:.0f} s. Its log ends: {tail}"
                )
            time.sleep(EVERY_S)
        self.check()  # what answered may have been a stranger on its port

    def ask_to_end(self) -> None:
        if not self.ended:
            self.process.send_signal(signal.SIGTERM)

    def wait_for_end(self) -> None:
        """Give it STOP_WITHIN_S after `ask_to_end`, then SIGKILL."""
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if not self.ended:
            self.process.kill()
            self.process.wait()


def spawn(name: str, command: Sequence[str], *, folder: Path, env: Mapping[str, str]) -> Part:
    """Start a process in `folder`, with its log there. Call it from a thread that lives as long as it should.

    It has a session of its own: Ctrl-C is for us, who end the parts in order. Where the system can (Linux with
    util-linux), it gets SIGTERM should we die without having done so [prctl(2), PR_SET_PDEATHSIG].
    """
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [*_tied_to_us(), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
    return Part(name, process, log)


def _tied_to_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def own_environment() -> dict[str, str]:
    """Give this process's environment without what could lead a part to other servers than the stack's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN_NAMES and not name.upper().startswith(_FOREIGN)
    }


def free_port() -> int:
    """Give a port that nobody listens on now."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does: by KeyboardInterrupt. For the main thread only."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # such as by nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
