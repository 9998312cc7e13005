"""Kill-points end the process at the named crossing, and are nothing unless asked for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from tests.process import ROOT
from workers import crash_points

_PROGRAM = """
from workers import crash_points
for _ in range(3):
    print("before", flush=True)
    crash_points.cross("poll.claimed")
    crash_points.cross("submit.posted")
"""


def _start(at: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], env={crash_points.VARIABLE: at}, cwd=ROOT,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("how", "code"), [("KILL", -signal.SIGKILL), ("EXIT", crash_points.EXIT_CODE)])
def test_the_nth_crossing_ends_the_process(how: str, code: int) -> None:
    """The second crossing of the named step is the last thing that happens."""
    process = _start(f"submit.posted:2:{how}")
    output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("before\nbefore\n", code)


def test_a_stopped_process_goes_on_when_told() -> None:
    """STOP pauses it for as long as nobody continues it."""
    process = _start("poll.claimed:1:STOP")
    status, give_up_at = Path(f"/proc/{process.pid}/stat"), time.monotonic() + 20
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < give_up_at, "it did not stop"
        time.sleep(0.02)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("before\n" * 3, 0)


def test_unset_it_does_nothing() -> None:
    """Without the variable every crossing is free."""
    output, _ = (process := _start("")).communicate(timeout=20)
    assert (output, process.returncode) == ("before\n" * 3, 0)


@pytest.mark.parametrize(
    "text", ["submit.posted", "submit.posted:0:KILL", "nowhere:1:KILL", "poll.claimed:1:X"]
)
def test_what_names_no_place_is_refused(text: str) -> None:
    """A misspelt kill-point must not pass for a survived fault."""
    with pytest.raises(ConfigurationError):
        crash_points.parse(text)


def test_every_step_is_crossed_in_a_stage() -> None:
    """The list of steps is that of the stages' sources."""
    sources = (ROOT / "workers" / "stages").glob("*.py")
    crossed = [
        step for path in sources for step in re.findall(r'crash_points\.cross\("([^"]+)"\)', path.read_text())
    ]
    assert sorted(crossed) == sorted(crash_points.STEPS)
