"""The door for Celery-native producers: a `generate_image` message becomes a job, or an answer that says why not.

Judged and enqueued exactly as producers do it (shared.orders). The job's id follows from the task's, so that a
message that comes twice makes one job. A message is acknowledged before this runs: if the state server is away just
now, it is lost, and the log says so; so is one whose worker dies in the milliseconds between.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import structlog

from shared.errors import DarkroomError, InvalidRequest, Issue, StateUnavailable
from shared.instants import running_clock
from shared.jobs.answers import Duplicate, Refused, answer_json, job_id_of
from shared.orders import OPTION_NAMES, Orders
from shared.redis.client import make_client, translated
from shared.redis.scripts import run
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.jobs.answers import Answer
    from shared.jobs.data_uri import DataUri
    from shared.orders import Order
    from shared.settings import Settings
    from shared.storage import ObjectStore

log = structlog.get_logger(__name__)

_PLACES: Final = ("tenant", "batch")
_POSITIONAL: Final = Issue(
    "args", "keyword_only", "args: generate_image takes keyword arguments only: the fields of the request"
)


class Door:
    """Takes tasks, from many threads; `arm(stage, lane, in_ms)` has the pacemaker look for the job."""

    def __init__(self, settings: Settings, arm: Callable[[str, str, int], None]) -> None:
        self._settings, self._arm, self._orders = settings, arm, Orders(settings)
        self._keys = self._orders.keys
        self._client = make_client(settings.redis)
        self._opening = threading.Lock()
        self._store: ObjectStore | None = None

    def close(self) -> None:
        self._client.close()

    def take(self, task_id: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Make a job of a task's arguments, or note why not. Raises nothing."""
        job_id = job_id_of(task_id)
        try:
            answer = self._take(job_id, arguments, given)
            if answer is not None:
                self._say(job_id, answer)
        except StateUnavailable as error:
            log.error("door_message_lost", task_id=task_id, job_id=job_id, cause=str(error))  # noqa: TRY400 - a traceback says no more
        except Exception as error:  # noqa: BLE001 - Celery's own report would quote what it was given
            log.error("door_message_lost", task_id=task_id, job_id=job_id, cause=type(error).__name__)  # noqa: TRY400
        else:
            kind = "accepted" if answer is None else type(answer).__name__.lower()
            log.info("door_message_taken", task_id=task_id, job_id=job_id, answer=kind)

    def _take(self, job_id: str, arguments: tuple[Any, ...], given: Mapping[str, Any]) -> Answer | None:
        """Give what is to be answered; None if the task has a job of its own."""
        try:
            order = self._order(job_id, arguments, given)
            self._put_inputs(order.tenant, order.uploads)
            with translated(self._settings.redis.url):
                reply = run(self._client, "enqueue_jobs", self._keys.prefix, *order.arguments)
            placed = self._orders.placed(order, reply)
        except StateUnavailable:
            raise
        except DarkroomError as error:
            return Refused(error)
        for lane in self._orders.lanes(order.model):
            self._arm("submit", lane, 0)
        return None if placed.job_id == job_id else Duplicate(placed.job_id)

    def _order(self, job_id: str, arguments: tuple[Any, ...], given: Mapping[str, Any]) -> Order:
        if arguments:
            raise InvalidRequest((_POSITIONAL,))
        options = {name: value for name, value in given.items() if name in OPTION_NAMES}
        request = {
            name: value for name, value in given.items() if name not in OPTION_NAMES and name not in _PLACES
        }
        params = self._orders.params(options, self._now_ms)
        tenant, batch = (given.get(name) for name in _PLACES)
        return self._orders.order(request, tenant=tenant, batch=batch, params=params, job_id=job_id)

    def _now_ms(self) -> int:
        with translated(self._settings.redis.url):
            seconds, micros = self._client.time()
        return running_clock(int(seconds) * 1000 + int(micros) // 1000)()

    def _put_inputs(self, tenant: str, uploads: Mapping[str, DataUri]) -> None:
        for uri in uploads.values():
            self._open_store().put_input(tenant, uri.payload, uri.media_type, uri.extension)

    def _open_store(self) -> ObjectStore:
        with self._opening:
            self._store = self._store or open_store(self._settings.storage)
            return self._store

    def _say(self, job_id: str, answer: Answer) -> None:
        """Leave an answer, and wake who waits for it."""
        with translated(self._settings.redis.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.set(self._keys.answer(job_id), answer_json(answer), ex=self._settings.limits.retain_jobs_s)
            pipe.publish(self._keys.ended, job_id)
            pipe.execute()
