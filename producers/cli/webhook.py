"""`darkroom webhook`: a new secret, a test event, and how deliveries stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.terminal import JsonOption, TenantOption, console, moment, plain, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from producers.webhooks import DeliveryStatus

app = typer.Typer(help="Webhooks: make a secret, test an endpoint, see deliveries.", no_args_is_help=True)


@app.command("secret")
def secret() -> None:
    """Print a new signing secret. Nothing is stored."""
    from producers.webhooks import new_secret

    typer.echo(new_secret())


@app.command("test")
def send_test_event(
    endpoint: Annotated[str, typer.Argument(help="URL, or the name of an endpoint in the settings.")],
    as_json: JsonOption = False,
) -> None:
    """Send a signed event of type `test`, once, from this machine. Exit code 1 unless it is answered with 2xx."""
    from producers.webhooks import send_test
    from shared.settings import load_settings

    answer = send_test(load_settings(), endpoint)
    if as_json:
        print_json(plain(answer) | {"acknowledged": answer.acknowledged})
    else:
        said = answer.trouble or f"answered {answer.status}"
        verdict = "acknowledged" if answer.acknowledged else "not acknowledged: it has to answer 2xx"
        typer.echo(f"{answer.event_id}: {said}, {verdict}")
    if not answer.acknowledged:
        raise typer.Exit(EXIT_JOBS)


@app.command("deliveries")
def deliveries(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Job id.")] = None,
    batch: Annotated[str | None, typer.Option(help="Those of a batch's own events instead.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what became of the events of a job or batch: tries, last answer, next try."""
    from producers.webhooks import batch_deliveries, job_deliveries
    from shared.settings import load_settings

    if (job is None) is (batch is None):
        raise typer.BadParameter("give a job id, or --batch NAME")
    settings = load_settings()
    if job is not None:
        found = job_deliveries(settings, job)
    else:
        found = batch_deliveries(settings, batch or "", tenant or settings.tenant)
    if as_json:
        print_json({"deliveries": [plain(each) for each in found]})
    elif not found:
        typer.echo("no deliveries: no webhook was given, or nothing has happened yet")
    else:
        console().print(_table(found))


def _table(found: list[DeliveryStatus]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("event", "what", "state", "tries", "last", "happened", "ended or next try"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "event")
    for each in found:
        when = moment(each.ended_at or each.next_at)
        last = each.last_status or "-"
        cells = (
            each.event_id,
            each.event,
            each.state,
            str(each.attempts),
            last,
            moment(each.created_at),
            when,
        )
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table
