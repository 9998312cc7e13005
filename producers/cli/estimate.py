"""`darkroom estimate`: what a file would cost and take, without enqueueing any of it."""

from typing import Annotated

import typer

from producers.cli.terminal import JsonOption, TenantOption

Source = Annotated[str, typer.Argument(metavar="FILE|-", help="JSONL, CSV or TSV; - reads stdin.")]
Format = Annotated[str | None, typer.Option(help="jsonl, csv or tsv; by default told by the name.")]
PromptColumn = Annotated[str | None, typer.Option(help="Column (JSONL: key) of the prompt.")]
Column = Annotated[
    list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Column of any other field; repeatable.")
]
Model = Annotated[str | None, typer.Option(help="Model; by default the first of the settings.")]
Count = Annotated[int | None, typer.Option("--n", "-n", help="Images per job.")]
Size = Annotated[str | None, typer.Option(help="1K, 2K, 4K, a ratio, or pixels such as 1024x1024.")]
Resolution = Annotated[str | None, typer.Option(help="1K, 2K or 4K, beside a ratio.")]
Sequential = Annotated[
    bool | None, typer.Option("--sequential/--no-sequential", help="A set of related images.")
]


def estimate(
    source: Source,
    format: Format = None,  # noqa: A002 - the word of the option
    prompt_column: PromptColumn = None,
    column: Column = None,
    model: Model = None,
    n: Count = None,
    size: Size = None,
    resolution: Resolution = None,
    sequential: Sequential = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate price, provider calls and duration of a file, under the present backlog. Enqueues nothing.

    Reads what `darkroom enqueue` reads. Exit code 1 if lines were rejected.
    """
    from producers.cli.enqueue import read_columns
    from producers.cli.estimating import Question, run

    columns = read_columns(column or []) | ({"prompt": prompt_column} if prompt_column else {})
    defaults = {
        "model": model,
        "n": n,
        "size": size,
        "resolution": resolution,
        "enable_sequential": sequential,
    }
    if code := run(Question(source, format, columns, defaults, tenant, as_json)):
        raise typer.Exit(code)
