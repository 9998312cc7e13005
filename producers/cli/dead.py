"""`darkroom dead`: jobs that failed and deliveries that nobody acknowledged, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli import selecting as s
from producers.cli.terminal import JsonOption, console, moment, money, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from producers.dead import Dead, DeadJob
    from producers.dead_deliveries import DeadDelivery

Endpoint = Annotated[
    str | None, typer.Option(metavar="HOST", help="Deliveries to this host or named endpoint only.")
]
Only = Annotated[str | None, typer.Option(metavar="jobs|deliveries", help="One kind alone.")]
Limit = Annotated[
    int, typer.Option(min=0, help="List so many of each kind, the latest first; counts are of all.")
]


def dead(
    jobs: s.Jobs = None,
    batch: s.Batch = None,
    tenant: s.Tenant = None,
    lane: s.Lane = None,
    model: s.Model = None,
    code: s.Codes = None,
    older_than: s.OlderThan = None,
    newer_than: s.NewerThan = None,
    age_of: s.AgeOfOption = None,
    endpoint: Endpoint = None,
    only: Only = None,
    limit: Limit = 50,
    as_json: JsonOption = False,
) -> None:
    """List dead jobs and deliveries: counts by reason, then the latest with what `darkroom redrive` would do.

    A dead job has failed; a dead delivery is exhausted (its schedule is over) or disabled. Without options: all.
    """
    from producers.dead import find_dead
    from shared.settings import load_settings

    if only not in (None, "jobs", "deliveries"):
        raise typer.BadParameter("--only must be jobs or deliveries")
    selection = s.selection_of(
        jobs=jobs, batch=batch, tenant=tenant, lane=lane, model=model, codes=code,
        older_than=older_than, newer_than=newer_than, age_of=age_of, ages_of="ended",
    )  # fmt: skip
    with s.walking("looking") as progress:
        found = find_dead(
            load_settings(), selection, endpoint=endpoint, jobs=only != "deliveries" and endpoint is None,
            deliveries=only != "jobs", limit=limit, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(_json(found))
    else:
        _print(found)
    if found.missing:
        for job_id in found.missing:
            typer.echo(f"darkroom: {one_line(job_id)}: no such job", err=True)
        raise typer.Exit(EXIT_JOBS)


def _print(found: Dead) -> None:
    if not found.job_reasons and not found.delivery_reasons:
        typer.echo("nothing is dead")
        return
    tables = (
        (_job_reasons(found), ("jobs", "failed with", "billed", "a redrive would")),
        (
            map(_job_row, found.jobs),
            ("job", "tenant", "batch", "code", "billed", "tries", "ended", "message"),
        ),
        (_delivery_reasons(found), ("deliveries", "state", "last status")),
        (
            map(_delivery_row, found.deliveries),
            ("event", "what", "of", "endpoint", "state", "tries", "last", "ended"),
        ),
    )
    said = False
    for rows, headings in tables:
        cells = list(rows)
        if cells:
            if said:
                typer.echo()
            _table(headings, cells)
            said = True


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        counts = heading in ("jobs", "deliveries", "tries")
        table.add_column(
            heading,
            overflow="fold",
            no_wrap=heading in ("job", "event"),
            justify="right" if counts else "left",
        )
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console().print(table)


def _job_reasons(found: Dead) -> list[tuple[str, ...]]:
    from shared.jobs.redrive import SAID

    return [
        (str(count), code or "-", billed, SAID[word])
        for (code, billed, word), count in sorted(
            found.job_reasons.items(), key=lambda row: (-row[1], row[0])
        )
    ]


def _job_row(job: DeadJob) -> tuple[str, ...]:
    billed = money(job.cost_micros, job.currency) if job.cost_micros else job.billed
    return (
        job.job_id, job.tenant, job.batch or "-", job.code or "-", billed, str(job.attempts), moment(job.ended_at),
        job.message or "-",
    )  # fmt: skip


def _delivery_reasons(found: Dead) -> list[tuple[str, ...]]:
    ranked = sorted(found.delivery_reasons.items(), key=lambda row: (-row[1], row[0]))
    return [(str(count), state, status or "-") for (state, status), count in ranked]


def _delivery_row(each: DeadDelivery) -> tuple[str, ...]:
    subject = each.job or f"batch {each.batch}"
    return (
        each.event_id, each.event, subject, each.endpoint or "-", each.state, str(each.attempts),
        each.last_status or "-", moment(each.ended_at),
    )  # fmt: skip


def _json(found: Dead) -> dict[str, object]:
    def shown(each: DeadDelivery) -> dict[str, object]:
        return {name: value for name, value in plain(each).items() if name != "webhook"}

    return {
        "job_counts": [
            {"code": code, "billed": billed, "redrive": word, "jobs": count}
            for (code, billed, word), count in sorted(found.job_reasons.items())
        ],
        "delivery_counts": [
            {"state": state, "last_status": status, "deliveries": count}
            for (state, status), count in sorted(found.delivery_reasons.items())
        ],
        "jobs": [plain(job) for job in found.jobs],
        "deliveries": [shown(each) for each in found.deliveries],
    }
