"""`darkroom purge`: delete the records of ended jobs before their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli import selecting as s
from producers.cli.terminal import JsonOption, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.purges import PurgeReport

Artifacts = Annotated[bool, typer.Option("--artifacts", help="Delete the stored images, too.")]
_SHOWN_REFUSALS = 20
_UNIT_BYTES = 1000


def purge(
    jobs: s.Jobs = None,
    batch: s.Batch = None,
    tenant: s.Tenant = None,
    lane: s.Lane = None,
    model: s.Model = None,
    state: s.States = None,
    code: s.Codes = None,
    older_than: s.OlderThan = None,
    newer_than: s.NewerThan = None,
    age_of: s.AgeOfOption = None,
    artifacts: Artifacts = False,
    dry_run: s.DryRun = False,
    yes: s.Yes = False,
    why: s.Why = "",
    by: s.As = None,
    as_json: JsonOption = False,
) -> None:
    """Delete jobs that have ended: record, request, history, idempotency key and webhooks that are at an end.

    Jobs on their way, of unknown outcome, with money held or an event still being delivered are refused. The ledger
    stays, and so do images unless --artifacts. It cannot be taken back. Exit code 1 if any selected job was refused.
    """
    from producers.core import whoami
    from producers.purges import purge as purge_jobs
    from shared.settings import load_settings

    selection = s.selection_of(
        jobs=jobs, batch=batch, tenant=tenant, lane=lane, model=model, states=state, codes=code,
        older_than=older_than, newer_than=newer_than, age_of=age_of, ages_of="ended",
    )  # fmt: skip
    selection.check()
    settings, items = load_settings(), list[tuple[str, str]]()

    def run(title: str, *, dry: bool, on_item: Callable[[str, str], object]) -> PurgeReport:
        with s.walking(title) as progress:
            return purge_jobs(
                settings, selection, by=by or whoami(), why=why, artifacts=artifacts, dry_run=dry,
                progress=progress, on_item=on_item,
            )  # fmt: skip

    def keep(job_id: str, outcome: str) -> None:
        if as_json or (outcome != "purged" and len(items) < _SHOWN_REFUSALS):
            items.append((job_id, outcome))

    if not dry_run and not yes:
        found = run("looking at jobs", dry=True, on_item=lambda _job_id, _outcome: None)
        if found.done:
            s.confirmed(f"This deletes {_amount(found)} for good.", str(found.done), yes=yes)
    report = run("purging", dry=dry_run, on_item=keep)
    if as_json:
        print_json(_json(report, items))
    else:
        _print(report, items)
    if report.refused:
        raise typer.Exit(EXIT_JOBS)


def _print(report: PurgeReport, items: list[tuple[str, str]]) -> None:
    from producers.purges import SAID

    said = "would be purged" if report.dry_run else "purged"
    typer.echo(f"{_amount(report)} {said}, {report.refused} refused.")
    for outcome, count in sorted(report.outcomes.items()):
        if outcome != "purged" and count:
            typer.echo(f"{count} refused: {SAID[outcome]}")
    if report.trouble:
        typer.echo(f"darkroom: {one_line(report.trouble)}", err=True)
    for job_id, outcome in items:
        typer.echo(f"darkroom: {one_line(job_id)}: {SAID[outcome]}", err=True)
    if report.refused > len(items):
        typer.echo(f"darkroom: and {report.refused - len(items)} more", err=True)


def _amount(report: PurgeReport) -> str:
    records = f" ({_size(report.record_bytes)})" if report.record_bytes else ""
    objects = f" and {report.objects} images ({_size(report.object_bytes)})" if report.objects else ""
    return f"{report.done} jobs{records}{objects}"


def _size(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= _UNIT_BYTES and len(units) > 1:
        size /= _UNIT_BYTES
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _json(report: PurgeReport, items: list[tuple[str, str]]) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "purged": report.done,
        "refused": report.refused,
        "record_bytes": report.record_bytes if report.dry_run else None,
        "objects": report.objects,
        "object_bytes": report.object_bytes,
        "trouble": report.trouble or None,
        "outcomes": {outcome: count for outcome, count in sorted(report.outcomes.items()) if count},
        "jobs": [{"job_id": job_id, "outcome": outcome} for job_id, outcome in items],
    }
