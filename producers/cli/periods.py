"""What commands that read the ledger share: the period, and reading it with remarks on stderr."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.reports.journal import Journal
    from producers.reports.period import Period
    from shared.money.entry import Entry

SinceOption = Annotated[
    str | None, typer.Option(help="From this day (UTC), instant (ISO 8601 with zone), or e.g. 7d ago.")
]
UntilOption = Annotated[str | None, typer.Option(help="To the end of this day, or before this instant.")]
OneTenantOption = Annotated[str | None, typer.Option(help="Only this tenant's.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


def read_period(
    since: str | None, until: str | None, start: Callable[[], Callable[[Entry], object]], *, tries: int
) -> tuple[Period, Journal]:
    """Feed the period's entries into what `start` gives; see `journal.read_journal`."""
    from producers.reports.journal import opened_books, read_journal
    from producers.reports.period import parse_period
    from shared.settings import load_settings

    with opened_books(load_settings()) as books:
        period = parse_period(since, until, books.now_ms)
        journal = asyncio.run(read_journal(books, period, start, tries=tries))
    for note in journal.notes:
        typer.echo(one_line(note), err=True)
    return period, journal
