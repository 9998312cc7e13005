"""Selections of jobs, for commands that look at or change many: criteria, and a walk over the records that meet them.

Criteria narrow each other: a job is selected if it meets all that are given. A walk reads given ids, or a batch's
list, or else every record of the namespace (SCAN), a chunk at a time: the server is never held up, and a job that
was there when the walk began and is there at its end is seen once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from shared.errors import BatchNotFound, InvalidRequest, Issue
from shared.jobs.lifecycle import JobState
from shared.redis.client import check_server, make_client, translated
from shared.redis.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from redis import Redis

    from shared.settings import Settings

CHUNK_JOBS: Final = 500
SCAN_KEYS: Final = 2000  # looked at per SCAN: about half a millisecond of the server's
FIELDS: Final = (
    "state", "tenant", "batch", "model", "lane", "created_at", "finished_at", "error_code",
)  # fmt: skip
_AGE: Final = re.compile(r"([0-9]{1,6}) ?([smhd])")
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

AgeOf = Literal["created", "ended"]
Progress = Callable[
    [int, int], object
]  # what was looked at so far, and of how many; both in the walk's own units


@dataclass(frozen=True, slots=True)
class Picked:
    """A job as the walk read it: `fields` has FIELDS and those that were asked for, if the record has them."""

    id: str
    fields: dict[str, str]

    @property
    def state(self) -> JobState:
        return JobState(self.fields["state"])

    def number(self, name: str) -> int:
        return int(self.fields.get(name) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which jobs. Empty means any; all that is given must hold.

    Ages are ms before now, of the creation or of the end; a job that has not ended has no age of its end, and no age
    criterion holds for it. A batch belongs to a tenant: without one, to that of the settings. `codes` are error
    codes; `provider` also means `provider:...`.
    """

    ids: tuple[str, ...] = ()
    batch: str | None = None
    tenant: str | None = None
    lane: str | None = None
    model: str | None = None
    states: frozenset[JobState] = frozenset()
    codes: frozenset[str] = frozenset()
    older_ms: int | None = None
    newer_ms: int | None = None
    age_of: AgeOf = "created"

    @property
    def is_empty(self) -> bool:
        ages = (self.older_ms, self.newer_ms)
        given = (self.ids, self.batch, self.tenant, self.lane, self.model, self.states, self.codes)
        return not any(given) and ages == (None, None)

    def check(self) -> None:
        """Raise InvalidRequest if nothing is asked for: what changes jobs must not mean all of them by accident."""
        if self.is_empty:
            what = "no job is selected. Give job ids, --batch, --tenant, --lane, --model, --state or an age."
            raise InvalidRequest((Issue("selection", "empty", what),))

    def holds(self, job: Picked, now_ms: int) -> bool:
        """Say whether the job meets every criterion (ids aside, which the walk starts from)."""
        exact = (("batch", self.batch), ("tenant", self.tenant), ("lane", self.lane), ("model", self.model))
        if any(wanted is not None and job.fields.get(name) != wanted for name, wanted in exact):
            return False
        if self.states and job.state not in self.states:
            return False
        if self.codes and not self._has_code(job.fields.get("error_code", "")):
            return False
        return self._has_age(job, now_ms)

    def _has_code(self, code: str) -> bool:
        return code in self.codes or code.partition(":")[0] in self.codes

    def _has_age(self, job: Picked, now_ms: int) -> bool:
        if (self.older_ms, self.newer_ms) == (None, None):
            return True
        since = job.fields.get("created_at" if self.age_of == "created" else "finished_at")
        if since is None:
            return False
        age_ms = now_ms - int(since)
        return (self.older_ms is None or age_ms >= self.older_ms) and (
            self.newer_ms is None or age_ms < self.newer_ms
        )

    def words(self) -> str:
        """Say the criteria in a line, as an audit notes them."""
        ids = ", ".join(self.ids[:3]) + (f" and {len(self.ids) - 3} more" if len(self.ids) > 3 else "")  # noqa: PLR2004 - a few are enough to find it again
        ages = {"older than": self.older_ms, "newer than": self.newer_ms}
        named = {
            "batch": self.batch, "tenant": self.tenant, "lane": self.lane, "model": self.model,
            "state": "/".join(sorted(self.states)), "code": "/".join(sorted(self.codes)),
        }  # fmt: skip
        parts = [f"{name} {value}" for name, value in named.items() if value]
        parts += [f"{self.age_of} {name} {_span(ms)} ago" for name, ms in ages.items() if ms is not None]
        return "; ".join(([ids] if ids else []) + parts) or "all jobs"


def parse_age(option: str, text: str) -> int:
    """Read `90s`, `15m`, `2h` or `3d` as ms. Raises InvalidRequest."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        rule = f"{option} must be a number and s, m, h or d, such as 2h or 3d"
        raise InvalidRequest((Issue(option, "format", rule, text[:40]),))
    return int(found[1]) * _UNITS_MS[found[2]]


def _span(ms: int) -> str:
    for name in ("d", "h", "m"):
        if ms and ms % _UNITS_MS[name] == 0:
            return f"{ms // _UNITS_MS[name]}{name}"
    return f"{ms // 1000}s"


@dataclass(slots=True)
class Walk:
    """One walk over a selection. `missing` are given ids without a record; `looked_at` counts records read."""

    client: Redis
    settings: Settings
    selection: Selection
    more: Sequence[str] = ()  # fields of the record to read beside FIELDS
    progress: Progress | None = None
    missing: list[str] = field(default_factory=list)
    looked_at: int = 0
    now_ms: int = 0

    def chunks(self) -> Iterator[list[Picked]]:
        """Give the selected jobs, at most CHUNK_JOBS at a time. Raises BatchNotFound, StateUnavailable."""
        self.now_ms = server_now_ms(self.client, self.settings)
        waiting: list[Picked] = []
        selected: set[str] = set()  # SCAN may give a key twice
        for ids in self._ids():
            fresh = {job.id: job for job in self._read(ids) if job.id not in selected}
            selected.update(fresh)
            waiting += fresh.values()
            while len(waiting) >= CHUNK_JOBS:
                yield waiting[:CHUNK_JOBS]
                del waiting[:CHUNK_JOBS]
        if waiting:
            yield waiting

    def _read(self, ids: Sequence[str]) -> list[Picked]:
        keys, names = self._keys, (*FIELDS, *self.more)
        pipe = self.client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hmget(keys.job(job_id), names)
        with translated(self.settings.redis.url):
            rows = pipe.execute()
        found = [_picked(job_id, names, row) for job_id, row in zip(ids, rows, strict=True)]
        self.looked_at += len(ids)
        if self.selection.ids:
            self.missing += [job_id for job_id, job in zip(ids, found, strict=True) if job is None]
        selection = self._selection
        return [job for job in found if job is not None and selection.holds(job, self.now_ms)]

    def _ids(self) -> Iterable[list[str]]:
        if self.selection.ids:
            return self._given()
        return self._of_batch() if self.selection.batch is not None else self._all()

    def _given(self) -> Iterator[list[str]]:
        ids = list(dict.fromkeys(self.selection.ids))
        for at in range(0, len(ids), CHUNK_JOBS):
            yield ids[at : at + CHUNK_JOBS]
            self._tell(min(at + CHUNK_JOBS, len(ids)), len(ids))

    def _of_batch(self) -> Iterator[list[str]]:
        """Read the batch's list by position: it only ever grows at its end."""
        name = self.selection.batch or ""
        tenant = self._selection.tenant or ""
        with translated(self.settings.redis.url):
            if not self.client.exists(self._keys.batch(tenant, name)):
                raise BatchNotFound(name)
        key, at = self._keys.batch_jobs(tenant, name), 0
        while True:
            with translated(self.settings.redis.url):
                total: Any = self.client.llen(key)
                members: Any = self.client.lrange(key, at, at + CHUNK_JOBS - 1)
            if not members:
                return
            yield [member.decode() for member in members]
            at += len(members)
            self._tell(at, total)

    def _all(self) -> Iterator[list[str]]:
        return scan_ids(self.client, self.settings, self._keys.job(""), self.progress)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, max(done, total))

    @property
    def _keys(self) -> Keys:
        return Keys.of(self.settings.redis.namespace)

    @property
    def _selection(self) -> Selection:
        """The selection with the batch's tenant filled in."""
        chosen = self.selection
        if chosen.batch is None or chosen.tenant is not None:
            return chosen
        return replace(chosen, tenant=self.settings.tenant)


def scan_ids(
    client: Redis, settings: Settings, stem: str, progress: Progress | None = None
) -> Iterator[list[str]]:
    """Give what follows `stem` in the names of keys, at most CHUNK_JOBS at a time. SCAN may give one twice."""
    cursor, done = 0, 0
    names: Any
    with translated(settings.redis.url):
        total: Any = client.dbsize()
    while True:
        with translated(settings.redis.url):
            cursor, names = client.scan(cursor, match=stem + "*", count=SCAN_KEYS)
        ids = [name.decode().removeprefix(stem) for name in names]
        for at in range(0, len(ids), CHUNK_JOBS):
            yield ids[at : at + CHUNK_JOBS]
        done += SCAN_KEYS
        if progress is not None:
            progress(min(done, total) if cursor else total, total)
        if cursor == 0:
            return


def server_now_ms(client: Redis, settings: Settings) -> int:
    """Ask the state server for its time (unix ms)."""
    with translated(settings.redis.url):
        reply: Any = client.time()
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000


def _picked(job_id: str, names: Sequence[str], row: Sequence[bytes | None]) -> Picked | None:
    fields = {name: value.decode() for name, value in zip(names, row, strict=True) if value is not None}
    return Picked(job_id, fields) if "state" in fields else None


@contextmanager
def connected(settings: Settings) -> Iterator[Redis]:
    """Open a client of the state server for a command. Raises StateUnavailable, ConfigurationError."""
    with make_client(settings.redis) as client:
        check_server(client, settings)
        yield client
