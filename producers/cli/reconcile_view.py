"""What `darkroom reconcile` prints: tables for people, CSV or JSON for programs."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from producers.cli import one_line
from producers.cli.terminal import console, moment, money, print_json
from producers.reports.amount import decimal_text
from producers.reports.findings import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as Grid

    from producers.reports.findings import DayTotal, Finding, Verdict

SHOWN: Final = 20
_TITLES: Final = {
    Table.PAID_NOT_DELIVERED: "paid, not delivered",
    Table.DELIVERED_NOT_BILLED: "delivered, not billed",
    Table.DOUBLE_SUBMITS: "double submits",
    Table.UNKNOWNS: "unknown outcomes",
    Table.AMOUNTS_DIFFER: "amounts differ",
}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_CSV: Final = (
    "table", "why", "job", "generation", "line", "at", "currency", "ours", "theirs", "our_images", "their_images",
    "likelihood", "candidates", "command",
)  # fmt: skip


def print_document(verdict: Verdict) -> None:
    """Print all of it as one JSON object."""
    findings = [_row(each) for each in verdict.findings]
    print_json(
        {
            "agrees": verdict.agrees,
            "rows": verdict.rows,
            "agree": verdict.agree,
            "unjudged": dict(verdict.unjudged),
            "broken": [{"line": line, "why": why} for line, why in verdict.broken],
            "findings": findings,
            "totals": [asdict(each) for each in verdict.totals],
        }
    )


def print_csv(verdict: Verdict) -> None:
    """Print one row per finding."""
    writer = csv.DictWriter(sys.stdout, _CSV, lineterminator="\n")
    writer.writeheader()
    for finding in verdict.findings:
        row = _row(finding)
        theirs = {"generation": finding.generation_id, "candidates": " ".join(finding.candidates)}
        writer.writerow(row | {name: _no_formula(text) for name, text in theirs.items()})


def _no_formula(text: str) -> str:
    """Quote what a spreadsheet would run: ids are the words of whoever made the export."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _row(finding: Finding) -> dict[str, Any]:
    at = finding.at_ms
    return {
        "table": finding.table,
        "why": finding.why,
        "job": finding.job_id,
        "generation": finding.generation_id,
        "line": finding.line,
        "at": None
        if at is None
        else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds"),
        "currency": finding.currency,
        "ours": _decimal(finding.ours_micros),
        "theirs": _decimal(finding.theirs_micros),
        "our_images": finding.ours_images,
        "their_images": finding.theirs_images,
        "likelihood": finding.likelihood,
        "candidates": list(finding.candidates),
        "command": finding.command,
    }


def _decimal(micros: int | None) -> str | None:
    return None if micros is None else decimal_text(micros)


def print_tables(verdict: Verdict) -> None:
    """Print a table per kind of finding, the totals, and one sentence."""
    screen = console()
    currency = next((each.currency for each in verdict.findings if each.currency), "")
    if verdict.totals:
        screen.print(_totals(verdict.totals))
    for table in Table:
        found = verdict.of(table)
        if found:
            print(f"\n{_TITLES[table]}: {len(found)}{_sum(found, currency)}")
            screen.print(_grid(found[:SHOWN]))
        for each in found[:SHOWN]:  # whole lines, to be copied once somebody has looked
            if each.command:
                print(one_line(each.command))
        if len(found) > SHOWN:
            print(f"... and {len(found) - SHOWN} more; --csv or --json lists them.")
    for line, why in verdict.broken[:SHOWN]:
        print(one_line(f"line {line} {why}"))
    print(f"\n{_sentence(verdict)}")


def _sum(found: Sequence[Finding], currency: str) -> str:
    theirs = sum(each.theirs_micros or 0 for each in found)
    return f", {money(theirs, currency)} by the export" if theirs else ""


def _grid(found: Sequence[Finding]) -> Grid:
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False)
    for name in ("line", "when", "job", "generation", "ours", "theirs", "likely", "why"):
        grid.add_column(
            name,
            overflow="fold",
            no_wrap=name != "why",
            justify="right" if name in ("ours", "theirs", "line") else "left",
        )
    for each in found:
        grid.add_row(
            str(each.line or "-"),
            moment(each.at_ms),
            one_line(each.job_id) or "-",
            one_line(each.generation_id) or "-",
            _money(each.ours_micros, each.currency),
            _money(each.theirs_micros, each.currency),
            each.likelihood or "-",
            one_line(each.why),
        )
    return grid


def _money(micros: int | None, currency: str) -> str:
    return "-" if micros is None else money(micros, currency)


def _totals(totals: Sequence[DayTotal]) -> Grid:
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False)
    grid.add_column("day", no_wrap=True)
    grid.add_column("model", overflow="fold")
    for name in ("generations", "images", "by the export", "jobs", "by our ledger"):
        grid.add_column(name, justify="right", no_wrap=True)
    for each in totals:
        grid.add_row(
            each.day,
            one_line(each.model),
            str(each.theirs_generations),
            str(each.theirs_images),
            decimal_text(each.theirs_micros),
            str(each.ours_jobs),
            decimal_text(each.ours_micros),
        )
    return grid


def _sentence(verdict: Verdict) -> str:
    rows = f"{verdict.rows} rows: {verdict.agree} agree, {len(verdict.findings)} findings"
    parts = [rows, *(f"{count} not judged ({why})" for why, count in sorted(verdict.unjudged.items()))]
    if verdict.broken:
        parts.append(f"{len(verdict.broken)} rows cannot be read")
    end = (
        "" if not verdict.agrees else " Both sides agree." if verdict.agree else " No row could be compared."
    )
    return f"{', '.join(parts)}.{end}"
