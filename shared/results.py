"""A Celery result backend that asks the job record: `AsyncResult(task_id).get()` for jobs that came through the door.

    result_backend = "shared.results.RecordBackend+redis://HOST:6379/0?namespace=darkroom"

Read-only: the record is the truth, and nothing that Celery wants to store is stored. Without a URL the settings of
this process say where the state server is. A task is PENDING until its job is submitted, then STARTED (also while
its outcome is unknown), then SUCCESS, FAILURE or REVOKED.
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from shared.errors import JobFailed
from shared.jobs.answers import Duplicate, job_id_of, read_answer
from shared.jobs.lifecycle import JobState
from shared.jobs.store import JobStore
from shared.redis.client import make_client, translated
from shared.redis.keys import Keys
from shared.settings import LimitSettings, RedisSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from shared.jobs.answers import Answer
    from shared.jobs.job import Job

READ_BACK_S: Final = 1.0  # an announcement may be lost: pub/sub keeps nothing
_PATH: Final = "shared.results.RecordBackend"
Meta = dict[str, Any]


def backend_url(settings: RedisSettings) -> str:
    """Give the result backend of a stack, as Celery takes it. It holds the server's password, if there is one."""
    parts = urlsplit(settings.url)
    query = urlencode([*parse_qsl(parts.query), ("namespace", settings.namespace)])
    return f"{_PATH}+{urlunsplit(parts._replace(query=query))}"


def server_of(url: str | None) -> RedisSettings:
    """Read the URL that `backend_url` wrote."""
    if not url:
        return load_settings().redis
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    named = {"namespace": query.pop("namespace")} if "namespace" in query else {}
    return RedisSettings(url=urlunsplit(parts._replace(query=urlencode(query))), **named)


def job_meta(job: Job) -> Meta:
    """Give a record as Celery's backends give a task's state and result."""
    ended_at = job.finished_at if job.ended else None
    done = datetime.fromtimestamp(ended_at / 1000, UTC).isoformat() if ended_at else None
    return _meta(*_outcome(job)) | {"date_done": done}


def _outcome(job: Job) -> tuple[str, Any]:
    """Give the state, and what `get()` returns or raises."""
    match job.state:
        case JobState.QUEUED:
            return states.PENDING, None
        case JobState.COMPLETED:
            return states.SUCCESS, _result(job)
        case JobState.FAILED:
            error = JobFailed(job.id, job.error_code or "failed", job.error_message or "")
            return states.FAILURE, error
        case JobState.CANCELLED:
            return states.REVOKED, TaskRevokedError(f"job {job.id} was cancelled")
        case _:
            return states.STARTED, None


def _result(job: Job) -> dict[str, Any]:
    """Give what `get()` returns: JSON, images in order."""
    images = [
        {
            "object_key": image.object_key,
            "url": image.url,
            "media_type": image.media_type,
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "size_bytes": image.size_bytes,
        }
        for image in sorted(job.artifacts, key=lambda each: each.index)
    ]
    money = {"cost_micros": job.cost_micros, "currency": job.currency}
    return {"job_id": job.id, "state": str(job.state), "images": images, "partial": job.partial, **money}


def _meta(status: str, result: Any) -> Meta:
    return {"status": status, "result": result, "traceback": None, "children": None}


class RecordBackend(BaseBackend):
    """The backend. Every read may raise StateUnavailable."""

    persistent = True

    def __init__(self, app: Celery, url: str | None = None, **options: Any) -> None:
        super().__init__(app, url=url, **options)
        self._server = server_of(url)
        self._keys = Keys.of(self._server.namespace)
        client = make_client(self._server)
        self._client: Any = client
        self._jobs = JobStore(client, self._keys, LimitSettings())

    def store_result(
        self,
        task_id: str,  # noqa: ARG002 - Celery's signature
        result: Any,
        state: str,  # noqa: ARG002
        traceback: str | None = None,  # noqa: ARG002
        request: Any = None,  # noqa: ARG002
        **_options: Any,
    ) -> Any:
        """Store nothing: the record says what became of the job."""
        return result

    def _forget(self, _task_id: str) -> None:
        """Leave the record to its retention: it is not only this caller's."""

    def _get_task_meta_for(self, task_id: str) -> Meta:
        job_id = job_id_of(task_id)
        with translated(self._server.url):
            found = self._jobs.read([job_id])[0]
            answer = self._answer(job_id) if found is None else None
            if isinstance(answer, Duplicate):
                found = self._jobs.read([answer.job_id])[0]
        if found is not None:
            return job_meta(found)
        if answer is None or isinstance(answer, Duplicate):
            return _meta(states.PENDING, None)
        return _meta(states.FAILURE, answer.error)

    def _answer(self, job_id: str) -> Answer | None:
        text: bytes | None = self._client.get(self._keys.answer(job_id))
        return None if text is None else read_answer(text)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = READ_BACK_S,  # noqa: ARG002 - Celery's signature: we are told instead of asking
        no_ack: bool = True,  # noqa: ARG002
        on_interval: Callable[[], object] | None = None,
    ) -> Meta:
        """Wait until the job has ended, without asking all the time. Raises Celery's TimeoutError."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        meta: Meta = self.get_task_meta(task_id)
        if meta["status"] in states.READY_STATES:
            return meta
        with closing(self._client.pubsub(ignore_subscribe_messages=True)) as channel:
            with translated(self._server.url):
                channel.subscribe(self._keys.ended)
            while (meta := self.get_task_meta(task_id))["status"] not in states.READY_STATES:
                if on_interval is not None:
                    on_interval()
                left = until - time.monotonic()
                if left <= 0:
                    raise CeleryTimeoutError(f"task {task_id} has not ended yet")
                with translated(self._server.url):
                    _hear(channel, job_id_of(task_id), min(READ_BACK_S, left))
        return meta


def _hear(channel: Any, job_id: str, within_s: float) -> None:
    """Wait until the end of a job is announced, or the time is up."""
    until = time.monotonic() + within_s
    while (left := until - time.monotonic()) > 0:
        message = channel.get_message(timeout=left)
        if message is not None and message["data"].decode() == job_id:
            return
