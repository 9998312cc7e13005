"""What is dead and why: jobs that failed, and deliveries that nobody acknowledged. Only looks."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from producers.dead_deliveries import DeadDelivery, DeliveryWalk
from producers.selection import Walk, connected
from shared.jobs.lifecycle import JobState
from shared.jobs.redrive import REDRIVE_FIELDS, Verdict, judge
from shared.redis.client import translated
from shared.redis.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

    from producers.selection import Picked, Progress, Selection
    from shared.settings import Settings

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
Billed = Literal["no", "yes", "perhaps", "open"]


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A failed job. Instants are unix ms, money is micros of `currency`.

    `billed`: `perhaps` if a POST of it may have been accepted, `open` while its bill is not settled. `redrive` is what
    `darkroom redrive` would do: `submit`, `copy`, or why it would refuse (shared.jobs.redrive.SAID).
    """

    job_id: str
    tenant: str
    batch: str | None
    model: str
    lane: str | None
    code: str
    message: str
    attempts: int
    billed: Billed
    cost_micros: int
    currency: str
    ended_at: int
    redrive: str


@dataclass(slots=True)
class Dead:
    """What was found: the latest of each kind, and counts of all by reason: (code, billed, redrive); (state, status)."""

    jobs: list[DeadJob] = field(default_factory=list)
    deliveries: list[DeadDelivery] = field(default_factory=list)
    job_reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    delivery_reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)


def find_dead(
    settings: Settings,
    selection: Selection,
    *,
    endpoint: str | None = None,
    jobs: bool = True,
    deliveries: bool = True,
    limit: int = 1000,
    progress: Progress | None = None,
) -> Dead:
    """Read what is dead among the selected, the latest `limit` of each kind. Raises BatchNotFound, StateUnavailable."""
    dead = Dead()
    with connected(settings) as client:
        if jobs:
            _find_jobs(client, settings, selection, dead, limit, progress)
        if deliveries:
            walk = DeliveryWalk(client, settings, selection, endpoint, progress)
            dead.deliveries = _latest(_counted(walk, dead), limit)
    return dead


def _counted(walk: DeliveryWalk, dead: Dead) -> Iterable[DeadDelivery]:
    for chunk in walk.chunks():
        dead.delivery_reasons.update((each.state, each.last_status) for each in chunk)
        yield from chunk


def _latest(found: Iterable[DeadDelivery], limit: int) -> list[DeadDelivery]:
    return heapq.nlargest(limit, found, key=lambda each: (each.ended_at or 0, each.event_id))


def _find_jobs(
    client: Redis, settings: Settings, selection: Selection, dead: Dead, limit: int, progress: Progress | None
) -> None:
    failed = replace(selection, states=frozenset({JobState.FAILED}))
    walk = Walk(client, settings, failed, (*REDRIVE_FIELDS, "attempts"), progress)
    worker = settings.worker
    wait_ms = int((worker.submit_timeout_s + worker.resubmit_after_s) * 1000)

    def counted() -> Iterable[tuple[Picked, Verdict]]:
        for chunk in walk.chunks():
            for job in chunk:
                verdict = judge(job.fields, now_ms=walk.now_ms, resubmit_wait_ms=wait_ms)
                dead.job_reasons[job.fields.get("error_code", ""), _billed(job, verdict), verdict.word] += 1
                yield job, verdict

    latest = heapq.nlargest(limit, counted(), key=lambda pair: (pair[0].number("finished_at"), pair[0].id))
    messages = _messages(client, settings, [job.id for job, _ in latest])
    dead.jobs = [
        _dead_job(job, verdict, message) for (job, verdict), message in zip(latest, messages, strict=True)
    ]
    dead.missing = walk.missing


def _messages(client: Redis, settings: Settings, job_ids: Sequence[str]) -> list[str]:
    keys = Keys.of(settings.redis.namespace)
    pipe: Any = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hget(keys.detail(job_id), "error_message")
    with translated(settings.redis.url):
        return [_URL.sub("(URL)", (reply or b"").decode()) for reply in pipe.execute()]


def _dead_job(job: Picked, verdict: Verdict, message: str) -> DeadJob:
    return DeadJob(
        job_id=job.id,
        tenant=job.fields["tenant"],
        batch=job.fields.get("batch"),
        model=job.fields["model"],
        lane=job.fields.get("lane"),
        code=job.fields.get("error_code", ""),
        message=message,
        attempts=job.number("attempts"),
        billed=_billed(job, verdict),
        cost_micros=job.number("cost_micros"),
        currency=job.fields.get("currency", ""),
        ended_at=job.number("finished_at"),
        redrive=verdict.word,
    )


def _billed(job: Picked, verdict: Verdict) -> Billed:
    if verdict.refusal == "open":
        return "open"
    if job.number("cost_micros"):
        return "yes"
    return "perhaps" if verdict.pays_again else "no"
