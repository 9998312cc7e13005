"""The command line, hundreds of times: each run is a fork of one process that has imported it all.

A run has its own descriptors, environment and working directory, and ends as the real command does: what differs is
that its modules are there already, which saves a third of a second each.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from tests.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GONE: Final = "gone"  # as `stdout`: a pipe that nobody reads
_POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended: its exit status (`-9` if it had to be killed), what it wrote, how long it took."""

    code: int
    out: str
    err: str
    took_s: float


class CliForks:
    """A process that forks a child per run; any number of threads may ask for runs at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._numbers = count()
        self._waiting: dict[int, tuple[threading.Event, list[dict[str, Any]]]] = {}
        self._sending = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes = b"",
        stdout: str | None = None,
        within_s: float = 20,
    ) -> Ran:
        """Run `darkroom WORDS` in the environment of the tests and `env`; killed after `within_s`.

        `stdout` is a path to write to (a terminal's, say) instead of a file that is read at the end, or GONE.
        """
        number = next(self._numbers)
        base = self.folder / str(number)
        base.with_suffix(".in").write_bytes(stdin)
        request = {
            "number": number,
            "words": list(words),
            "env": {**os.environ, "PYTHONWARNINGS": "ignore", **(env or {})},
            "cwd": str(cwd or self.folder),
            "files": [f"{base}.in", stdout or f"{base}.out", f"{base}.err"],
            "within_s": within_s,
        }
        ended, answer = threading.Event(), list[dict[str, Any]]()
        self._waiting[number] = (ended, answer)
        assert self._process.stdin is not None
        with self._sending:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        assert ended.wait(within_s + 60), f"no answer for {words}"
        out = "" if stdout else base.with_suffix(".out").read_text(errors="replace")
        err = base.with_suffix(".err").read_text(errors="replace")
        return Ran(answer[0]["code"], out, err, answer[0]["took_s"])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            ended, answer = self._waiting.pop(told["number"])
            answer.append(told)
            ended.set()


# --- in the process that forks ---


def _serve() -> None:
    _import_all()
    gc.freeze()  # what is there already is not touched by the collections of a child
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the overseers
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _oversee(json.loads(line))


def _import_all() -> None:
    """Bring in what commands import when they are chosen."""
    from importlib import import_module
    from pkgutil import iter_modules

    import producers.cli

    for module in iter_modules(producers.cli.__path__, "producers.cli."):
        import_module(module.name)
    for name in (
        "producers.client", "producers.doctor.examine", "producers.exporter", "producers.vitals",
        "producers.webhooks", "producers.reports.journal", "shared.broker", "rich.table", "rich.live",
        "asyncio", "celery.app.base", "redis.asyncio",
    ):  # fmt: skip
        import_module(name)


def _oversee(request: dict[str, Any]) -> NoReturn:
    """Run one, wait for it, tell how it ended in one write."""
    started_at = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(request)
    code: int | None = None
    while code is None:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() - started_at > request["within_s"]:
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_S)
    told = {"number": request["number"], "code": code, "took_s": time.monotonic() - started_at}
    os.write(1, (json.dumps(told) + "\n").encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the command: descriptors, environment, folder and words are those asked for."""
    read, written, complained = request["files"]
    os.dup2(os.open(read, os.O_RDONLY), 0)
    if written == GONE:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    else:
        os.dup2(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY), 1)
    os.dup2(os.open(complained, os.O_WRONLY | os.O_CREAT), 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["darkroom", *request["words"]]
    from producers.cli import main

    main()


if __name__ == "__main__":
    _serve()
