"""Waiting for batches at the terminal, with progress on stderr and the outcome at the end."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from producers.cli import EXIT_JOBS, one_line
from producers.cli.terminal import console, money
from shared.errors import BatchNotFound
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from producers import BatchStatus, Darkroom

EVERY_S: Final = 0.5
QUIET_S: Final = 3.0  # only unknown jobs left for this long: a policy may still take them out
SPOKEN_EVERY_S: Final = 10.0
SHOWN_UNKNOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """The batches as they were when the wait ended: all jobs ended, or only unknown ones are left."""

    statuses: tuple[BatchStatus, ...]

    def count(self, state: JobState) -> int:
        return sum(status.counts[state] for status in self.statuses)

    @property
    def done(self) -> int:
        return sum(status.done for status in self.statuses)

    @property
    def total(self) -> int:
        return sum(status.total for status in self.statuses)

    @property
    def over(self) -> bool:
        return self.done == self.total

    @property
    def stuck(self) -> bool:
        return all(status.settled for status in self.statuses)

    @property
    def exit_code(self) -> int:
        return EXIT_JOBS if self.count(JobState.FAILED) or self.count(JobState.UNKNOWN) else 0

    def __str__(self) -> str:
        counts = ((state, self.count(state)) for state in JobState)
        return ", ".join(f"{count} {state}" for state, count in counts if count) or "no jobs"


def wait_for(darkroom: Darkroom, name: str, tenants: Sequence[str]) -> Outcome:
    """Wait until every job of the batch has ended, or nothing but unknown jobs is left."""
    stuck_since: float | None = None
    with _shown(name) as show:
        while True:
            outcome = Outcome(tuple(_statuses(darkroom, name, tenants)))
            show(outcome)
            stuck_since = (stuck_since or time.monotonic()) if outcome.stuck else None
            if outcome.over or (stuck_since is not None and time.monotonic() - stuck_since > QUIET_S):
                return outcome
            time.sleep(EVERY_S)


def _statuses(darkroom: Darkroom, name: str, tenants: Sequence[str]) -> Iterator[BatchStatus]:
    for tenant in tenants:
        try:
            yield darkroom.batch(name, tenant)
        except BatchNotFound:  # all its lines were duplicates of jobs elsewhere
            continue


@contextmanager
def _shown(name: str) -> Iterator[Callable[[Outcome], None]]:
    """Give what shows an outcome: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _speaker(name)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(outcome: Outcome) -> None:
            progress.update(bar, completed=outcome.done, total=outcome.total, description=str(outcome))

        yield show


def _speaker(name: str) -> Callable[[Outcome], None]:
    spoken_at = time.monotonic()

    def speak(outcome: Outcome) -> None:
        nonlocal spoken_at
        if time.monotonic() - spoken_at > SPOKEN_EVERY_S:
            spoken_at = time.monotonic()
            sys.stderr.write(f"batch {name}: {outcome}\n")

    return speak


def print_outcome(darkroom: Darkroom, outcome: Outcome) -> None:
    """Say how it ended, and what is left to decide."""
    for status in outcome.statuses:
        cost = money(status.cost_micros, status.currency)
        counts = Outcome((status,))
        owner = f" of {status.tenant}" if len(outcome.statuses) > 1 else ""
        completed = "completed" if status.completed_at else "not completed"
        print(f"batch {status.name}{owner} {completed}: {counts}; {status.images} images, {cost}")
    if outcome.count(JobState.UNKNOWN):
        _print_unknown(darkroom, outcome)


def _print_unknown(darkroom: Darkroom, outcome: Outcome) -> None:
    owners: set[Any] = {(status.tenant, status.name) for status in outcome.statuses}
    jobs = [job for job in darkroom.unknown() if (job.tenant, job.batch) in owners]
    for job in jobs[:SHOWN_UNKNOWN]:
        sys.stderr.write(one_line(f"unknown: {job.id} ({job.unknown_cause})") + "\n")
    if len(jobs) > SHOWN_UNKNOWN:
        sys.stderr.write(f"... and {len(jobs) - SHOWN_UNKNOWN} more unknown jobs\n")
    sys.stderr.write("decide with `darkroom unknown resolve`, `resubmit` or `release`\n")
