"""`darkroom reconcile`: a provider's bill against our books."""

import asyncio
from typing import Annotated

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.periods import CsvOption
from producers.cli.terminal import JsonOption

Source = Annotated[str, typer.Argument(metavar="FILE|-", help="CSV, TSV or JSONL; - reads stdin.")]
Format = Annotated[str | None, typer.Option(help="csv, tsv or jsonl; by default told by the name.")]
Column = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COLUMN", help="What the export calls a field; repeatable. Fields: see above."
    ),
]
Currency = Annotated[
    str | None, typer.Option(help="Of the export's amounts; by default that of the settings.")
]
Account = Annotated[
    str | None, typer.Option(help="Whose export it is; by default all accounts are compared.")
]
Objects = Annotated[
    bool,
    typer.Option("--objects/--no-objects", help="Look whether delivered images are in the object store."),
]


def reconcile(
    source: Source,
    format: Format = None,  # noqa: A002 - the word of the option
    column: Column = None,
    currency: Currency = None,
    account: Account = None,
    objects: Objects = True,
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a provider's usage export with jobs, ledger and object store. Changes nothing. Exit code 1 if they differ.

    No format of export is documented by the provider, so none is assumed: one generation per row, and --column
    names the columns. Without it a field's own name is looked for.

    generation (needed): the id that the submit answered. at: when it was accepted (unix seconds or ms, or ISO 8601).
    images: how many were billed. amount: a decimal; or micros: millionths. status: failed, cancelled and the like
    cost nothing, unless an amount says so. model, size. prompt, or prompt_sha256 (hex): tells which
    generation an unknown submit made.
    """
    from producers.cli.enqueue import read_columns
    from producers.cli.inputs import opened_input
    from producers.cli.reconcile_view import print_csv, print_document, print_tables
    from producers.reports.journal import opened_books
    from producers.reports.reconciling import Asked, currency_of
    from producers.reports.reconciling import reconcile as compare
    from producers.reports.usage import check_columns, read_usage
    from shared.errors import ConfigurationError
    from shared.settings import load_settings

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    columns = check_columns(read_columns(column or []))
    with opened_books(load_settings()) as books, opened_input(source) as stream:
        asked = Asked(currency or currency_of(books.settings.accounts, account), account, objects)
        rows = read_usage(stream, source, columns, format)
        verdict = asyncio.run(compare(books, rows, asked))
    if not verdict.rows and not verdict.broken:
        raise ConfigurationError("the export has no rows, so nothing was compared. Check the file.")
    for note in verdict.notes:
        typer.echo(one_line(note), err=True)
    (print_document if as_json else print_csv if as_csv else print_tables)(verdict)
    if not verdict.agrees:
        raise typer.Exit(EXIT_JOBS)
