"""`darkroom pause` and `darkroom resume`: the submits of single lanes, by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from producers.cli.terminal import JsonOption, opened, print_json

Lanes = Annotated[
    list[str], typer.Argument(help="Lanes, as `darkroom status` names them.", metavar="LANE...")
]
Why = Annotated[str, typer.Option(metavar="TEXT", help="Shown by `darkroom status`.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who does it; by default user@host.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]


def pause(
    lanes: Lanes, why: Why = "", by: As = None, dry_run: DryRun = False, as_json: JsonOption = False
) -> None:
    """Pause lanes: nothing new is submitted there; polls, copies and webhooks go on, jobs keep their order."""
    _change(lanes, True, why, by, dry_run, as_json)


def resume(
    lanes: Lanes, why: Why = "", by: As = None, dry_run: DryRun = False, as_json: JsonOption = False
) -> None:
    """Let paused lanes submit again. A lane that the provider blocks or throttles opens by itself, not by this."""
    _change(lanes, False, why, by, dry_run, as_json)


def _change(lanes: list[str], paused: bool, why: str, by: str | None, dry_run: bool, as_json: bool) -> None:
    with opened() as darkroom:
        for lane in lanes:  # a wrong name is refused before anything has changed
            darkroom.pause(lane, paused, by=by, why=why, dry_run=True)
        done = [(lane, darkroom.pause(lane, paused, by=by, why=why, dry_run=dry_run)) for lane in lanes]
    if as_json:
        lines = [{"lane": lane, "paused": paused, "changed": changed} for lane, changed in done]
        print_json({"dry_run": dry_run, "lanes": lines})
        return
    word = "paused" if paused else "resumed"
    for lane, changed in done:
        said = f"would be {word}" if dry_run else word
        typer.echo(f"{lane}: {said if changed else ('paused already' if paused else 'is not paused')}")
