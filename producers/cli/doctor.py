"""`darkroom doctor`: whether everything is as it has to be, and what to do where it is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.terminal import JsonOption, console, plain, print_json

if TYPE_CHECKING:
    from producers.doctor.findings import Finding

_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "bold red"}
_MARKS: Final = {"ok": "✓", "warning": "!", "error": "✗"}


def doctor(
    producer: Annotated[
        bool, typer.Option("--producer", help="Leave out what only machines with workers need.")
    ] = False,
    send_test: Annotated[
        bool, typer.Option("--send-test", help="Send a signed test event to every named endpoint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at settings, secrets, Redis, broker, storage, provider, endpoints and workers; say what to do.

    Nothing is changed, and nothing is billed. Exit code 0 if there is no error (warnings may be), 1 if there is, 2 if
    the settings cannot be read. No secret is shown.
    """
    from producers.doctor.examine import examine
    from shared.settings import load_settings

    found = examine(load_settings(), producer_only=producer, send_test=send_test)
    counts = {level: sum(each.level == level for each in found) for level in ("error", "warning", "ok")}
    if as_json:
        print_json({"findings": [plain(each) for each in found], **counts})
    elif sys.stdout.isatty():
        _print_table(found)
    else:
        for each in found:
            print(one_line(f"{each.level:<8}{each.area:<9} {each.what}.{' ' + each.do if each.do else ''}"))
    if not as_json:
        print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")
    if counts["error"]:
        raise typer.Exit(EXIT_JOBS)


def _print_table(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    area = ""
    for each in found:
        told = Text(one_line(each.what))
        if each.do:
            told.append(f"\n→ {one_line(each.do)}", style="bold")
        mark = Text(_MARKS[each.level], style=_STYLES[each.level])
        table.add_row(mark, each.area if each.area != area else "", told)
        area = each.area
    console().print(table)
