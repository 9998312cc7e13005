"""`darkroom cancel`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.selecting import (
    As,
    Batch,
    DryRun,
    Jobs,
    Lane,
    Model,
    NewerThan,
    OlderThan,
    States,
    Tenant,
    Why,
    Yes,
    confirmed,
    selection_of,
    walking,
)
from producers.cli.terminal import JsonOption, money, opened, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from producers import Darkroom
    from producers.cancels import Cancelled
    from producers.selection import Picked, Selection

ASK_ABOVE: Final = 100  # jobs
CHUNK_JOBS: Final = 500
_MEANING: Final = {
    "free": "cancelled, free",
    "billed_later": "cancelled; its submit had begun, so it is settled when the provider is done",
    "billed": "cancelled; its images were made already, and are billed",
    "already_ended": "had ended already",
}
_SUMMARY: Final = {
    "free": "free", "billed_later": "settled when the provider is done", "billed": "billed",
    "already_ended": "had ended already", "unknown": "with an unknown outcome: see `darkroom unknown list`",
}  # fmt: skip


def cancel(
    jobs: Jobs = None,
    batch: Batch = None,
    tenant: Tenant = None,
    lane: Lane = None,
    model: Model = None,
    states: States = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    why: Why = "",
    by: As = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel jobs: free before their submit; after it their owner is rid of them, and the provider's work is billed.

    By ids, or all that meet every option; then those that have ended or are unknown are left out, unless --state names
    them. More than 100 are confirmed, or need --yes.
    """
    asked = selection_of(
        jobs=jobs, batch=batch, tenant=tenant, lane=lane, model=model, states=states,
        older_than=older_than, newer_than=newer_than,
    )  # fmt: skip
    asked.check()
    with opened() as darkroom:
        picked, missing = _find(darkroom, asked)
        if dry_run:
            _foretell(picked, missing, as_json)
            return
        if len(picked) > ASK_ABOVE:
            confirmed(f"{len(picked)} jobs would be cancelled.", str(len(picked)), yes=yes)
        _tell(_cancel(darkroom, picked, missing, asked, by, why), as_json)


def _find(darkroom: Darkroom, asked: Selection) -> tuple[list[Picked], list[str]]:
    """Give the jobs to cancel, and the ids without a job."""
    from producers.selection import Walk, connected
    from shared.jobs.lifecycle import TERMINAL, JobState

    left_out = () if asked.ids or asked.states else (*TERMINAL, JobState.UNKNOWN)
    with connected(darkroom.settings) as client, walking("looking") as progress:
        walk = Walk(client, darkroom.settings, asked, more=("intent_id",), progress=progress)
        picked = [job for chunk in walk.chunks() for job in chunk if job.state not in left_out]
    return picked, walk.missing


def _cancel(
    darkroom: Darkroom,
    picked: list[Picked],
    missing: list[str],
    asked: Selection,
    by: str | None,
    why: str,
) -> list[dict[str, Any]]:
    """Cancel chunk by chunk; give a row per job that could be, and say the others on stderr."""
    ids = [job.id for job in picked] + missing
    rows, words = [], "" if asked.ids else asked.words()
    for at in range(0, len(ids), CHUNK_JOBS):
        done = darkroom.cancel_many(ids[at : at + CHUNK_JOBS], by=by, why=why, words=words)
        for each in done:
            if each.error is not None:
                typer.echo(f"darkroom: {one_line(str(each.error))}", err=True)
        rows += [_row(each) for each in done]
    return rows


def _row(done: Cancelled) -> dict[str, Any]:
    if done.before is None or done.outcome is None:
        return {"job": done.job_id, "outcome": None}
    ended = done.outcome == "already_ended"
    return {
        "job": done.job_id,
        "outcome": done.outcome,
        "state": done.before.state if ended else "cancelled",
        "cost_micros": done.before.cost_micros,
        "held_micros": done.before.hold_micros if done.outcome == "billed_later" else 0,
        "currency": done.before.currency,
    }


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print what became of each and, on stderr, the sums; exit code 1 if some could not be cancelled."""
    results = [row for row in rows if row["outcome"] is not None]
    counts = Counter(str(row["outcome"]) for row in results)
    refused = len(rows) - len(results)
    if as_json:
        print_json({"results": results, "counts": counts, "refused": refused})
    else:
        print("\n".join(map(_line, results)) or "no job was cancelled")
        if len(results) > 1:
            typer.echo(_sum(counts), err=True)
    if refused:
        raise typer.Exit(EXIT_JOBS)


def _line(row: dict[str, Any]) -> str:
    notes = [str(row["state"])] if row["outcome"] == "already_ended" else []
    if row["held_micros"]:
        notes.append(f"at most {money(row['held_micros'], row['currency'])}")
    if row["cost_micros"]:
        notes.append(money(row["cost_micros"], row["currency"]))
    said = f" ({', '.join(notes)})" if notes else ""
    return f"{row['job']}: {_MEANING[row['outcome']]}{said}"


def _sum(counts: Counter[str]) -> str:
    parts = ", ".join(f"{counts[outcome]} {said}" for outcome, said in _SUMMARY.items() if counts[outcome])
    return f"{counts.total()} jobs: {parts}"


def _foretell(picked: Iterable[Picked], missing: list[str], as_json: bool) -> None:
    """Say what a cancel would do, and do nothing."""
    from producers.cancels import outcome_of

    counts = Counter(
        str(outcome_of(job.state, intent="intent_id" in job.fields) or "unknown") for job in picked
    )
    if as_json:
        print_json({"dry_run": True, "counts": counts, "missing": missing})
        return
    print(f"would cancel {_sum(counts)}" if counts else "there is nothing to cancel")
    for job_id in missing:
        typer.echo(f"darkroom: there is no job {one_line(job_id)}", err=True)
