"""`darkroom unknown`: jobs whose submit has an unknown outcome, and what a person can do about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import one_line
from producers.cli.terminal import (
    JsonOption,
    console,
    for_each,
    looking,
    moment,
    money,
    opened,
    print_json,
    report,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers import Darkroom, Job

app = typer.Typer(
    help="Jobs whose submit has an unknown outcome: list them, and decide.", no_args_is_help=True
)
JobArgument = Annotated[str, typer.Argument(help="Job id.", metavar="JOB")]
JobsArgument = Annotated[list[str], typer.Argument(help="Job ids.", metavar="JOB...")]


@app.command("list")
def list_unknown(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, oldest first.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List them, oldest first, with why and what is held for each."""
    with looking() as darkroom:
        jobs = darkroom.unknown(limit)
    if as_json:
        print_json({"unknown": [_entry(job) for job in jobs]})
    elif not jobs:
        typer.echo("no job has an unknown outcome")
    else:
        console().print(_table(jobs))


def unknown_since(job: Job) -> int | None:
    """Find in its timeline when the job became unknown (unix ms)."""
    return next((entry.at_ms for entry in reversed(job.timeline) if entry.state == "unknown"), job.intent_at)


def _entry(job: Job) -> dict[str, object]:
    return {
        "job": job.id,
        "tenant": job.tenant,
        "batch": job.batch,
        "lane": job.lane,
        "cause": job.unknown_cause,
        "since": unknown_since(job),
        "hold_micros": job.hold_micros,
        "currency": job.currency,
        "on_unknown": job.on_unknown,
        "intent_id": job.intent_id,
    }


def _table(jobs: list[Job]) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("job", "tenant", "batch", "lane", "cause", "since", "held", "policy"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "job")
    for job in jobs:
        held = money(job.hold_micros, job.currency)
        since = moment(unknown_since(job))
        cells = (job.id, job.tenant, job.batch, job.lane, job.unknown_cause, since, held, job.on_unknown)
        table.add_row(*(Text(one_line(str(cell or "-"))) for cell in cells))
    return table


@app.command()
def resolve(
    job: JobArgument,
    generation_id: Annotated[
        str, typer.Option(help="The provider's id of the generation that belongs to it.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Attach the generation you found at the provider: the job goes on from there."""
    _change([job], lambda darkroom, job_id: darkroom.resolve(job_id, generation_id), as_json)


@app.command()
def resubmit(jobs: JobsArgument, as_json: JsonOption = False) -> None:
    """Submit again, although the first submit may have been accepted: a second charge is possible."""
    _change(jobs, lambda darkroom, job_id: darkroom.resubmit(job_id), as_json)


@app.command()
def release(jobs: JobsArgument, as_json: JsonOption = False) -> None:
    """Give up: the job fails, and the money held for it is free again."""
    _change(jobs, lambda darkroom, job_id: darkroom.release(job_id), as_json)


def _change(job_ids: list[str], change: Callable[[Darkroom, str], Job], as_json: bool) -> None:
    with opened() as darkroom:
        done = for_each(job_ids, lambda job_id: change(darkroom, job_id))
    results = [{"job": job_id, "state": job.state} for job_id, job in done]
    report(job_ids, results, [f"{job_id}: {job.state}" for job_id, job in done], as_json)
