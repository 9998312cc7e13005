"""Places where a test may end this process: `DARKROOM_CRASH_AT=step:nth:KILL|STOP|EXIT`. Unset, nothing happens here.

A stage names every boundary it crosses (`submit.posted`: the POST was answered, nothing is recorded yet). The nth
crossing of the named one, counted over the whole process, ends it: KILL as a lost machine would, STOP as a paused
virtual machine (SIGCONT wakes it), EXIT without any clean-up. Read once, when the process starts.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

from shared.errors import ConfigurationError

VARIABLE: Final = "DARKROOM_CRASH_AT"
STEPS: Final = (
    "submit.claimed",
    "submit.intent_written",
    "submit.posted",
    "submit.recorded",
    "poll.claimed",
    "poll.answered",
    "poll.recorded",
    "store.claimed",
    "store.downloaded",
    "store.put",
    "store.recorded",
    "notify.claimed",
    "notify.sent",
    "notify.recorded",
)
HOWS: Final = ("KILL", "STOP", "EXIT")
EXIT_CODE: Final = 70  # EX_SOFTWARE; nothing else of ours ends with it


@dataclass(slots=True)
class CrashPoint:
    """The one place where this process ends; `left` crossings are still to come."""

    step: str
    left: int
    how: str

    def cross(self, step: str) -> None:
        """Count a crossing, and end the process at the last."""
        if step != self.step:
            return
        self.left -= 1
        if self.left != 0:
            return
        if self.how == "EXIT":
            os._exit(EXIT_CODE)
        os.kill(os.getpid(), signal.SIGKILL if self.how == "KILL" else signal.SIGSTOP)


def parse(text: str) -> CrashPoint | None:
    """Read `step:nth:how`; None if empty. Raises ConfigurationError for what names no place."""
    if not text:
        return None
    step, _, rest = text.partition(":")
    nth, _, how = rest.partition(":")
    if step not in STEPS or how not in HOWS or not (nth.isascii() and nth.isdigit() and int(nth)):
        raise ConfigurationError(f"{VARIABLE} is not step:nth:KILL|STOP|EXIT with a known step. Unset it.")
    return CrashPoint(step, int(nth), how)


_POINT: Final = parse(os.environ.get(VARIABLE, ""))


def cross(step: str) -> None:
    """Say that a stage is at this boundary."""
    if _POINT is not None:
        _POINT.cross(step)
