"""`darkroom ledger close`: days that are over leave the state server for the object store."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli.terminal import JsonOption, print_json

if TYPE_CHECKING:
    from producers.reports.closing import Closing
    from producers.reports.journal import Books

Before = Annotated[
    str | None,
    typer.Option(metavar="DAY", help="Only days (UTC) before this one; by default all that may be closed."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would close; change nothing.")]
_LARGE = 10_000


def close(before: Before = None, dry_run: DryRun = False, as_json: JsonOption = False) -> None:
    """Export days that are over to the object store, and replace them by opening balances.

    A day may be closed 24 h after its end. Run it daily, for example by cron: it may be killed at any time, and run
    twice. `darkroom spend` and `ledger export` go on reading closed days, from their exports.
    """
    from producers.core import whoami
    from producers.reports.closing import check_before, close_days, latest_before, open_books_store, rehearse
    from producers.reports.journal import opened_books
    from shared.settings import load_settings

    asked = _day(before)
    done: list[Closing] = []

    def say(closing: Closing) -> None:
        done.append(closing)
        if not as_json:
            typer.echo(_sentence(closing, dry_run=dry_run))

    with opened_books(load_settings()) as books:
        store = open_books_store(books.settings)
        until = check_before(asked, latest_before(books))
        if dry_run:
            for closing in rehearse(books, until):
                say(closing)
        else:
            asyncio.run(close_days(books, store, until, who=whoami(), on_closed=say))
        since = _stream_begins(books)
    if as_json:
        print_json(
            {
                "before": until.isoformat(),
                "dry_run": dry_run,
                "closed": [_row(each) for each in done],
                "stream_since": since and since.isoformat(),
            }
        )
    else:
        typer.echo(_summary(len({each.day.day for each in done}), until, since, dry_run=dry_run))


def _day(text: str | None) -> date | None:
    from shared.errors import ConfigurationError

    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError:
        raise ConfigurationError(f"--before takes a day such as 2026-01-31, got {text!r}.") from None


def _stream_begins(books: Books) -> date | None:
    from producers.reports.closing import oldest_entry

    oldest = oldest_entry(books)
    return oldest.day if oldest else None


def _row(closing: Closing) -> dict[str, object]:
    day = closing.day
    return {
        "day": day.day.isoformat(), "part": day.part, "entries": day.entries, "object_key": day.key, "sha256": day.sha256,
        "size_bytes": closing.size_bytes,
    }  # fmt: skip


def _sentence(closing: Closing, *, dry_run: bool) -> str:
    day, size = closing.day, closing.size_bytes
    if dry_run:
        return f"{day.day}: {day.entries} entries would go to {day.key}"
    amount = f"{size / 1000:,.0f} kB" if size >= _LARGE else f"{size:,} bytes"
    return f"{day.day}: {day.entries} entries are in {day.key} ({amount})"


def _summary(days: int, until: date, since: date | None, *, dry_run: bool) -> str:
    told = "day would be" if dry_run else "day was"
    many = "days would be" if dry_run else "days were"
    what = f"{days} {told if days == 1 else many} closed"
    if not days:
        what = f"No day before {until} is open: nothing to close"
    ends = f"the stream begins at {since}" if since else "the stream is empty"
    return f"{what}; {ends}." + (" Nothing was changed." if dry_run else "")
