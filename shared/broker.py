"""The broker, as both sides use it: the Celery app factory, task names, queues, and publishing hints.

A message is a hint, `darkroom.<stage>(lane)`: "look there now". It may be lost, doubled or late without harm, so
publishing never retries and never waits: with kombu's defaults `send_task(retry=False)` blocks for as long as the
broker is down. Arguments name a lane at most; never a prompt, a key or a URL.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from celery import Celery
from kombu import Queue
from kombu.transport import resolve_transport

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import Settings

# The standard library's, and silent unless its user asks for it: producers are libraries.
log = logging.getLogger("darkroom.broker")
logging.getLogger("darkroom").addHandler(logging.NullHandler())

STAGES: Final = ("submit", "poll", "store", "notify")
DOOR_TASK: Final = "generate_image"  # the task of Celery-native producers, if settings open that door
DOOR_QUEUE: Final = "darkroom.generate_image"
UNREAD_MAX: Final = (
    1000  # more hints than this in one queue: nobody reads them, and they would fill the server
)
UNREAD_CHECK_S: Final = 1.0
DOWN_FOR_S: Final = 1.0  # after a failure: a blackholed broker costs the connect timeout for every try
STUCK_AFTER_S: Final = 0.25


def task_name(stage: str) -> str:
    """Name of a stage's Celery task, and of its queue."""
    return f"darkroom.{stage}"


def make_app(settings: Settings, kind: type[Celery] = Celery) -> Celery:
    """Make the Celery app that producers send with and workers run; of a class of its own, if one is given.

    Raises ConfigurationError for a broker URL of no known kind. It is not made the process's current app, takes no Django fixups and no result backend: a backend that has
    a Celery of its own keeps it.
    """
    url = settings.broker.url
    try:
        resolve_transport(urlsplit(url).scheme.split("+")[0])
    except (KeyError, ImportError):
        raise ConfigurationError(
            "setting broker.url: Celery has no transport of this kind, or a package for it is missing. "
            "Correct DARKROOM_BROKER__URL; redis:// and sentinel:// are there."
        ) from None
    conf: dict[str, Any] = {
        # All three: else CELERY_BROKER_URL in the environment of a backend would send our hints to its broker.
        "broker_url": url,
        "broker_read_url": url,
        "broker_write_url": url,
        "broker_transport_options": transport_options(settings),
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_queues": [Queue(name, routing_key=name) for name in _queues(settings)],
        "task_routes": {DOOR_TASK: {"queue": DOOR_QUEUE}} if settings.door.enabled else None,
        "task_default_exchange": "darkroom",
        "task_default_queue": task_name("submit"),
        "task_create_missing_queues": False,
        "task_default_delivery_mode": "transient",
        "task_ignore_result": True,
        "task_publish_retry": False,
        "task_send_sent_event": False,
        "enable_utc": True,
    }
    app = kind("darkroom", set_as_current=False, fixups=[], changes=conf)
    app.backend_cls = "disabled"  # not a setting: CELERY_RESULT_BACKEND in the environment would win over it
    return app


def _queues(settings: Settings) -> list[str]:
    return [*map(task_name, STAGES), *[DOOR_QUEUE] * settings.door.enabled]


def transport_options(settings: Settings) -> dict[str, Any]:
    """Options of kombu's Redis transport; other transports ignore what they do not know."""
    options: dict[str, Any] = {
        # Read by kombu as the policy of connecting for a publish: fail at once.
        "max_retries": 0,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
        "socket_timeout": 10,  # without it a half-open connection hangs a publish for ever
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 300,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "global_keyprefix": f"{settings.redis.namespace}.broker.",  # several stacks may share one server
    }
    if settings.broker.sentinel_master:
        options["master_name"] = settings.broker.sentinel_master
    return options


def publish_hint(app: Celery, stage: str, lane: str) -> None:
    """Publish one hint.

    Raises kombu's OperationalError (or OSError): at once when the broker refuses, after the connect or socket
    timeout when it is blackholed.
    """
    app.send_task(
        task_name(stage),
        args=(lane,),
        queue=task_name(stage),
        ignore_result=True,
        retry=False,
        add_to_parent=False,
    )


def unread_hints(app: Celery, stage: str) -> int:
    """Give how many hints wait in a stage's queue."""
    with app.producer_pool.acquire(block=True) as producer:
        queue: Any = app.amqp.queues[task_name(stage)]
        return int(queue.bind(producer.channel).queue_declare().message_count)


class HintsUnread(Exception):
    """Nobody reads the hints of a stage."""


class HintPublisher:
    """Publishes hints from a daemon thread of its own, best effort, each (stage, lane) once however often asked.

    `hint` returns at once and never raises, whatever the broker does. A hint that cannot be published is handed
    to `on_failed` (on the publisher's thread), if given. Survives a fork: the child starts its own thread.
    """

    def __init__(
        self,
        app: Celery,
        *,
        on_failed: Callable[[str, str], None] | None = None,
        publish: Callable[[Celery, str, str], None] = publish_hint,
        unread: Callable[[Celery, str], int] = unread_hints,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._publish, self._unread, self._clock = app, publish, unread, clock
        self._on_failed = on_failed
        self.published = self.failed = 0
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._pending: dict[tuple[str, str], int] = {}
        self._checked_at: dict[str, float] = {}
        self._busy_since: float | None = None
        self._down_until = float("-inf")
        self._closed = False
        self._thread: threading.Thread | None = None

    def hint(self, stage: str, lane: str, count: int = 1) -> bool:
        """Ask for `count` hints. False: not taken, since the broker was down a moment ago or hangs right now."""
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            if self._closed or self._clock() < self._down_until or self._stuck():
                self.failed += not self._closed
                return False
            self._pending[stage, lane] = max(count, self._pending.get((stage, lane), 0))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="darkroom-hints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def close(self, timeout_s: float = 1.0) -> None:
        """Publish what is pending for at most `timeout_s`, then stop. Hints after this are not taken."""
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            self._changed.wait_for(self._idle, timeout=timeout_s)
            self._closed = True
            self._pending.clear()
            self._changed.notify_all()

    def _idle(self) -> bool:
        return not self._pending and self._busy_since is None

    def _stuck(self) -> bool:
        return self._busy_since is not None and self._clock() - self._busy_since > STUCK_AFTER_S

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            (stage, lane), count = taken
            try:
                self._send(stage, lane, count)
            except Exception as error:  # noqa: BLE001 - whatever a transport raises, the hint is disposable
                self._fail((stage, lane), error)
            finally:
                self._rest()

    def _rest(self) -> None:
        with self._changed:
            self._busy_since = None
            self._changed.notify_all()

    def _take(self) -> tuple[tuple[str, str], int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            if not self._pending:
                return None
            self._busy_since = self._clock()
            where = next(iter(self._pending))
            return where, self._pending.pop(where)

    def _send(self, stage: str, lane: str, count: int) -> None:
        now = self._clock()
        if now >= self._checked_at.get(stage, now):
            self._checked_at[stage] = now + UNREAD_CHECK_S
            if self._unread(self._app, stage) > UNREAD_MAX:
                raise HintsUnread
        for _ in range(count):
            self._publish(self._app, stage, lane)
            self.published += 1

    def _fail(self, where: tuple[str, str], error: Exception) -> None:
        with self._changed:
            unsent = [where, *self._pending]
            self._pending.clear()
            self._down_until = self._clock() + DOWN_FOR_S
        self.failed += len(unsent)
        told = {"count": len(unsent), "cause": type(error).__name__}
        log.info("hints_not_published", extra=told)
        if self._on_failed is not None:
            for stage, lane in unsent:
                self._hand_over(self._on_failed, stage, lane)

    @staticmethod
    def _hand_over(on_failed: Callable[[str, str], None], stage: str, lane: str) -> None:
        try:
            on_failed(stage, lane)
        except Exception:  # the next look finds the work again
            log.exception("hint_not_handed_over", extra={"stage": stage, "lane": lane})
