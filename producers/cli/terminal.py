"""What commands share: the client, consoles, and how values are written."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from producers.cli import EXIT_JOBS, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from producers import Darkroom
    from producers.looking import Looking

T = TypeVar("T")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TenantOption = Annotated[str | None, typer.Option(help="Tenant; by default that of the settings.")]

PIPED_COLUMNS: Final = 160  # a file or a pipe has no width: do not fold tables for it
STATE_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "unknown": "bold yellow",
    "cancelled": "dim",
    "queued": "cyan",
}


@contextmanager
def opened() -> Iterator[Darkroom]:
    """Open a client by the settings of environment, darkroom.toml or the running `darkroom dev`."""
    from producers.client import Darkroom

    with Darkroom() as darkroom:
        yield darkroom


@contextmanager
def looking() -> Iterator[Looking]:
    """Open a client that only looks: it is there sooner."""
    from producers.looking import Looking

    with Looking() as darkroom:
        yield darkroom


def for_each(job_ids: list[str], change: Callable[[str], T]) -> list[tuple[str, T]]:
    """Change jobs one by one; those that cannot be changed are said on stderr and left out."""
    from shared.errors import ConfigurationError, DarkroomError, InvalidRequest, StateUnavailable

    done: list[tuple[str, T]] = []
    for job_id in job_ids:
        try:
            done.append((job_id, change(job_id)))
        except (ConfigurationError, InvalidRequest, StateUnavailable):
            raise
        except DarkroomError as error:
            typer.echo(f"darkroom: {one_line(str(error))}", err=True)
    return done


def report(job_ids: list[str], results: list[dict[str, Any]], lines: list[str], as_json: bool) -> None:
    """Print what was done; exit code 1 if not all could be."""
    refused = len(job_ids) - len(results)
    if as_json:
        print_json({"results": results, "refused": refused})
    elif lines:
        print("\n".join(lines))
    if refused:
        raise typer.Exit(EXIT_JOBS)


def console(*, stderr: bool = False) -> Console:
    """Give a console that obeys NO_COLOR and never folds what is piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def terminal_columns() -> int:
    """Give the width of the terminal; what is piped is not folded."""
    return console().width if sys.stdout.isatty() else PIPED_COLUMNS


def print_styled(text: str, style: str) -> None:
    """Print a line, with a style where there are colours."""
    if sys.stdout.isatty():
        console().print(text, style=style)
    else:
        sys.stdout.write(f"{text}\n")


def print_json(value: Any) -> None:
    """Write one JSON object on one line."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """Turn our values into what JSON knows."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def moment(at_ms: int | None) -> str:
    """Write an instant in the terminal's time zone."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(ms: int) -> str:
    """Write a duration: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = ms / 1000
    if seconds < 10:  # noqa: PLR2004 - a tenth matters only for short ones
        return f"{seconds:.1f} s"
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for large_s, large, small_s, small in units:
        if seconds >= large_s:
            rest = int(seconds % large_s // small_s)
            return f"{int(seconds // large_s)} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.0f} s"


def money(micros: int, currency: str) -> str:
    from shared.money.price import format_money

    return format_money(micros, currency) if currency else f"{micros} micros"


def prices(price_micros: dict[str, int]) -> str:
    """Write amounts of one or several currencies."""
    return (
        " + ".join(money(micros, currency) for currency, micros in sorted(price_micros.items())) or "nothing"
    )
