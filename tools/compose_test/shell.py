"""Running programs: their output as text, their failure as one exception, our progress on stderr."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STARTED_AT: Final = time.monotonic()
_SHOWN_CHARS: Final = 6000
_WORD_CHARS: Final = 80


class StepFailed(Exception):
    """Something that must work did not; carries what it said."""


def seconds_since(started: float) -> float:
    """Give the seconds since a reading of the monotonic clock."""
    return time.monotonic() - started


def say(what: str) -> None:
    """Report progress, with the seconds since the start."""
    print(f"{seconds_since(STARTED_AT):6.1f} s  {what}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    text_in: str | None = None,
    timeout_s: float = 300,
    check: bool = True,
) -> str:
    """Run to the end and give stdout. Raises StepFailed if it fails (unless `check` is off) or takes too long."""
    try:
        ran = subprocess.run(
            list(command),
            env=env,
            input=text_in,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepFailed(f"{_shown(command)}: not within {timeout_s:g} s") from None
    except OSError as error:
        raise StepFailed(f"{_shown(command)}: {error.strerror}") from None
    if check and ran.returncode != 0:
        raise StepFailed(
            f"{_shown(command)} gave {ran.returncode}:\n{(ran.stdout + ran.stderr)[-_SHOWN_CHARS:]}"
        )
    return ran.stdout


def wait_until(holds: Callable[[], bool], within_s: float, what: str, every_s: float = 0.5) -> float:
    """Ask until it holds; give the seconds it took. Raises StepFailed."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > within_s:
            raise StepFailed(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)
    return time.monotonic() - started


def _shown(command: Sequence[str]) -> str:
    words = [word if len(word) <= _WORD_CHARS else f"{word[:_WORD_CHARS]}..." for word in command]
    return " ".join(words)
