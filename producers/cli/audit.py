"""`darkroom audit`: who decided what, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import one_line
from producers.cli.terminal import JsonOption, console, looking, moment, plain, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from producers import AuditEntry

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")]
Since = Annotated[
    str | None, typer.Option(help="From this day (UTC), instant (ISO 8601 with zone), or e.g. 7d ago.")
]
What = Annotated[
    str | None, typer.Option(metavar="KIND", help="Only this: freeze, pause, cancel, redrive, purge, ...")
]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Only what this person did.")]


def audit(
    limit: Limit = 50,
    since: Since = None,
    what: What = None,
    by: By = None,
    as_json: JsonOption = False,
) -> None:
    """List what people decided (freezes, pauses, cancels, redrives, ...): who, when, of how many, and why.

    The last 10,000 or so are kept. Each was written with the change it tells of.
    """
    from producers.reports.period import parse_period

    with looking() as darkroom:
        since_ms = parse_period(since, None, darkroom.now_ms).since_ms
        entries = darkroom.audit(limit, since_ms=since_ms, what=what, by=by)
    if as_json:
        print_json({"entries": [plain(entry) for entry in entries]})
    elif not entries:
        typer.echo(
            "no operator has changed anything yet"
            if (since, what, by) == (None, None, None)
            else "no such entry"
        )
    else:
        console().print(_table(entries))


def _table(entries: list[AuditEntry]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("when", "who", "what", "jobs", "why"):
        right = heading == "jobs"
        table.add_column(
            heading, overflow="fold", no_wrap=heading == "when", justify="right" if right else "left"
        )
    for entry in entries:
        table.add_row(
            moment(entry.at_ms),
            one_line(entry.who),
            one_line(f"{entry.what} {entry.on}"),
            "-" if entry.jobs is None else str(entry.jobs),
            one_line(entry.why),
        )
    return table
