"""`darkroom watch`: the progress of a batch, or of all jobs, until it is over. Looks, never changes."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from producers.cli import one_line
from producers.cli.terminal import TenantOption, console, looking
from producers.cli.watch_view import (
    Progress,
    Sample,
    exit_code,
    frame,
    of_all,
    of_batch,
    over,
    rate,
    recent,
    remarks,
    summary,
)
from producers.cli.watch_view import as_json as shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from producers.looking import Looking

EVERY_S: Final = 0.5
QUIET_S: Final = 3.0  # only unknown jobs left for this long: a policy may still take them out


def watch(
    batch: Annotated[str | None, typer.Argument(help="The batch; without it, all jobs.")] = None,
    tenant: TenantOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per change.")] = False,
) -> None:
    """Show a batch's progress until it is complete, or that of all jobs until none is on its way.

    A line per change when not on a terminal, or a JSON object with --json; of a batch it says what it cost so far and
    what it can cost at most. Exit code 0: all completed or were cancelled. 1: jobs failed (of all
    jobs: since the watch began), or only jobs with an unknown outcome are left.
    """
    if batch is None and tenant is not None:
        raise typer.BadParameter("--tenant is of a batch: give its name, too")
    out = console()
    with looking() as darkroom, _shown(out, as_json=as_json) as show:
        last = _follow(_reader(darkroom, batch, tenant), show)
    if as_json:
        raise typer.Exit(exit_code(last))
    name = "all jobs" if last.batch is None else f"batch {last.batch}"
    end = "completed" if last.batch else "ended"
    head = end if over(last) else "stopped: only jobs with an unknown outcome are left"
    out.print(one_line(f"{name} {head}; {summary(last)}"))
    for remark in remarks(last):
        out.print(one_line(f"! {remark}"), style="yellow")
    raise typer.Exit(exit_code(last))


def _reader(darkroom: Looking, batch: str | None, tenant: str | None) -> Callable[[], Progress]:
    if batch is not None:
        return lambda: of_batch(darkroom.batch(batch, tenant))
    before = darkroom.overview().counts
    return lambda: of_all(darkroom.overview().counts, before)


def _follow(read: Callable[[], Progress], show: Callable[[Progress, float], None]) -> Progress:
    """Show it until it is over, or nothing but unknown jobs has been left for a while."""
    samples: list[Sample] = []
    stuck_since: float | None = None
    while True:
        progress, now_s = read(), time.monotonic()
        samples = recent([*samples, Sample(now_s, progress.done)], now_s)
        show(progress, rate(samples))
        stuck = progress.sealed and progress.settled
        stuck_since = (stuck_since or now_s) if stuck else None
        if over(progress) or (stuck_since is not None and now_s - stuck_since > QUIET_S):
            return progress
        time.sleep(EVERY_S)


@contextmanager
def _shown(out: Console, *, as_json: bool) -> Iterator[Callable[[Progress, float], None]]:
    """Give what shows progress: a frame that is redrawn on a terminal, else a line or an object per change."""
    if as_json or not out.is_terminal:
        yield _speaker(out, as_json=as_json)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=out, transient=True, auto_refresh=False) as live:

        def show(progress: Progress, per_s: float) -> None:
            lines = (one_line(line) for line in frame(progress, per_s, out.width))
            live.update(Text("\n".join(lines)), refresh=True)

        yield show


def _speaker(out: Console, *, as_json: bool) -> Callable[[Progress, float], None]:
    said = ""

    def speak(progress: Progress, per_s: float) -> None:
        nonlocal said
        steady = json.dumps(shape(progress, 0)) if as_json else one_line(summary(progress))
        if steady != said:
            said = steady
            line = json.dumps(shape(progress, per_s)) if as_json else steady
            out.file.write(line + "\n")
            out.file.flush()  # who reads a pipe reads it now

    return speak
