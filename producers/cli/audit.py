"""`darkroom audit`: who stopped what, when and why."""

from __future__ import annotations

from typing import Annotated

import typer

from producers.cli import one_line
from producers.cli.terminal import JsonOption, console, looking, moment, plain, print_json


def audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List freezes and pauses of lanes with who did it, when and why, newest first."""
    with looking() as darkroom:
        entries = darkroom.audit(limit)
    if as_json:
        print_json({"entries": [plain(entry) for entry in entries]})
        return
    if not entries:
        typer.echo("nothing was frozen or paused yet")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("when", "who", "what", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "when")
    for entry in entries:
        table.add_row(
            moment(entry.at_ms),
            one_line(entry.who),
            one_line(f"{entry.what} {entry.on}"),
            one_line(entry.why),
        )
    console().print(table)
