"""`darkroom enqueue`: a file or stdin, line by line, into jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from producers.cli.terminal import JsonOption, TenantOption

Source = Annotated[str | None, typer.Argument(metavar="FILE|-", help="JSONL, CSV or TSV; - reads stdin.")]
Format = Annotated[str | None, typer.Option(help="jsonl, csv or tsv; by default told by the name.")]
PromptColumn = Annotated[str | None, typer.Option(help="Column (JSONL: key) of the prompt.")]
Column = Annotated[
    list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Column of any other field; repeatable.")
]
KeyColumn = Annotated[str | None, typer.Option(help="Column of the idempotency key.")]
KeyPrefix = Annotated[
    str | None,
    typer.Option(help="Key of lines without one: this and the line number. Then a second run adds nothing."),
]
Model = Annotated[str | None, typer.Option(help="Model; by default the first of the settings.")]
Prompt = Annotated[str | None, typer.Option(help="Prompt. Without FILE: one job.")]
Count = Annotated[int | None, typer.Option("--n", "-n", help="Images per job.")]
Size = Annotated[str | None, typer.Option(help="1K, 2K, 4K, a ratio, or pixels such as 1024x1024.")]
Resolution = Annotated[str | None, typer.Option(help="1K, 2K or 4K, beside a ratio.")]
ImageUrl = Annotated[list[str] | None, typer.Option(help="Input image; repeatable.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What to avoid.")]
Watermark = Annotated[bool | None, typer.Option("--watermark/--no-watermark", help="Mark the images.")]
Seed = Annotated[int | None, typer.Option(help="For images that can be made again.")]
ThinkingMode = Annotated[bool | None, typer.Option("--thinking-mode/--no-thinking-mode", help="Think first.")]
Sequential = Annotated[
    bool | None, typer.Option("--sequential/--no-sequential", help="A set of related images.")
]
BboxList = Annotated[str | None, typer.Option(metavar="JSON", help="Boxes per input image.")]
ColorPalette = Annotated[str | None, typer.Option(metavar="JSON", help="Colours with ratios.")]
Batch = Annotated[str | None, typer.Option(help="Name of the batch; sealed at the end.")]
Seal = Annotated[bool, typer.Option("--seal/--no-seal", help="Seal the batch at the end.")]
Priority = Annotated[int | None, typer.Option(help="-100 to 100; higher runs sooner.")]
NotBefore = Annotated[str | None, typer.Option(help="ISO 8601 with zone, or 15m, 2h, 1d.")]
Deadline = Annotated[str | None, typer.Option(help="As --not-before; not submitted after it.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="Returned untouched.")]
OnUnknownOption = Annotated[str | None, typer.Option(help="hold, resubmit_once or fail.")]
Webhook = Annotated[str | None, typer.Option(help="URL or endpoint name for the jobs' events.")]
BatchWebhook = Annotated[str | None, typer.Option(help="For the batch's events; by default --webhook.")]
Rejects = Annotated[
    Path | None,
    typer.Option(help="Where rejected lines go; by default FILE.rejects.jsonl, none for a dry run."),
]
MaxCost = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="The batch stops before it costs more; the rest is cancelled, free."),
]
MaxFailed = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="The batch stops when more jobs than this failed.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Validate and price; enqueue nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until all jobs have ended.")]


def enqueue(
    source: Source = None,
    format: Format = None,  # noqa: A002 - the word of the option
    prompt_column: PromptColumn = None,
    column: Column = None,
    idempotency_key_column: KeyColumn = None,
    idempotency_prefix: KeyPrefix = None,
    rejects: Rejects = None,
    model: Model = None,
    prompt: Prompt = None,
    n: Count = None,
    size: Size = None,
    resolution: Resolution = None,
    image_url: ImageUrl = None,
    negative_prompt: NegativePrompt = None,
    watermark: Watermark = None,
    seed: Seed = None,
    thinking_mode: ThinkingMode = None,
    sequential: Sequential = None,
    bbox_list: BboxList = None,
    color_palette: ColorPalette = None,
    tenant: TenantOption = None,
    batch: Batch = None,
    seal: Seal = True,
    max_cost: MaxCost = None,
    max_failed: MaxFailed = None,
    priority: Priority = None,
    not_before: NotBefore = None,
    deadline: Deadline = None,
    metadata: Metadata = None,
    on_unknown: OnUnknownOption = None,
    webhook: Webhook = None,
    batch_webhook: BatchWebhook = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    as_json: JsonOption = False,
) -> None:
    """Enqueue a job per line of FILE, as a stream of any length.

    Options give what a line leaves out. Bad lines go to the rejects file, with line number and reason; the good
    ones are enqueued. Exit code 1 if lines were rejected or, with --wait, jobs did not complete.
    """
    options = dict(locals())  # typer knows no other way to give many options than one by one
    _run(options)


_REQUEST_FIELDS = (
    "model", "prompt", "n", "size", "resolution", "negative_prompt", "watermark", "seed", "thinking_mode",
    "bbox_list", "color_palette",
)  # fmt: skip
_JOB_FIELDS = ("priority", "not_before", "deadline", "metadata", "on_unknown", "webhook")
_PLAN_FIELDS = (
    "source",
    "format",
    "idempotency_prefix",
    "batch",
    "batch_webhook",
    "seal",
    "max_cost",
    "max_failed",
    "tenant",
    "rejects",
)
_RUN_FIELDS = ("dry_run", "wait", "as_json")


def _run(options: Mapping[str, Any]) -> None:
    from producers.cli.enqueuing import Plan, run

    if options["source"] is None and options["prompt"] is None:
        raise typer.BadParameter("give FILE, or - for stdin, or --prompt for one job")
    named = {"prompt": options["prompt_column"], "idempotency_key": options["idempotency_key_column"]}
    plan = Plan(
        columns=read_columns(options["column"] or [])
        | {name: given for name, given in named.items() if given},
        request={name: options[name] for name in _REQUEST_FIELDS}
        | {"image_urls": options["image_url"] or None, "enable_sequential": options["sequential"]},
        job={name: options[name] for name in _JOB_FIELDS},
        **{name: options[name] for name in (*_PLAN_FIELDS, *_RUN_FIELDS)},
    )
    if code := run(plan):
        raise typer.Exit(code)


def read_columns(pairs: list[str]) -> dict[str, str]:
    """Read FIELD=COLUMN pairs."""
    columns: dict[str, str] = {}
    for pair in pairs:
        field, equals, name = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--column takes FIELD=COLUMN, got {pair!r}")
        columns[field] = name
    return columns
