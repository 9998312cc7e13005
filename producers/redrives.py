"""Putting failed jobs back, many at a time: read, judged (`shared.jobs.redrive`), applied in one script per chunk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from producers.freezes import check_why
from producers.hints import Hinter
from producers.selection import Walk, connected
from shared.jobs.lifecycle import JobState
from shared.jobs.redrive import GUARDED, REDRIVE_FIELDS, RESULTS, judge, plan_redrive
from shared.jobs.transition import context_json
from shared.money.caps import reject_caps
from shared.redis.client import translated
from shared.redis.keys import Keys
from shared.redis.scripts import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis

    from producers.selection import Picked, Progress, Selection
    from shared.jobs.redrive import Verdict
    from shared.settings import Settings

_DONE: Final = 1
_SCRIPT_JOBS: Final = 100  # about 20 ms of the state server's: others wait meanwhile


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one job: `outcome` is `submit` or `copy` (it was put back), or why not (redrive.SAID).

    `micros` is the most that its new POST may cost, `pays_again` whether something was or may have been paid before.
    """

    job_id: str
    code: str
    outcome: str
    micros: int = 0
    currency: str = ""
    pays_again: bool = False

    @property
    def done(self) -> bool:
        return self.outcome in ("submit", "copy")


@dataclass(slots=True)
class RedriveReport:
    """What a redrive did, or would do. Counts are of jobs; money is micros by currency."""

    dry_run: bool
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (error code, outcome)
    micros: Counter[str] = field(default_factory=Counter)  # at most, for what is submitted
    again: Counter[str] = field(default_factory=Counter)  # of that: for what was or may have been paid before
    done: int = 0
    refused: int = 0
    paying_again: int = 0

    def add(self, item: Redriven) -> None:
        self.outcomes[item.code, item.outcome] += 1
        if not item.done:
            self.refused += 1
            return
        self.done += 1
        if item.outcome == "submit":
            self.micros[item.currency] += item.micros
        if item.pays_again:
            self.paying_again += 1
            self.again[item.currency] += item.micros


def redrive(
    settings: Settings,
    selection: Selection,
    *,
    by: str,
    why: str = "",
    pay_again: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_item: Callable[[Redriven], object] | None = None,
) -> RedriveReport:
    """Put the selected jobs back, a chunk at a time; each has its own result, given to `on_item` as it is known.

    A selection without ids or states means failed and unknown jobs; the latter are refused, with what to do. A dry
    run changes nothing, and judges each chunk as if it were the only one. Raises InvalidRequest for a selection
    without criteria or a long reason, BatchNotFound, StateUnavailable.
    """
    selection.check()
    check_why(why)
    if not selection.ids and not selection.states:
        selection = replace(selection, states=frozenset({JobState.FAILED, JobState.UNKNOWN}))
    report = RedriveReport(dry_run)
    models: set[str] = set()
    with connected(settings) as client:
        walk = Walk(client, settings, selection, REDRIVE_FIELDS, progress)
        for item in _Chunks(client, settings, walk, by, why, pay_again, dry_run).items(models):
            report.add(item)
            if on_item is not None:
                on_item(item)
    if report.done and not dry_run:
        _hint(settings, models)
    return report


@dataclass(slots=True)
class _Chunks:
    """One command's way to redrive a chunk."""

    client: Redis
    settings: Settings
    walk: Walk
    by: str
    why: str
    pay_again: bool
    dry_run: bool
    audited: str = ""  # the command's entry so far, of so many jobs and so much money
    done: int = 0
    again: int = 0
    micros: int = 0

    def items(self, models: set[str]) -> Iterator[Redriven]:
        """Redrive all chunks, and give what became of each job; `models` gets those that jobs are of."""
        for chunk in self.walk.chunks():
            for at in range(0, len(chunk), _SCRIPT_JOBS):
                yield from self._redrive(chunk[at : at + _SCRIPT_JOBS])
            models.update(job.fields["model"] for job in chunk)
        for job_id in self.walk.missing:
            yield Redriven(job_id, "", "missing")

    def _redrive(self, jobs: Sequence[Picked]) -> list[Redriven]:
        worker = self.settings.worker
        wait_ms = int((worker.submit_timeout_s + worker.resubmit_after_s) * 1000)
        verdicts = [
            judge(job.fields, now_ms=self.walk.now_ms, resubmit_wait_ms=wait_ms, pay_again=self.pay_again)
            for job in jobs
        ]
        pairs = [(job, verdict) for job, verdict in zip(jobs, verdicts, strict=True) if verdict.way]
        results = dict(zip((job.id for job, _ in pairs), self._apply(pairs), strict=True))
        return [
            _redriven(job, verdict, results.get(job.id)) for job, verdict in zip(jobs, verdicts, strict=True)
        ]

    def _apply(self, pairs: Sequence[tuple[Picked, Verdict]]) -> list[int]:
        if not pairs:
            return []
        retain_ms = self.settings.limits.retain_jobs_s * 1000
        plans = [
            plan_redrive(
                job.id, job.fields, verdict, by=self.by, now_ms=self.walk.now_ms, retain_ms=retain_ms
            )
            for job, verdict in pairs
        ]
        prefix = Keys.of(self.settings.redis.namespace).prefix
        context = self._context({job.fields["tenant"] for job, _ in pairs})
        results: list[int]
        with translated(self.settings.redis.url):
            audited, *results = run(self.client, "redrive_jobs", prefix, context, to_json(plans))
        self._note(
            audited.decode(), [v for (_, v), result in zip(pairs, results, strict=True) if result == _DONE]
        )
        return results

    def _note(self, audited: str, done: Sequence[Verdict]) -> None:
        """Keep what the command's one audit entry is to say after the next call."""
        self.audited = audited
        self.done += len(done)
        self.again += sum(verdict.pays_again for verdict in done)
        self.micros += sum(verdict.again_micros for verdict in done)

    def _context(self, tenants: set[str]) -> bytes:
        limits = self.settings.limits
        more: dict[str, Any] = {
            "who": self.by,
            "why": self.why,
            "words": self.walk.selection.words(),
            "dry": self.dry_run,
            "earlier": self.audited,
            "done": self.done,
            "again": self.again,
            "micros": self.micros,
            "guarded": GUARDED,
            "max_backlog": limits.backlog,
            "max_tenant_backlog": limits.backlog_per_tenant,
            "caps": {tenant: reject_caps(self.settings.caps, tenant) for tenant in sorted(tenants)},
        }
        return to_json(from_json(context_json(limits)) | more)


def _redriven(job: Picked, verdict: Verdict, result: int | None) -> Redriven:
    outcome = verdict.word if result in (None, _DONE) else RESULTS[result or 0]
    submits = outcome in ("submit", "pay_again")
    return Redriven(
        job.id,
        job.fields.get("error_code", job.fields["state"]),
        outcome,
        job.number("est") if submits else 0,
        job.fields.get("est_currency") or job.fields.get("currency", ""),
        verdict.pays_again,
    )


def _hint(settings: Settings, models: set[str]) -> None:
    """Tell the workers of the lanes that may take the jobs."""
    hinter = Hinter(settings, Keys.of(settings.redis.namespace))
    hinter.hint(
        f"{name}/{model}"
        for name, account in settings.accounts.items()
        for model in account.models
        if model in models
    )
    hinter.close()
