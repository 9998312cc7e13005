"""The part of the blocking client that only looks: without what an enqueue needs, so that a look costs little."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from producers.audits import AuditEntry, parse_audit
from producers.overview import Overview, parse_overview, queue_overview
from producers.receipt import BatchStatus
from producers.server_check import ServerCheck
from shared.errors import BatchNotFound
from shared.jobs.names import check_name
from shared.jobs.store import JobStore
from shared.redis.client import check_server, make_client, translated
from shared.redis.keys import Keys
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.jobs.job import Job
    from shared.settings import Settings


class Looking:
    """Asks after jobs, batches and the whole; a `producers.Darkroom` is one, too.

    Nothing connects before the first call. Every call may raise StateUnavailable; the first one ConfigurationError,
    if the server may not hold the truth (it evicts keys).
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings or load_settings(**overrides)
        self._keys, self._url = Keys.of(self.settings.redis.namespace), self.settings.redis.url
        self._client = make_client(self.settings.redis)
        self._jobs = JobStore(self._client, self._keys, self.settings.limits)
        self._check = ServerCheck(partial(check_server, self._client, self.settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def get(self, job_id: str) -> Job:
        """Read a job. Raises JobNotFound."""
        with self._state():
            return self._jobs.get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Read jobs, in one round trip; None where there is no record."""
        with self._state():
            return self._jobs.read(job_ids)

    def batch(self, name: str, tenant: str | None = None) -> BatchStatus:
        """Read a batch. Raises BatchNotFound."""
        owner = self.settings.tenant if tenant is None else tenant
        check_name("tenant", owner)
        with self._state():
            record: Any = self._client.hgetall(self._keys.batch(owner, name))
        if not record:
            raise BatchNotFound(name)
        return BatchStatus.parse(name, owner, self.settings.currency, record)

    def wait_batch(
        self, name: str, timeout_s: float | None = None, *, tenant: str | None = None, every_s: float = 0.5
    ) -> BatchStatus:
        """Wait until the batch is sealed and all its jobs have ended. Raises TimeoutError, BatchNotFound."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.batch(name, tenant)).completed_at is None:
            left = every_s if deadline is None else min(every_s, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"batch {name}: {status.done} of {status.total} jobs have ended so far")
            time.sleep(left)
        return status

    def overview(self) -> Overview:
        """Read the state of lanes, workers and counts."""
        with self._state():
            pipe = self._client.pipeline(transaction=False)
            lanes = queue_overview(pipe, self._keys, self.settings)
            return parse_overview(lanes, pipe.execute(), self.settings)

    def unknown(self, limit: int = 1000) -> list[Job]:
        """Read the jobs whose submit has an unknown outcome, oldest first."""
        with self._state():
            members: Any = self._client.zrange(self._keys.index("unknown"), 0, limit - 1)
            jobs = self._jobs.read([member.decode() for member in members])
        return [job for job in jobs if job is not None]

    def audit(self, limit: int = 1000) -> list[AuditEntry]:
        """Read who froze and paused what, newest first."""
        with self._state():
            rows: Any = self._client.xrevrange(self._keys.audit, count=limit)
        return parse_audit(rows)

    def now_ms(self) -> int:
        """Ask the state server for its time (unix ms)."""
        with self._state():
            reply: Any = self._client.time()
        seconds, micros = reply
        return int(seconds) * 1000 + int(micros) // 1000

    @contextmanager
    def _state(self) -> Iterator[None]:
        self._check()
        with translated(self._url):
            yield
