"""`darkroom redrive`: put dead jobs back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli import selecting as s
from producers.cli.terminal import JsonOption, console, plain, prices, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from producers.dead_deliveries import DeadDelivery
    from producers.redrives import Redriven, RedriveReport
    from producers.selection import Selection

PayAgain = Annotated[
    bool,
    typer.Option(
        "--pay-again", help="Also submit what was, or may have been, paid already: it is paid again."
    ),
]
Deliveries = Annotated[
    bool, typer.Option("--deliveries", help="Send dead webhooks of the selected jobs or batch again instead.")
]
Endpoint = Annotated[
    str | None,
    typer.Option(metavar="HOST", help="Webhooks to this host or named endpoint; with --deliveries."),
]
_SHOWN_REFUSALS = 20
_DELIVERY_SAID = {
    "redriven": "sent again",
    "changed": "it changed meanwhile",
    "missing": "no such job or delivery",
    "gone": "the record of its job or batch is gone",
}


def redrive(
    jobs: s.Jobs = None,
    batch: s.Batch = None,
    tenant: s.Tenant = None,
    lane: s.Lane = None,
    model: s.Model = None,
    state: s.States = None,
    code: s.Codes = None,
    older_than: s.OlderThan = None,
    newer_than: s.NewerThan = None,
    age_of: s.AgeOfOption = None,
    pay_again: PayAgain = False,
    deliveries: Deliveries = False,
    endpoint: Endpoint = None,
    dry_run: s.DryRun = False,
    yes: s.Yes = False,
    why: s.Why = "",
    by: s.As = None,
    as_json: JsonOption = False,
) -> None:
    """Put failed jobs back: submitted again if nothing was paid, copied again if images were paid and not stored.

    The job keeps its id, batch, place and idempotency key. What was or may have been paid and has no image is refused
    unless --pay-again. With --deliveries, webhooks that are exhausted or disabled are sent again under their ids.
    Exit code 1 if anything selected was refused.
    """
    from producers.core import whoami

    selection = s.selection_of(
        jobs=jobs, batch=batch, tenant=tenant, lane=lane, model=model, states=state, codes=code,
        older_than=older_than, newer_than=newer_than, age_of=age_of, ages_of="ended",
    )  # fmt: skip
    if endpoint is not None and not deliveries:
        raise typer.BadParameter("--endpoint goes with --deliveries")
    if deliveries:
        if pay_again:
            raise typer.BadParameter("--pay-again is for jobs: webhooks cost nothing")
        _redrive_deliveries(selection, endpoint, by or whoami(), why, dry_run, as_json)
        return
    selection.check()
    _Command(selection, by or whoami(), why, pay_again, dry_run, yes, as_json).run()


class _Command:
    """One run of the command."""

    def __init__(
        self,
        selection: Selection,
        by: str,
        why: str,
        pay_again: bool,
        dry_run: bool,
        yes: bool,
        as_json: bool,
    ) -> None:
        self._selection, self._by, self._why = selection, by, why
        self._pay_again, self._dry_run, self._yes, self._as_json = pay_again, dry_run, yes, as_json
        self._items: list[Redriven] = []

    def run(self) -> None:
        if self._pay_again and not self._dry_run:
            self._ask(self._redrive("looking at jobs", dry_run=True))
        self._items.clear()
        report = self._redrive("redriving", dry_run=self._dry_run)
        if self._as_json:
            print_json(_json(report, self._items))
        else:
            self._print(report)
        if report.refused:
            raise typer.Exit(EXIT_JOBS)

    def _redrive(self, title: str, *, dry_run: bool) -> RedriveReport:
        from producers.redrives import redrive
        from shared.settings import load_settings

        def keep(item: Redriven) -> None:
            if self._as_json or (not item.done and len(self._items) < _SHOWN_REFUSALS):
                self._items.append(item)

        with s.walking(title) as progress:
            return redrive(
                load_settings(),
                self._selection,
                by=self._by,
                why=self._why,
                pay_again=self._pay_again,
                dry_run=dry_run,
                progress=progress,
                on_item=keep,
            )

    def _ask(self, report: RedriveReport) -> None:
        """Have a person agree to what is paid a second time."""
        count = report.paying_again
        if count:
            cost = prices(dict(report.again))
            question = f"{count} jobs that were or may have been paid are paid again, at most {cost}."
            s.confirmed(question, str(count), yes=self._yes)

    def _print(self, report: RedriveReport) -> None:
        would = "would be " if report.dry_run else ""
        cost = f"; new submits cost at most {prices(dict(report.micros))}" if +report.micros else ""
        again = f", {report.paying_again} of them paid again" if report.paying_again else ""
        typer.echo(f"{report.done} {would}redriven{again}, {report.refused} refused{cost}.")
        if report.outcomes:
            console().print(_table(report))
        for item in self._items:
            typer.echo(f"darkroom: {item.job_id}: {_said(item.outcome)}", err=True)
        if report.refused > len(self._items):
            typer.echo(f"darkroom: and {report.refused - len(self._items)} more", err=True)
        sys.stderr.flush()


def _redrive_deliveries(
    selection: Selection, endpoint: str | None, by: str, why: str, dry_run: bool, as_json: bool
) -> None:
    from producers.dead_deliveries import redrive_deliveries
    from shared.settings import load_settings

    items: list[dict[str, str]] = []

    def keep(each: DeadDelivery, outcome: str) -> None:
        if as_json:
            items.append({"event_id": each.event_id, "endpoint": each.endpoint, "outcome": outcome})

    with s.walking("redriving") as progress:
        report = redrive_deliveries(
            load_settings(), selection, by=by, endpoint=endpoint, why=why, dry_run=dry_run, progress=progress,
            on_item=keep,
        )  # fmt: skip
    if as_json:
        counts = {"dry_run": dry_run, "redriven": report.done, "refused": report.refused}
        print_json(counts | {"deliveries": items})
    else:
        would = "would be " if dry_run else ""
        typer.echo(f"{report.done} deliveries {would}redriven, {report.refused} refused.")
        for (reason, outcome), count in sorted(report.outcomes.items()):
            typer.echo(one_line(f"{count} {reason or '-'}: {_DELIVERY_SAID[outcome]}"))
    if report.refused:
        raise typer.Exit(EXIT_JOBS)


def _said(outcome: str) -> str:
    from shared.jobs.redrive import SAID

    return SAID[outcome]


def _table(report: RedriveReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("jobs", justify="right")
    table.add_column("failed with", overflow="fold")
    table.add_column("what happens" if report.dry_run else "what happened", overflow="fold")
    for (code, outcome), count in sorted(report.outcomes.items(), key=lambda row: (-row[1], row[0])):
        table.add_row(*(Text(one_line(cell)) for cell in (str(count), code or "-", _said(outcome))))
    return table


def _json(report: RedriveReport, items: list[Redriven]) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "redriven": report.done,
        "refused": report.refused,
        "paid_again": report.paying_again,
        "at_most_micros": dict(report.micros),
        "again_micros": dict(report.again),
        "counts": [
            {"code": code, "outcome": outcome, "jobs": count}
            for (code, outcome), count in sorted(report.outcomes.items())
        ],
        "jobs": [plain(item) | {"done": item.done} for item in items],
    }
