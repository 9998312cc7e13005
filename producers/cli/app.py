"""The commands, by name. Each is imported when it is chosen: a row of the table is all that help needs of it."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from producers.cli import EXIT_PIPE, EXIT_SETUP, say
from producers.cli.lazy import LOOK, PASS_ON, LazyGroup, Place

_CLI: Final = "producers.cli."
PLACES: Final = {
    "enqueue": Place(_CLI + "enqueue", "enqueue", "Enqueue a job per line of a file."),
    "status": Place(
        _CLI + "status",
        "status",
        "Show a job with its timeline, or the state of the whole.",
    ),
    "batch": Place(
        _CLI + "status",
        "batch",
        "Show a batch, or seal it.",
    ),
    "watch": Place(
        _CLI + "watch", "watch", "Show the progress of a batch, or of all jobs, until it is over."
    ),
    "top": Place(_CLI + "top", "top", "Show lanes, queues, stages and spending, once a second."),
    "cancel": Place(
        _CLI + "cancel",
        "cancel",
        "Cancel jobs.",
    ),
    "freeze": Place(
        _CLI + "freeze", "freeze", "Stop spending, or everything, for all workers; or let them go on."
    ),
    "pause": Place(_CLI + "pause", "pause", "Pause the submits of lanes, a tenant, a batch, or jobs."),
    "resume": Place(_CLI + "pause", "resume", "Let the submits of what was paused go on."),
    "audit": Place(_CLI + "audit", "audit", "Show who stopped, cancelled or decided what, when and why."),
    "doctor": Place(_CLI + "doctor", "doctor", "Look at everything, and say what to do."),
    "unknown": Place(_CLI + "unknown", "app", "List jobs whose submit has an unknown outcome, and decide."),
    "dead": Place(
        _CLI + "dead", "dead", "List jobs that failed and webhooks that nobody took, with the reason."
    ),
    "redrive": Place(
        _CLI + "redrive", "redrive", "Put dead jobs back: submit or copy them again; or send webhooks again."
    ),
    "purge": Place(
        _CLI + "purge", "purge", "Delete the records of ended jobs before their time, with --dry-run first."
    ),
    "webhook": Place(_CLI + "webhook", "app", "Make a webhook secret, test an endpoint, see deliveries."),
    "estimate": Place(
        _CLI + "estimate",
        "estimate",
        "Estimate price, provider calls and duration of a file, under the present backlog. Enqueues nothing.",
    ),
    "spend": Place(
        _CLI + "spend",
        "spend",
        "Show what was spent, is held, and is in doubt, from the ledger; also from days that were closed and exported.",
    ),
    "ledger": Place(_CLI + "ledger", "app", "The ledger: verify it, print its entries, close its days."),
    "reconcile": Place(
        _CLI + "reconcile",
        "reconcile",
        "Compare a provider's usage export with jobs, ledger and object store.",
    ),
    "worker": Place(
        _CLI + "processes",
        "worker",
        "Run a worker in this terminal.",
        context=PASS_ON,
    ),
    "flower": Place(
        _CLI + "flower",
        "flower",
        "Run Flower in this terminal: jobs, their ends and errors, and a button that cancels.",
        context=PASS_ON,
    ),
    "exporter": Place(
        _CLI + "exporter",
        "exporter",
        "Serve what the store holds for Prometheus: queues, lanes, lags, money.",
    ),
    "sandbox": Place(
        _CLI + "processes",
        "sandbox",
        "Run a part of the sandbox, the stand-in for the provider.",
        context={**PASS_ON, "allow_interspersed_args": False},  # what follows the part is the part's, -h too
    ),
    # The local stack: parts that an installation of producers alone may lack.
    "dev": Place(
        _CLI + "dev",
        "dev",
        "Run the whole stack on this machine until Ctrl-C.",
        optional=True,
    ),
    "demo": Place(
        _CLI + "demo",
        "demo",
        "Run everything on example jobs, and see that it adds up.",
        optional=True,
    ),
}


class Commands(LazyGroup):
    """What `darkroom` can be told."""

    places = PLACES


app = typer.Typer(
    cls=Commands,
    help="Darkroom: image generation jobs, none lost, none paid for twice.",
    no_args_is_help=True,
    **LOOK,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"darkroom {version('darkroom')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run() -> int:
    """Run what the command line asks for, and give its exit code. Raises what commands raise."""
    try:
        return int(app(prog_name="darkroom", standalone_mode=False) or 0)
    except SystemExit:  # Typer leaves so when nobody reads what is written
        return EXIT_PIPE
    except typer.TyperException as error:
        return _refused(error)


def _refused(error: typer.TyperException) -> int:
    """Say what is wrong with the words of a command in one line, and where to look."""
    said, context = error.format_message(), getattr(error, "ctx", None)
    if "\n" in said:  # a group without a command: its help
        typer.echo(said, err=True)
    elif context is None:
        say(said)
    else:
        end = "" if said.endswith(("?", ".")) else "."
        say(f"{said}{end} See `{context.command_path} -h`.")
    return EXIT_SETUP
