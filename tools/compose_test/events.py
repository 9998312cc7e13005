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

    def code_of(self, container: str) -> int:
        """Wait for a container's end and give its exit code. Raises StepFailed."""
        wait_until(lambda: self._code_of(container) is not None, 20, f"the end of container {container}")
        code = self._code_of(container)
        assert code is not None
        return code

    def _code_of(self, container: str) -> int | None:
        for line in self.log.read_text().splitlines():
            event = json.loads(line)
            if event["Actor"]["ID"].startswith(container):
                return int(event["Actor"]["Attributes"]["exitCode"])
        return None
