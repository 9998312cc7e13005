"""Options that select jobs, the same for every command that looks at or changes many of them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from producers.cli.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.selection import AgeOf, Progress, Selection

Jobs = Annotated[list[str] | None, typer.Argument(help="Job ids.", metavar="JOB", show_default=False)]
Batch = Annotated[str | None, typer.Option(help="Jobs of this batch.")]
Tenant = Annotated[str | None, typer.Option(help="Jobs of this tenant; of a batch: whose it is.")]
Lane = Annotated[str | None, typer.Option(metavar="ACCOUNT/MODEL", help="Jobs that this lane took.")]
Model = Annotated[str | None, typer.Option(help="Jobs of this model.")]
States = Annotated[list[str] | None, typer.Option("--state", help="Jobs in this state; repeatable.")]
Codes = Annotated[
    list[str] | None,
    typer.Option("--code", help="Failed with this error code; repeatable. `provider` means `provider:...`."),
]
OlderThan = Annotated[str | None, typer.Option(metavar="AGE", help="Longer ago than 90s, 15m, 2h or 3d.")]
NewerThan = Annotated[str | None, typer.Option(metavar="AGE", help="Less long ago.")]
AgeOfOption = Annotated[
    str | None, typer.Option("--age-of", metavar="created|ended", help="What the ages are counted from.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Why = Annotated[str, typer.Option(metavar="TEXT", help="The reason; `darkroom audit` shows it.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who does it; by default user@host.")]

_REFRESH_S: Final = 5  # per second


def selection_of(
    *,
    jobs: list[str] | None = None,
    batch: str | None = None,
    tenant: str | None = None,
    lane: str | None = None,
    model: str | None = None,
    states: list[str] | None = None,
    codes: list[str] | None = None,
    older_than: str | None = None,
    newer_than: str | None = None,
    age_of: str | None = None,
    ages_of: AgeOf = "created",
) -> Selection:
    """Read what the options say; `ages_of` is the command's default of --age-of. Raises InvalidRequest."""
    from producers.selection import AgeOf, Selection, parse_age
    from shared.jobs.lifecycle import JobState

    def age(option: str, text: str | None) -> int | None:
        return None if text is None else parse_age(option, text)

    return Selection(
        ids=tuple(jobs or ()),
        batch=batch,
        tenant=tenant,
        lane=lane,
        model=model,
        states=frozenset(JobState(_one_of("--state", each, list(JobState))) for each in states or ()),
        codes=frozenset(codes or ()),
        older_ms=age("--older-than", older_than),
        newer_ms=age("--newer-than", newer_than),
        age_of="ended" if _one_of("--age-of", age_of or ages_of, get_args(AgeOf)) == "ended" else "created",
    )


def _one_of(option: str, text: str, allowed: list[str] | tuple[str, ...]) -> str:
    from shared.errors import InvalidRequest, Issue

    if text not in allowed:
        rule = f"{option} must be one of {', '.join(allowed)}"
        raise InvalidRequest((Issue(option, "choice", rule, text[:40]),))
    return text


@contextmanager
def walking(title: str) -> Iterator[Progress | None]:
    """Give what a walk tells its progress: a bar on stderr, if that is a terminal; else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console(stderr=True), transient=True, refresh_per_second=_REFRESH_S
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def confirmed(question: str, answer: str, *, yes: bool) -> None:
    """Have a person type `answer` on a terminal before what cannot be taken back. Raises ConfigurationError, Exit."""
    from producers.cli import EXIT_JOBS
    from shared.errors import ConfigurationError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} Add --yes, since nobody can be asked here.")
    try:
        sys.stderr.write(f"{question} Type {answer} to go on: ")
        sys.stderr.flush()
        typed = sys.stdin.readline()
    except KeyboardInterrupt:
        typer.echo("\nnothing was changed", err=True)
        raise
    if typed.strip() == answer:
        return
    typer.echo("nothing was changed" if typed.endswith("\n") else "\nnothing was changed", err=True)
    raise typer.Exit(EXIT_JOBS)
