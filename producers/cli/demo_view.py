"""What the demo shows: the running stack, the jobs' progress, the tables at the end, the contact sheet."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from producers.cli.places import places, places_table
from producers.cli.terminal import STATE_STYLES, money, span
from producers.contact_sheet import Picture, contact_sheet
from producers.demo_jobs import without_markers
from shared.errors import ConfigurationError
from shared.jobs.lifecycle import JobState
from shared.jobs.sizes import size_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console

    from producers.demo_jobs import DemoJob
    from producers.demo_result import DemoResult
    from producers.stack import Stack
    from shared.jobs.job import Job

_WIDE_COLUMNS: Final = 105
_LAMP: Final = "■"


class View(Protocol):
    """How progress is shown."""

    def say(self, line: str) -> None: ...
    def show_stack(self, stack: Stack) -> None: ...
    def watching(
        self, jobs: Sequence[tuple[DemoJob, str]]
    ) -> AbstractContextManager[Callable[[Sequence[Job]], None]]: ...


def view(out: Console) -> View:
    """Give a live view for a terminal, lines for anything else."""
    return LiveView(out) if out.is_terminal else LineView(out)


class LineView:
    """A line for whatever happens."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def say(self, line: str) -> None:
        self._out.print(line)

    def show_stack(self, stack: Stack) -> None:
        for place in places(stack):
            self._out.print(f"  {place.name:<9} {place.where:<32} pid {place.pid:<8} {place.purpose}")

    @contextmanager
    def watching(self, jobs: Sequence[tuple[DemoJob, str]]) -> Iterator[Callable[[Sequence[Job]], None]]:
        shows = {job_id: shown.shows for shown, job_id in jobs}
        told: set[str] = set()

        def show(now: Sequence[Job]) -> None:
            for job in now:
                if job.ended and job.id not in told:
                    told.add(job.id)
                    self._out.print(f"  {len(told):>2}/{len(jobs)} {_ending(job)} {shows[job.id]}")

        yield show


class LiveView(LineView):
    """Lines, and a bar with a lamp per job while they run."""

    def show_stack(self, stack: Stack) -> None:
        self._out.print(places_table(stack))

    @contextmanager
    def watching(self, jobs: Sequence[tuple[DemoJob, str]]) -> Iterator[Callable[[Sequence[Job]], None]]:
        progress = Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        )
        bar = progress.add_task("", total=len(jobs))
        with Live(progress, console=self._out, transient=True, refresh_per_second=8) as live:

            def show(now: Sequence[Job]) -> None:
                images = sum(len(job.artifacts) for job in now)
                progress.update(bar, completed=sum(job.ended for job in now), description=f"{images} images")
                live.update(Group(progress, _lamps(now)))

            yield show


def _lamps(jobs: Sequence[Job]) -> Text:
    """Give a lamp per job in the colour of its state, and what the colours mean."""
    text = Text()
    for job in jobs:
        text.append(f"{_LAMP} ", STATE_STYLES.get(job.state, "blue"))
    counts = Counter(job.state for job in jobs)
    for state in JobState:
        if counts[state]:
            text.append(f" {counts[state]} {state}", STATE_STYLES.get(state, "blue"))
    return text


def _ending(job: Job) -> str:
    return f"{job.state:<10} {_images(job):>8} {_cost(job):>7} {_time(job):>6} "


# --- the tables ---


def print_tables(out: Console, result: DemoResult) -> None:
    """Print the jobs, then both sides' bills."""
    out.print(_jobs_table(result, wide=out.width >= _WIDE_COLUMNS))
    out.print()
    out.print(_bill_table(result))
    events = f"{result.sink.verified} webhooks verified by the consumer"
    out.print(f"\n{result.artifacts_verified} images read back with the right checksum, {events}")
    out.print(f"contact sheet: {result.contact_sheet}")


def _jobs_table(result: DemoResult, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("job", "model", "size"):
        table.add_column(name, no_wrap=True)
    for name in ("images", "cost", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("shows", no_wrap=True)
    for shown, job in result.jobs:
        cells = [job.id, job.model, _label(job), _images(job), _cost(job), _time(job)]
        style = None if job.state is JobState.COMPLETED else STATE_STYLES.get(job.state)
        table.add_row(*cells, *([shown.shows] if wide else []), style=style)
    return table


def _bill_table(result: DemoResult) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("accepted", "images", "amount"):
        table.add_column(name, justify="right")
    ours, theirs = result.cost_micros, result.provider.charged_micros
    currency = result.currency
    table.add_row("our bill", str(result.accepted), str(result.images), money(ours, currency))
    table.add_row(
        "the sandbox's ledger",
        str(result.provider.accepted),
        str(result.provider.charged_images),
        money(theirs, currency),
    )
    return table


def _images(job: Job) -> str:
    if job.state is not JobState.COMPLETED:
        reason = (job.error_code or job.state).partition(":")[0]
        return reason or job.state
    return f"{len(job.artifacts)} of {job.n}" if job.partial else str(len(job.artifacts))


def _cost(job: Job) -> str:
    return money(job.cost_micros, job.currency) if job.cost_micros else "-"


def _time(job: Job) -> str:
    return span(job.finished_at - job.created_at) if job.finished_at else "-"


def _label(job: Job) -> str:
    return size_label(job.request.get("size"), job.request.get("resolution"))


# --- the contact sheet ---


def write_page(result: DemoResult, images: str) -> None:
    """Write the contact sheet; `images` is the folder of the object store, beside it."""
    summary = f"{len(result.jobs)} jobs, {result.images} images, {money(result.cost_micros, result.currency)}"
    pictures = (picture for shown, job in result.jobs for picture in _pictures(shown, job, images))
    page = contact_sheet("Darkroom demo", summary, pictures)
    try:
        result.contact_sheet.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"cannot write {result.contact_sheet} ({error.strerror}).") from None


def _pictures(shown: DemoJob, job: Job, images: str) -> Iterator[Picture]:
    prompt = without_markers(str(job.request.get("prompt", "")))
    note = f"{_label(job)} · {job.model} · {shown.shows}"
    for artifact in job.artifacts:
        if artifact.object_key is not None:
            yield Picture(
                prompt,
                note,
                path=f"{images}/{artifact.object_key}",
                width=artifact.width,
                height=artifact.height,
            )
    if not job.artifacts:
        yield Picture(prompt, note, missing=job.error_message or job.state)
