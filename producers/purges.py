"""Deleting the records of ended jobs before their time, and with them, if asked for, what was stored of them.

Objects go first, then the record: should the store refuse, the job stays, and knows its objects. The ledger, the
counts of a batch and the input images, which other jobs may share, are never touched.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from producers.freezes import check_why
from producers.selection import Walk, connected
from producers.webhooks import job_event_ids
from shared.errors import StorageError
from shared.jobs.job import parse_artifacts
from shared.jobs.lifecycle import TERMINAL, DeliveryState, JobState
from shared.jobs.schema import SCHEMA
from shared.redis.client import translated
from shared.redis.keys import Keys
from shared.redis.scripts import run
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from redis import Redis

    from producers.selection import Picked, Progress, Selection
    from shared.jobs.job import Artifact
    from shared.settings import Settings
    from shared.storage import ObjectStore

SAID: Final[Mapping[str, str]] = {
    "purged": "purged",
    "missing": "no such job",
    "not_ended": "it has not ended",
    "unknown": "its outcome is unknown: use `darkroom unknown` first",
    "open": "its bill is still open",
    "held": "money is held for it",
    "delivering": "an event of it is still being delivered",
    "newer": "a later version of Darkroom wrote it: use that",
    "objects_stay": "the object store did not delete its images",
}
_RESULTS: Final = {
    1: "purged",
    -1: "missing",
    2: "not_ended",
    3: "open",
    4: "held",
    5: "delivering",
    6: "newer",
}
_PURGED: Final = 1
_PARALLEL: Final = 8
_SCRIPT_JOBS: Final = 100  # others wait for the state server meanwhile


@dataclass(slots=True)
class PurgeReport:
    """What was deleted, or would be. `record_bytes` is measured in dry runs only; `trouble` is the store's first word."""

    dry_run: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    record_bytes: int = 0
    objects: int = 0
    object_bytes: int = 0
    trouble: str = ""

    @property
    def done(self) -> int:
        return self.outcomes["purged"]

    @property
    def refused(self) -> int:
        return self.outcomes.total() - self.done


def purge(
    settings: Settings,
    selection: Selection,
    *,
    by: str,
    why: str = "",
    artifacts: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_item: Callable[[str, str], object] = lambda _job_id, _outcome: None,
) -> PurgeReport:
    """Delete the selected jobs, a chunk at a time; `on_item` is told each job's id and outcome (SAID).

    Raises InvalidRequest for a selection without criteria or a long reason, BatchNotFound, StateUnavailable,
    ConfigurationError (with `artifacts`, for a store that cannot be opened).
    """
    selection.check()
    check_why(why)
    report = PurgeReport(dry_run)
    store = open_store(settings.storage) if artifacts else None
    with connected(settings) as client:
        walk = Walk(client, settings, selection, ("events", "idempotency"), progress)
        for job_id, outcome in _Purge(client, settings, walk, store, by, why, report).outcomes():
            report.outcomes[outcome] += 1
            on_item(job_id, outcome)
    return report


@dataclass(slots=True)
class _Purge:
    """One command's way through its chunks."""

    client: Redis
    settings: Settings
    walk: Walk
    store: ObjectStore | None
    by: str
    why: str
    report: PurgeReport
    audited: str = ""  # the command's entry so far, of `done` jobs
    done: int = 0

    def outcomes(self) -> Iterator[tuple[str, str]]:
        for chunk in self.walk.chunks():
            for at in range(0, len(chunk), _SCRIPT_JOBS):
                yield from self._purge(chunk[at : at + _SCRIPT_JOBS])
        for job_id in self.walk.missing:
            yield job_id, "missing"

    def _purge(self, jobs: Sequence[Picked]) -> list[tuple[str, str]]:
        outcomes = dict(zip((job.id for job in jobs), self._ask(jobs, dry=True), strict=True))
        going = [job for job in jobs if outcomes[job.id] == "purged"]
        staying = self._objects(going) if self.store is not None else set()
        if self.report.dry_run:
            self.report.record_bytes += self._bytes(going)
        else:
            going = [job for job in going if job.id not in staying]
            outcomes |= dict.fromkeys(staying, "objects_stay")
            outcomes |= zip((job.id for job in going), self._ask(going, dry=False), strict=True)
        unknown = {job.id for job in jobs if job.state is JobState.UNKNOWN}
        return [
            (job_id, "unknown" if outcome == "not_ended" and job_id in unknown else outcome)
            for job_id, outcome in outcomes.items()
        ]

    def _ask(self, jobs: Sequence[Picked], *, dry: bool) -> list[str]:
        if not jobs:
            return []
        question: dict[str, Any] = {
            "who": self.by,
            "why": self.why,
            "words": self.walk.selection.words() + ("; with images" if self.store is not None else ""),
            "dry": dry,
            "schema": SCHEMA,
            "ends": sorted(TERMINAL),
            "open": DeliveryState.PENDING,
            "earlier": self.audited,
            "done": self.done,
        }
        with translated(self.settings.redis.url):
            audited, *results = run(
                self.client, "purge_jobs", self._keys.prefix, to_json(question), *(job.id for job in jobs)
            )
        self.audited = audited.decode()
        self.done += 0 if dry else results.count(_PURGED)
        return [_RESULTS[result] for result in results]

    def _objects(self, jobs: Sequence[Picked]) -> set[str]:
        """Delete what is stored of the jobs (a dry run counts it); give the jobs of which something stays."""
        found = self._artifacts(jobs)
        self.report.objects += sum(len(each) for each in found.values())
        self.report.object_bytes += sum(
            artifact.size_bytes or 0 for each in found.values() for artifact in each
        )
        if self.report.dry_run:
            return set()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            troubles = list(pool.map(self._delete, found.values()))
        self.report.trouble = self.report.trouble or next(filter(None, troubles), "")
        return {job_id for job_id, trouble in zip(found, troubles, strict=True) if trouble}

    def _artifacts(self, jobs: Sequence[Picked]) -> dict[str, list[Artifact]]:
        pipe: Any = self.client.pipeline(transaction=False)
        for job in jobs:
            pipe.hget(self._keys.detail(job.id), "artifacts")
        with translated(self.settings.redis.url):
            replies = pipe.execute()
        return {
            job.id: [
                artifact
                for artifact in parse_artifacts(reply)
                if (artifact.object_key or "").startswith(f"{job.fields['tenant']}/{job.id}/")
            ]
            for job, reply in zip(jobs, replies, strict=True)
        }

    def _delete(self, artifacts: Sequence[Artifact]) -> str:
        """Delete a job's objects; give the store's trouble, "" for none."""
        assert self.store is not None
        try:
            for artifact in artifacts:
                self.store.delete(artifact.object_key or "")
        except StorageError as error:
            return str(error)
        return ""

    def _bytes(self, jobs: Sequence[Picked]) -> int:
        """Ask the state server how much memory the jobs' keys take."""
        pipe: Any = self.client.pipeline(transaction=False)
        for name in (name for job in jobs for name in self._names(job)):
            pipe.memory_usage(name)
        with translated(self.settings.redis.url):
            return sum(reply or 0 for reply in pipe.execute())

    def _names(self, job: Picked) -> list[str]:
        keys = self._keys
        names = [keys.job(job.id), keys.spec(job.id), keys.detail(job.id), keys.timeline(job.id)]
        if digest := job.fields.get("idempotency"):
            names.append(keys.idempotency(job.fields["tenant"], digest))
        return names + [keys.delivery(event_id) for event_id in job_event_ids(job.id, job.number("events"))]

    @property
    def _keys(self) -> Keys:
        return Keys.of(self.settings.redis.namespace)
