"""`darkroom pause` and `darkroom resume`: the submits of lanes, tenants, batches or single jobs, by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producers.cli import EXIT_JOBS, one_line
from producers.cli.selecting import (
    As,
    DryRun,
    Model,
    NewerThan,
    OlderThan,
    States,
    Why,
    selection_of,
    walking,
)
from producers.cli.terminal import JsonOption, opened, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers import Darkroom
    from producers.pauses import PauseResult
    from producers.selection import Selection

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Lanes, as `darkroom status` names them, or job ids.", metavar="[LANE...|JOB...]"),
]
Tenant = Annotated[str | None, typer.Option(help="All of this tenant; of a batch: whose it is.")]
Batch = Annotated[str | None, typer.Option(help="All of this batch.")]
_ALREADY = {True: "paused already", False: "is not paused"}


def pause(
    names: Names = None,
    tenant: Tenant = None,
    batch: Batch = None,
    model: Model = None,
    states: States = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    why: Why = "",
    by: As = None,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
) -> None:
    """Pause lanes, a tenant, a batch, or queued jobs: nothing new of them is submitted, and they keep their order.

    What was submitted is polled, stored and announced. With --state, --model or an age, it is the queued jobs there
    are that are paused, one by one; a tenant or a batch as a whole also holds what is enqueued later.
    """
    asked = selection_of(
        batch=batch, tenant=tenant, model=model, states=states, older_than=older_than, newer_than=newer_than
    )
    _change(names or [], asked, _Order(True, why, by, dry_run, as_json))


def resume(
    names: Names = None,
    tenant: Tenant = None,
    batch: Batch = None,
    model: Model = None,
    states: States = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    why: Why = "",
    by: As = None,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
) -> None:
    """Let what was paused submit again, at once. Each pause ends by itself: a job may be held by several.

    A lane that the provider blocks or throttles opens by itself, not by this.
    """
    asked = selection_of(
        batch=batch, tenant=tenant, model=model, states=states, older_than=older_than, newer_than=newer_than
    )
    _change(names or [], asked, _Order(False, why, by, dry_run, as_json))


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be done, and how it is told."""

    paused: bool
    why: str
    by: str | None
    dry_run: bool
    as_json: bool

    @property
    def options(self) -> dict[str, Any]:
        return {"paused": self.paused, "by": self.by, "why": self.why, "dry_run": self.dry_run}

    def said(self, changed: bool) -> str:
        word = "paused" if self.paused else "resumed"
        if not changed:
            return _ALREADY[self.paused]
        return f"would be {word}" if self.dry_run else word

    def tell(self, what: str, rows: list[dict[str, Any]], lines: list[str], **more: Any) -> None:
        if self.as_json:
            print_json({"dry_run": self.dry_run, what: rows, **more})
        else:
            print("\n".join(map(one_line, lines)))


def _change(names: list[str], asked: Selection, order: _Order) -> None:
    lanes, ids = [name for name in names if "/" in name], tuple(name for name in names if "/" not in name)
    if lanes and (ids or not asked.is_empty):
        raise typer.BadParameter("give lanes, or what else is to be chosen, in commands of their own")
    if not names and asked.is_empty:
        raise typer.BadParameter("give lanes, job ids, --tenant, --batch, --model, --state or an age")
    single = ids or asked.model or asked.states or (asked.older_ms, asked.newer_ms) != (None, None)
    with opened() as darkroom:
        if lanes:
            _lanes(darkroom, lanes, order)
        elif single:
            _jobs(darkroom, ids, asked, order)
        elif asked.batch is not None:
            _batch(darkroom, asked.batch, asked.tenant, order)
        elif asked.tenant is not None:
            _tenant(darkroom, asked.tenant, order)


def _lanes(darkroom: Darkroom, lanes: list[str], order: _Order) -> None:
    for lane in lanes:  # a wrong name is refused before anything has changed
        darkroom.pause(lane, **order.options | {"dry_run": True})
    done = [(lane, darkroom.pause(lane, **order.options)) for lane in lanes]
    rows = [{"lane": lane, "paused": order.paused, "changed": changed} for lane, changed in done]
    order.tell("lanes", rows, [f"{lane}: {order.said(changed)}" for lane, changed in done])


def _tenant(darkroom: Darkroom, tenant: str, order: _Order) -> None:
    result = darkroom.pause_tenant(tenant, **order.options)
    row = {"tenant": tenant, "paused": order.paused, "changed": result.changed, "waiting": result.waiting}
    order.tell("tenants", [row], [f"tenant {tenant}: {_scope(result, order)}"])


def _batch(darkroom: Darkroom, name: str, tenant: str | None, order: _Order) -> None:
    result = darkroom.pause_batch(name, tenant=tenant, **order.options)
    owner = tenant or darkroom.settings.tenant
    row = {"batch": name, "tenant": owner, "paused": order.paused, "changed": result.changed}
    order.tell("batches", [row | {"waiting": result.waiting}], [f"batch {name}: {_scope(result, order)}"])


def _scope(result: PauseResult, order: _Order) -> str:
    return f"{order.said(result.changed)}; {result.waiting} of its jobs are queued"


# --- jobs ---


def _jobs(darkroom: Darkroom, ids: tuple[str, ...], asked: Selection, order: _Order) -> None:
    """Pause those that were named, each with its answer; or those that meet what was asked, and say how many."""
    from dataclasses import replace

    from producers.pauses import JobPause

    chosen = replace(asked, ids=ids)
    rows: list[dict[str, Any]] = []
    for chunk in _selected(darkroom, chosen, order):
        words = "" if ids else chosen.words()
        results = darkroom.pause_jobs(chunk, words=words, **order.options)
        rows += [
            {"job": job_id, "outcome": result.name.lower()}
            for job_id, result in zip(chunk, results, strict=True)
            if ids or result is JobPause.CHANGED
        ]
    refused = sum(row["outcome"] in ("missing", "not_queued") for row in rows)
    changed = sum(row["outcome"] == "changed" for row in rows)
    lines = [f"{row['job']}: {_said(row['outcome'], order)}" for row in rows] if ids else []
    order.tell("jobs", rows, lines or [f"{changed} jobs {order.said(True)}"], refused=refused)
    if refused:
        raise typer.Exit(EXIT_JOBS)


def _said(outcome: str, order: _Order) -> str:
    if outcome == "missing":
        return "there is no such job"
    if outcome == "not_queued":
        return "is not queued: what is on its way is finished, and what has ended stays so"
    return order.said(outcome == "changed")


def _selected(darkroom: Darkroom, chosen: Selection, order: _Order) -> Iterator[list[str]]:
    """Give ids a chunk at a time: those named, found or not; or else of queued jobs that are not so already."""
    from producers.selection import Walk, connected

    with connected(darkroom.settings) as client, walking("looking") as progress:
        walk = Walk(client, darkroom.settings, chosen, more=("paused_at",), progress=progress)
        for picked in walk.chunks():
            found = picked if chosen.ids else [job for job in picked if job.state == "queued"]
            if not chosen.ids:
                found = [job for job in found if ("paused_at" in job.fields) is not order.paused]
            if found:
                yield [job.id for job in found]
        if walk.missing:
            yield walk.missing
