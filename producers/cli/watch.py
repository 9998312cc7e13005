"""`darkroom watch`: the progress of a batch until it is complete. Looks, never changes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from producers.cli import one_line
from producers.cli.terminal import TenantOption, console, opened
from producers.cli.watch_view import Sample, exit_code, frame, over, rate, recent, remarks, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from producers import BatchStatus, Darkroom

EVERY_S: Final = 0.5
QUIET_S: Final = 3.0  # only unknown jobs left for this long: a policy may still take them out


def watch(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    tenant: TenantOption = None,
) -> None:
    """Show a batch's progress until it is complete; a line per change when not on a terminal.

    Exit code 0: all completed or cancelled. 1: jobs failed, or only jobs with an unknown outcome are left.
    """
    out = console()
    with opened() as darkroom, _shown(out) as show:
        last = _follow(darkroom, batch, tenant, show)
    head = "completed" if over(last) else "stopped: only jobs with an unknown outcome are left"
    out.print(one_line(f"batch {last.name} {head}; {summary(last)}"))
    for remark in remarks(last):
        out.print(one_line(f"! {remark}"), style="yellow")
    raise typer.Exit(exit_code(last))


def _follow(
    darkroom: Darkroom, name: str, tenant: str | None, show: Callable[[BatchStatus, float], None]
) -> BatchStatus:
    """Show it until it is complete, or nothing but unknown jobs has been left for a while."""
    samples: list[Sample] = []
    stuck_since: float | None = None
    while True:
        status, now_s = darkroom.batch(name, tenant), time.monotonic()
        samples = recent([*samples, Sample(now_s, status.done)], now_s)
        show(status, rate(samples))
        stuck = status.sealed and status.settled
        stuck_since = (stuck_since or now_s) if stuck else None
        if over(status) or (stuck_since is not None and now_s - stuck_since > QUIET_S):
            return status
        time.sleep(EVERY_S)


@contextmanager
def _shown(out: Console) -> Iterator[Callable[[BatchStatus, float], None]]:
    """Give what shows a status: a frame that is redrawn on a terminal, else a line per change."""
    if not out.is_terminal:
        yield _speaker(out)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=out, transient=True, auto_refresh=False) as live:

        def show(status: BatchStatus, per_s: float) -> None:
            lines = (one_line(line) for line in frame(status, per_s, out.width))
            live.update(Text("\n".join(lines)), refresh=True)

        yield show


def _speaker(out: Console) -> Callable[[BatchStatus, float], None]:
    said = ""

    def speak(status: BatchStatus, _per_s: float) -> None:
        nonlocal said
        if (line := one_line(summary(status))) != said:
            said = line
            out.file.write(line + "\n")
            out.file.flush()  # who reads a pipe reads it now

    return speak
