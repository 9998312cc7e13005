"""`darkroom spend`: where the money went."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producers.cli.periods import CsvOption, OneTenantOption, SinceOption, UntilOption, read_period
from producers.cli.terminal import JsonOption, console, money, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from producers.reports.journal import Journal
    from producers.reports.period import Period
    from producers.reports.spend import Spend, SpendRow

By = Annotated[str, typer.Option(metavar="NAMES", help="Some of tenant, batch, model, account, day; as a,b.")]
_FIGURES = ("currency", "jobs", "spent", "held", "in_doubt")


def spend(
    by: By = "tenant",
    since: SinceOption = None,
    until: UntilOption = None,
    tenant: OneTenantOption = None,
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what was spent, is held, and is in doubt, from the ledger; also from days that were closed and exported."""
    from producers.reports.journal import TRIES
    from producers.reports.spend import Spend, parse_by

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    names = parse_by(by)
    started: list[Spend] = []

    def start() -> Any:
        started[:] = [Spend(names, tenant)]
        return started[0].add

    period, journal = read_period(since, until, start, tries=TRIES)
    rows = started[0].rows()
    if as_json:
        print_json(_document(names, period, journal, rows))
    elif as_csv:
        _print_csv(names, rows)
    elif not rows:
        typer.echo("nothing was spent, and nothing is held")
    else:
        console().print(_table(names, rows))


def _document(
    names: Sequence[str], period: Period, journal: Journal, rows: Sequence[SpendRow]
) -> dict[str, Any]:
    from producers.reports.spend import totals

    return {
        "by": list(names),
        "since": period.since_text,
        "until": period.until_text,
        "closed_days": journal.closed_days,
        "rows": [dict(zip(names, row.group, strict=True)) | row.figures() for row in rows],
        "totals": [row.figures() for row in totals(rows)],
    }


def _print_csv(names: Sequence[str], rows: Sequence[SpendRow]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*names, *_FIGURES))
    for row in rows:
        figures = row.figures()
        writer.writerow((*row.group, *(figures[name] for name in _FIGURES)))


def _table(names: Sequence[str], rows: Sequence[SpendRow]) -> Table:
    from rich.table import Table

    from producers.reports.spend import totals

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name == "day")
    for name in ("jobs", "spent", "held", "in doubt"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.group, *_cells(row))
    if len(rows) > 1:
        table.add_section()
        for row in totals(rows):
            table.add_row("in all", *("" for _ in names[1:]), *_cells(row))
    return table


def _cells(row: SpendRow) -> tuple[str, ...]:
    amounts = (row.spent_micros, row.held_micros, row.doubt_micros)
    return (str(row.jobs), *(money(each, row.currency) for each in amounts))
