"""How things stand for models, read from the state server: backlog, blocked lanes, how long generations took lately."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from producers.reports.estimate import Situation
from shared.jobs.lifecycle import JobState
from shared.money.entry import parse_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from producers.reports.journal import Books

LATE_ENTRIES: Final = 3000  # of the ledger: about 1,000 jobs
MOST_SAMPLES: Final = 200


def read_situations(books: Books, models: Sequence[str]) -> dict[str, Situation]:
    """Read it for models. Asks a few keys per model and tenant, and reads the end of the ledger."""
    backlogs, latencies = _backlogs(books, models), _latencies(books, models)
    blocked = _blocked(books, models)
    return {model: Situation(backlogs[model], blocked[model], latencies[model]) for model in models}


def _backlogs(books: Books, models: Sequence[str]) -> dict[str, int]:
    """Count queued jobs: those in their tenants' queues, and those that wait for a time."""
    counts: Any = books.client.hgetall(books.keys.counts)
    tenants = [
        scope
        for scope, _, state in (name.decode().rpartition("|") for name in counts)
        if state == JobState.QUEUED and scope != "*"
    ]
    found = {}
    for model in models:
        pipe = books.client.pipeline(transaction=False)
        pipe.zcard(books.keys.index(f"later:{model}"))
        for tenant in tenants:
            pipe.zcard(books.keys.queue(model, tenant))
        found[model] = sum(pipe.execute())
    return found


def _blocked(books: Books, models: Sequence[str]) -> dict[str, dict[str, str]]:
    frozen: Any = books.client.hget(books.keys.control, "freeze")
    found: dict[str, dict[str, str]] = {model: {} for model in models}
    for account, settings in books.settings.accounts.items():
        for model in settings.models:
            lane = f"{account}/{model}"
            why: Any = books.client.hget(books.keys.lane(lane), "blocked") or frozen
            if model in found and why:
                found[model][lane] = why.decode()
    return found


def _latencies(books: Books, models: Sequence[str]) -> dict[str, list[float]]:
    """Give seconds from submit to the poll that found the generation done, of jobs billed lately."""
    rows: Any = books.client.xrevrange(books.keys.ledger, count=LATE_ENTRIES)
    jobs: dict[str, list[str]] = {model: [] for model in models}
    for entry in (parse_entry(*row) for row in rows):
        if entry.kind == "settle" and entry.model in jobs and len(jobs[entry.model]) < MOST_SAMPLES:
            jobs[entry.model].append(entry.job)
    return {model: _spans_s(books, ids) for model, ids in jobs.items()}


def _spans_s(books: Books, job_ids: Iterable[str]) -> list[float]:
    pipe = books.client.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hmget(books.keys.job(job_id), "submitted_at", "generated_at")
    times = [tuple(map(int, found)) for found in pipe.execute() if None not in found]
    return [max(0, done - submitted) / 1000 for submitted, done in times]
