"""`darkroom ledger`: whether the books add up, and the entries themselves."""

from __future__ import annotations

import asyncio
import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.ledger_close import close
from producers.cli.periods import CsvOption, OneTenantOption, SinceOption, UntilOption, read_period
from producers.cli.terminal import JsonOption, console, moment, money, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from shared.money.audit import Difference, LedgerReport
    from shared.money.entry import Entry

app = typer.Typer(help="The ledger: verify it, print its entries, close its days.", no_args_is_help=True)
app.command()(close)
_SHOWN = 20
_COLUMNS = (
    "id", "at", "kind", "currency", "amount", "debit", "credit", "job", "tenant", "batch", "lane", "intent",
)  # fmt: skip


@app.command()
def verify(
    exports: Annotated[
        bool, typer.Option("--exports", help="Read the exports of closed days again, and count from them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare all entries with the running balances. Exit code 1 if the books do not add up."""
    from producers.reports.journal import opened_books
    from shared.money import ledger
    from shared.settings import load_settings

    closed_days = 0
    with opened_books(load_settings()) as books:
        if exports:
            from producers.reports.closing import open_books_store
            from producers.reports.journal import verify_all

            found, closed_days = asyncio.run(verify_all(books, open_books_store(books.settings)))
        else:
            found = ledger.verify(books.client, books.keys)
    if as_json:
        print_json(plain(found) | {"adds_up": found.adds_up, "exports_read": closed_days})
    else:
        _print_report(found)
        if exports:
            print(f"{closed_days} closed days were read again: each export is what its name says.")
    if not found.adds_up:
        raise typer.Exit(EXIT_JOBS)


def _print_report(found: LedgerReport) -> None:
    if found.lines:
        console().print(_table(found))
    last = f"to {found.through_id}, " if found.through_id else ""
    print(f"{found.entries} entries, {last}at {moment(found.at_ms)}; {found.open_holds} holds are open.")
    if found.adds_up:
        print("The books add up.")
        return
    for difference in found.differences[:_SHOWN]:
        print(one_line(_sentence(difference)))
    more = len(found.differences) - _SHOWN + found.unlisted
    if more > 0:
        print(f"... and {more} more differences; --json lists them.")
    print("The books do not add up.")


def _table(found: LedgerReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("account")
    for heading in ("opening", "entries", "balance", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in found.lines:
        amounts = (line.opening, line.entries, line.running)
        off = Text(money(line.difference, line.currency), style="bold red") if line.difference else "-"
        table.add_row(line.kind, *(money(each, line.currency) for each in amounts), off)
    return table


def _sentence(difference: Difference) -> str:
    def amount(micros: int) -> str:
        return money(micros, difference.currency)

    expected, found = amount(difference.expected), amount(difference.found)
    match difference.rule:
        case "balance":
            return f"{difference.about}: opening and entries make {expected}, the balance says {found}"
        case "sum":
            return f"{difference.about}: all balances sum to {found}, not to nothing"
        case "held_twice":
            return f"{difference.about}: {found} were held ({difference.entry_id}) while {expected} were held already"
        case "resolved_twice":
            return (
                f"{difference.about}: {found} were resolved ({difference.entry_id}), but {expected} were held"
            )
        case "posting":
            return f"entry {difference.about} is no posting of ours: its kind, accounts or amount are wrong"


@app.command()
def export(
    since: SinceOption = None,
    until: UntilOption = None,
    tenant: OneTenantOption = None,
    as_csv: CsvOption = False,
) -> None:
    """Print the entries, oldest first, as JSON lines or CSV; also those of days that were closed."""
    write = _csv_writer() if as_csv else _write_line

    def take(entry: Entry) -> None:
        if tenant is None or entry.tenant == tenant:
            write(entry)

    read_period(since, until, lambda: take, tries=1)


def _write_line(entry: Entry) -> None:
    from shared.money.entry import entry_line

    sys.stdout.write(entry_line(entry).decode())


def _csv_writer() -> Callable[[Entry], object]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    return lambda entry: writer.writerow(_cells(entry))


def _cells(entry: Entry) -> tuple[Any, ...]:
    from datetime import UTC, datetime

    from producers.reports.amount import decimal_text

    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return (
        entry.id, at, entry.kind, entry.currency, decimal_text(entry.micros), entry.debit, entry.credit, entry.job,
        entry.tenant, entry.batch, entry.lane, entry.intent,
    )  # fmt: skip
