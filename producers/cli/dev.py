"""`darkroom dev`: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from producers.cli import EXIT_SETUP
from producers.cli.terminal import console

if TYPE_CHECKING:
    from producers.parts import Part
    from producers.stack import Stack

EVERY_S: Final = 0.25
RESTART_EVERY_S: Final = 1.0  # a worker that cannot start must not be started all the time
_WORKER: Final = "worker"
# What would lead other commands of this terminal elsewhere, as it outranks what the stack announces.
_OUTRANKING: Final = ("DARKROOM_REDIS", "DARKROOM_BROKER", "DARKROOM_ACCOUNTS", "DARKROOM_STORAGE")


def dev(
    workers: Annotated[int, typer.Option(min=0, max=64, metavar="N", help="Worker processes.")] = 1,
    latency: Annotated[
        float, typer.Option(min=0.0, metavar="S", help="Median seconds of a generation at the sandbox.")
    ] = 1.0,
    rate: Annotated[
        float,
        typer.Option(min=0.0, metavar="R", help="Submits per second that the sandbox allows; 0 = no limit."),
    ] = 0.0,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Run Flower, too.")] = True,
    artifacts: Annotated[
        Path, typer.Option(metavar="DIR", help="Where images are kept, also after the end.")
    ] = Path("darkroom-artifacts"),
    restart_workers: Annotated[
        bool, typer.Option("--restart-workers", help="Start a worker that has ended again.")
    ] = False,
) -> None:
    """Run Valkey, the sandbox, workers and Flower until Ctrl-C. Other commands find them by themselves.

    Nothing is paid: the sandbox stands in for the provider. Jobs are gone in the end, images are kept.
    """
    from producers.parts import ended_by_signals
    from producers.stack import Stack

    stack = Stack(
        workers=workers,
        latency_s=latency,
        rate_per_s=rate,
        flower=flower,
        keep_in=artifacts,
        announce=True,
    )
    code = 0
    try:
        with ended_by_signals(), stack:
            _tell(stack)
            code = _watch(stack, restart_workers=restart_workers)
            _say("nothing is left running")
    except KeyboardInterrupt:
        _say("stopped; all that was started has ended")
    if code:
        raise typer.Exit(code)


def _tell(stack: Stack) -> None:
    from producers.cli.places import places_table

    out = console()
    out.print(places_table(stack))
    out.print(f"\nimages are kept in {stack.artifacts}\nother commands find this stack; end it with Ctrl-C")
    for warning in _outranking():
        _say(warning)


def _outranking() -> list[str]:
    """Say which settings here are stronger than what the stack announces."""
    names = sorted(name for name in os.environ if name.upper().startswith(_OUTRANKING))
    found = [f"beware: {name} is set here, and leads other commands elsewhere" for name in names]
    config = Path(os.environ.get("DARKROOM_CONFIG", "darkroom.toml"))
    if config.exists():
        found.append(f"beware: {config} outranks this stack for commands that read it")
    return found


def _watch(stack: Stack, *, restart_workers: bool) -> int:
    """Report parts that end by themselves, until a signal ends us; give an exit code once all have ended."""
    while stack.parts:
        for part in stack.take_ended():
            _report(part)
            if restart_workers and part.name.startswith(_WORKER):
                time.sleep(RESTART_EVERY_S)
                again = stack.start_worker(int(part.name.removeprefix(_WORKER)))
                _say(f"{again.name} was started again, as process {again.pid}")
        time.sleep(EVERY_S)
    return EXIT_SETUP


def _report(part: Part) -> None:
    _say(f"{part.name} (process {part.pid}) {part.how_it_ended()}")
    tail = part.log_tail()
    for line in tail.splitlines()[-10:]:
        _say(f"  {part.name}: {line}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
