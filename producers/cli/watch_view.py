"""What `darkroom watch` says of a batch, or of all jobs: pure, from what was read to lines."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from producers.cli import EXIT_JOBS
from producers.cli.terminal import money, span
from shared.jobs.lifecycle import TERMINAL, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from producers import BatchStatus

WINDOW_S: Final = 30.0  # the rate is that of the last half minute: it follows a throttled lane
_MOST_BAR_CELLS: Final = 40
_BAR_MARGIN: Final = 20  # columns for the numbers beside the bar


@dataclass(frozen=True, slots=True)
class Progress:
    """How far jobs are: `counts` by state. `what` was made and spent so far, for a batch; `batch` is its name."""

    counts: Mapping[str, int]
    batch: str | None = None
    sealed: bool = True
    what: str = ""
    errors: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, int | str] = field(default_factory=dict)  # as JSON gives them

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        return sum(self.counts[state] for state in TERMINAL)

    @property
    def settled(self) -> bool:
        """Whether waiting longer is of use: false while jobs are on their way."""
        return self.done + self.counts[JobState.UNKNOWN] >= self.total


def of_batch(status: BatchStatus) -> Progress:
    what = f"{status.images} images, {money(status.cost_micros, status.currency)}"
    if status.at_most_micros > status.cost_micros:
        what += f", at most {money(status.at_most_micros, status.currency)}"
    facts: dict[str, int | str] = {
        "images": status.images,
        "cost_micros": status.cost_micros,
        "at_most_micros": status.at_most_micros,
        "currency": status.currency,
    }
    return Progress(status.counts, status.name, status.sealed, what, status.errors, facts)


def of_all(counts: Mapping[str, int], before: Mapping[str, int]) -> Progress:
    """Give the progress of all jobs since `before`: those that had ended by then are left out."""
    return Progress(
        {state: max(0, counts[state] - (before[state] if state in TERMINAL else 0)) for state in JobState}
    )


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


def over(progress: Progress) -> bool:
    """Tell whether no job of it is left to end, and none can be added."""
    return progress.sealed and progress.done == progress.total


def exit_code(progress: Progress) -> int:
    """Give 0, or 1 if jobs failed or have an unknown outcome."""
    return EXIT_JOBS if progress.counts[JobState.FAILED] or progress.counts[JobState.UNKNOWN] else 0


def summary(progress: Progress) -> str:
    """Say it in one line: `12 of 40 ended: 28 queued, 12 completed; 12 images, ¥2.40`."""
    counts = ", ".join(f"{progress.counts[state]} {state}" for state in JobState if progress.counts[state])
    what = f"; {progress.what}" if progress.what else ""
    return f"{progress.done} of {progress.total} ended: {counts or 'no jobs'}{what}"


def as_json(progress: Progress, per_s: float) -> dict[str, Any]:
    """Give the same as one object: counts by state, rate, and for a batch its images, cost and errors."""
    shape: dict[str, Any] = {
        "batch": progress.batch,
        "sealed": progress.sealed,
        "total": progress.total,
        "done": progress.done,
        "over": over(progress),
        "counts": dict(progress.counts),
        "errors": dict(progress.errors),
        "jobs_per_s": round(per_s, 3),
    }
    return shape | dict(progress.facts)


def pace(progress: Progress, per_s: float) -> str:
    """Say how fast it goes and how long it takes at that rate; nothing before that can be told."""
    left = progress.total - progress.done - progress.counts[JobState.UNKNOWN]
    if not per_s or not left:
        return ""
    return f"{per_s:.1f} jobs/s, about {span(round(left / per_s * 1000))} left"


def remarks(progress: Progress) -> list[str]:
    """Say what went wrong or keeps it from completing, and what to do."""
    said = []
    if failed := progress.counts[JobState.FAILED]:
        why = ", ".join(f"{count} {code}" for code, count in progress.errors.items())
        said.append(
            f"{failed} failed{f' ({why})' if why else ''}: see `darkroom status JOB` for a job's reason"
        )
    if unknown := progress.counts[JobState.UNKNOWN]:
        said.append(f"{unknown} with an unknown outcome: see `darkroom unknown list` and decide")
    if not progress.sealed:
        said.append(f"not sealed, so it cannot complete: `darkroom batch seal {progress.batch}`")
    return said


def frame(progress: Progress, per_s: float, columns: int) -> list[str]:
    """Give the lines of a redraw, none longer than that many columns."""
    cells = max(0, min(_MOST_BAR_CELLS, columns - _BAR_MARGIN))
    filled = cells * progress.done // progress.total if progress.total else 0
    percent = 100 * progress.done // progress.total if progress.total else 0
    bar = f"{'█' * filled}{'░' * (cells - filled)} {percent} %".strip()
    parts = [bar, summary(progress), pace(progress, per_s), *(f"! {each}" for each in remarks(progress))]
    # Folded here: a terminal that folds by itself breaks the count of lines that a redraw goes up.
    return [line for part in parts for line in textwrap.wrap(part, max(1, columns))]
