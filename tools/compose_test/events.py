"""How containers ended: the daemon's `die` events, read while something is done to them."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.compose_test.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.compose_test.daemon import Daemon


@dataclass(frozen=True, slots=True)
class Deaths:
    """The exit codes of containers that ended since this was opened; recreated ones cannot be asked any more."""

    log: Path

    @classmethod
    @contextmanager
    def watched(cls, daemon: Daemon) -> Iterator[Deaths]:
        log = daemon.folder / "events.jsonl"
        command = ["docker", "events", "--filter", "type=container", "--filter", "event=die"]
        with log.open("wb") as out:
            process = subprocess.Popen([*command, "--format", "{{json .}}"], env=dict(daemon.env), stdout=out)
        try:
            yield cls(log)
        finally:
            process.terminate()
            process.wait()

    def code_of(self, container: str, *, after: int = 0) -> int:
        """Wait for a container's end, the first that comes after so many, and give its exit code.

        Raises StepFailed. A container that was killed and started again keeps its id, and so has several ends.
        """
        wait_until(lambda: self.count(container) > after, 20, f"the end of container {container}")
        return self._codes(container)[after]

    def count(self, container: str) -> int:
        """Give how often it has ended so far."""
        return len(self._codes(container))

    def _codes(self, container: str) -> list[int]:
        actors = [json.loads(line)["Actor"] for line in self.log.read_text().splitlines()]
        return [int(each["Attributes"]["exitCode"]) for each in actors if each["ID"].startswith(container)]
