"""`darkroom top`: the whole system on a screen, once a second. Looks, never changes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli.terminal import PIPED_COLUMNS, JsonOption, console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from producers.vitals import Vitals


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once; so it is when piped, too.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between looks.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Show lanes with limits and use, queues, stages with how late they are, and spending, until Ctrl-C.

    Piped, with --once or with --json it is printed once. A look costs the state server a few dozen small reads.
    """
    from producers.vitals import read_vitals
    from shared.redis.client import check_server, make_client, translated
    from shared.redis.keys import Keys
    from shared.settings import load_settings

    settings = load_settings()
    keys = Keys.of(settings.redis.namespace)
    client = make_client(settings.redis)

    def look() -> Vitals:
        with translated(settings.redis.url):
            return read_vitals(client, keys, settings)

    try:
        check_server(client, settings)
        if as_json:
            from producers.cli.top_view import as_json as shape

            print_json(shape(look()))
        elif not sys.stdout.isatty():
            from producers.cli.top_view import plain_lines

            sys.stdout.writelines(f"{line}\n" for line in plain_lines(look(), PIPED_COLUMNS))
        elif once:
            from producers.cli.top_view import screen

            console().print(screen(look(), console().width))
        else:
            _live(console(), look, interval)
    finally:
        client.close()


def _live(out: Console, look: Callable[[], Vitals], interval_s: float) -> None:
    """Redraw until Ctrl-C. A server that is down is said in a line; the screen comes back with it."""
    from rich.live import Live
    from rich.text import Text

    from producers.cli.top_view import screen
    from shared.errors import StateUnavailable

    out.soft_wrap = False  # a line that the terminal folds itself would spoil the redraw
    with Live(console=out, screen=False, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            started_at = time.monotonic()
            try:
                live.update(screen(look(), out.width), refresh=True)
            except StateUnavailable as error:
                live.update(Text(f"{error} Looking again.", style="red"), refresh=True)
            time.sleep(max(0.0, interval_s - (time.monotonic() - started_at)))
