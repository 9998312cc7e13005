"""`darkroom demo`: the whole system on example jobs, and whether it adds up."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from producers.cli import EXIT_JOBS
from producers.cli.terminal import JsonOption, console, print_json

if TYPE_CHECKING:
    from producers.cli.demo_view import View
    from producers.demo_result import DemoResult
    from producers.stack import Stack

EXIT_INTERRUPTED: Final = 130
PAGE: Final = "contact-sheet.html"
IMAGES: Final = "artifacts"


def demo(
    as_json: JsonOption = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the images and their contact sheet go.")
    ] = Path("demo-output"),
) -> None:
    """Run everything on example jobs against the sandbox, compare both sides' books, and stop it again.

    Nothing is paid and nothing leaves this machine. Exit code 1 if anything does not add up.
    """
    from producers.parts import ended_by_signals

    try:
        with ended_by_signals():
            result = _run(output.resolve())
    except KeyboardInterrupt:
        sys.stderr.write("stopped; all that the demo started has ended\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if _report(result, as_json=as_json):
        raise typer.Exit(EXIT_JOBS)


def _run(output: Path) -> DemoResult:
    from producers.cli.demo_view import view
    from producers.stack import Stack

    started = time.monotonic()
    _clear(output)
    progress = view(console(stderr=True))
    progress.say("starting Valkey, sandbox, worker and Flower")
    with Stack(keep_in=output / IMAGES) as stack:
        progress.show_stack(stack)
        result = _examples(stack, output, progress, started)
        progress.say("stopping all that was started")
    return result


def _examples(stack: Stack, output: Path, progress: View, started: float) -> DemoResult:
    import httpx

    from producers import Darkroom
    from producers.cli.demo_view import write_page
    from producers.demo_result import DemoResult
    from producers.demo_run import DemoRun, count_verified

    with Darkroom(stack.settings) as darkroom, httpx.Client(trust_env=False, timeout=10) as http:
        run = DemoRun(stack, darkroom, http)
        receipt = run.enqueue()
        progress.say(f"{receipt.enqueued} jobs enqueued as batch {receipt.batch}")
        with progress.watching(run.enqueued) as show:
            jobs = run.wait(show)
        by_id = {job.id: job for job in jobs}
        result = DemoResult(
            jobs=tuple((shown, by_id[job_id]) for shown, job_id in run.enqueued if job_id in by_id),
            rejected=tuple(run.rejected),
            artifacts_verified=count_verified(stack.settings, jobs),
            books=run.books(),
            provider=run.provider(),
            sink=run.sink(),
            wall_s=time.monotonic() - started,
            contact_sheet=output / PAGE,
        )
    write_page(result, IMAGES)
    return result


def _clear(output: Path) -> None:
    """Remove the images of an earlier demo: only beside a page that a demo made."""
    import shutil

    from producers.contact_sheet import is_contact_sheet

    page = output / PAGE
    try:
        ours = is_contact_sheet(page.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return
    if ours:
        page.unlink()
        shutil.rmtree(output / IMAGES, ignore_errors=True)


def _report(result: DemoResult, *, as_json: bool) -> list[str]:
    """Print the tables, or the JSON line; then what does not add up. Give the latter."""
    from producers.cli.demo_view import print_tables
    from producers.demo_result import differences

    found = differences(result)
    if not as_json:
        print_tables(console(), result)
    for sentence in found:
        sys.stderr.write(f"{sentence}\n")
    if as_json:
        print_json(result.figures())
    elif not found:
        print("\nEverything adds up.")
    return found
