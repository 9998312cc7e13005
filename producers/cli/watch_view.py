"""What `darkroom watch` says of a batch: pure, from what was read of it to lines."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from producers.cli import EXIT_JOBS
from producers.cli.terminal import money, span
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producers import BatchStatus

WINDOW_S: Final = 30.0  # the rate is that of the last half minute: it follows a throttled lane
_MOST_BAR_CELLS: Final = 40
_BAR_MARGIN: Final = 20  # columns for the numbers beside the bar


@dataclass(frozen=True, slots=True)
class Sample:
    """Jobs that had ended at an instant, in seconds of any steady clock."""

    at_s: float
    done: int


def recent(samples: Sequence[Sample], now_s: float) -> list[Sample]:
    """Leave out samples older than the window, but keep two to measure by."""
    young = [sample for sample in samples if now_s - sample.at_s <= WINDOW_S]
    return young if len(young) > 1 else list(samples[-2:])


def rate(samples: Sequence[Sample]) -> float:
    """Give jobs ended per second between the first and last sample; 0 if that cannot be told."""
    if len(samples) < 2 or samples[-1].at_s <= samples[0].at_s:  # noqa: PLR2004 - two ends make a slope
        return 0.0
    return max(0, samples[-1].done - samples[0].done) / (samples[-1].at_s - samples[0].at_s)


def over(status: BatchStatus) -> bool:
    """Tell whether no job of it is left to end, and none can be added."""
    return status.sealed and status.done == status.total


def exit_code(status: BatchStatus) -> int:
    """Give 0, or 1 if jobs failed or have an unknown outcome."""
    return EXIT_JOBS if status.counts[JobState.FAILED] or status.counts[JobState.UNKNOWN] else 0


def summary(status: BatchStatus) -> str:
    """Say it in one line: `12 of 40 ended: 28 queued, 12 completed; 12 images, ¥2.40`."""
    counts = ", ".join(f"{status.counts[state]} {state}" for state in JobState if status.counts[state])
    cost = money(status.cost_micros, status.currency)
    return f"{status.done} of {status.total} ended: {counts or 'no jobs'}; {status.images} images, {cost}"


def pace(status: BatchStatus, per_s: float) -> str:
    """Say how fast it goes and how long it takes at that rate; nothing before that can be told."""
    left = status.total - status.done - status.counts[JobState.UNKNOWN]
    if not per_s or not left:
        return ""
    return f"{per_s:.1f} jobs/s, about {span(round(left / per_s * 1000))} left"


def remarks(status: BatchStatus) -> list[str]:
    """Say what went wrong or keeps it from completing, and what to do."""
    said = []
    if failed := status.counts[JobState.FAILED]:
        why = ", ".join(f"{count} {code}" for code, count in status.errors.items())
        said.append(
            f"{failed} failed{f' ({why})' if why else ''}: see `darkroom status JOB` for a job's reason"
        )
    if unknown := status.counts[JobState.UNKNOWN]:
        said.append(f"{unknown} with an unknown outcome: see `darkroom unknown list` and decide")
    if not status.sealed:
        said.append(f"not sealed, so it cannot complete: `darkroom batch seal {status.name}`")
    return said


def frame(status: BatchStatus, per_s: float, columns: int) -> list[str]:
    """Give the lines of a redraw, none longer than that many columns."""
    cells = max(0, min(_MOST_BAR_CELLS, columns - _BAR_MARGIN))
    filled = cells * status.done // status.total if status.total else 0
    percent = 100 * status.done // status.total if status.total else 0
    bar = f"{'█' * filled}{'░' * (cells - filled)} {percent} %".strip()
    parts = [bar, summary(status), pace(status, per_s), *(f"! {each}" for each in remarks(status))]
    # Folded here: a terminal that folds by itself breaks the count of lines that a redraw goes up.
    return [line for part in parts for line in textwrap.wrap(part, max(1, columns))]
