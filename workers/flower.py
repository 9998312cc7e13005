"""What Flower is told: one row per job, as Celery task events with the job id as the task's uuid.

Flower is a view, never a record: events are buffered within bounds, sent from a thread of their own at a bounded
rate, and dropped (and counted) when the broker is away or slow. The life of a row: received, started (again for
every stage from submitting to storing), then succeeded, failed or revoked; a redrive sends retried first, else the
row stays failed. A job back in its queue (throttled, a paused lane, not executed) is shown as retried, with the
reason, until its next claim. No custom states: they would outrank REVOKED and hide Flower's buttons.

Every event carries name and args, since Flower may attach late, and the node name of this worker, since another
name would show as a phantom worker. Nothing of a request but model and size is in it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from celery.events import EventDispatcher
    from kombu import Connection

    from shared.settings_surface import FlowerSettings

log = structlog.get_logger(__name__)

NAME: Final = "generate_image"
KINDS: Final = frozenset({"sent", "received", "started", "succeeded", "failed", "revoked", "retried"})
ENDS: Final = frozenset({"succeeded", "failed", "revoked"})
SHOWN: Final = ("model", "size", "n", "stage")
FLUSH_S: Final = 0.2
RETRY_S: Final = 1.0
REPORT_S: Final = 5.0  # a flood is told in one line, not in as many as there were events
_OBJECT_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}/[0-9]{1,3}\.[a-z0-9]{1,5}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._*:=+@-]{0,64}")


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event as it was when it happened; `at_s` is unix time of this worker's clock, for show only."""

    kind: str
    job_id: str
    at_s: float
    fields: Mapping[str, str | int]


class Events(Protocol):
    """Takes the events of jobs, from any thread, and never blocks or fails."""

    def emit(self, kind: str, job_id: str, **fields: str | int) -> None:
        """Tell of a job.

        Fields: model, size, n, stage (shown as kwargs); images, cost_micros and currency, object_keys parted by
        blanks, runtime_ms for succeeded; code for failed and retried. Others are left out.
        """

    @property
    def sent(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    def start(self) -> None: ...

    def close(self) -> None: ...


def job_events(app: Celery, settings: FlowerSettings, hostname: str) -> Events:
    """Give the events of a worker whose node name is `hostname`, or none if they are switched off."""
    return JobEvents(app, hostname, max_per_s=settings.max_per_s) if settings.events else NoEvents()


class NoEvents:
    """Events switched off."""

    sent = dropped = 0

    def emit(self, kind: str, job_id: str, **_fields: str | int) -> None:
        """Do nothing."""

    def start(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class JobEvents:
    """Events through a connection and dispatcher of their own, flushed by a daemon thread every 200 ms."""

    def __init__(self, app: Celery, hostname: str, *, max_per_s: int) -> None:
        self._app, self._hostname = app, hostname
        self._flush_max = max(1, int(max_per_s * FLUSH_S))
        self._buffer: deque[JobEvent] = deque()
        # One second's worth; its last quarter is for ends, else a burst would leave rows that never end.
        self._limit_ends = max(4, max_per_s)
        self._limit = self._limit_ends * 3 // 4
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._dispatcher: EventDispatcher | None = None
        self._retry_at = self._report_at = 0.0
        self._reported = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="darkroom-events", daemon=True)
        self.sent = self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def emit(self, kind: str, job_id: str, **fields: str | int) -> None:
        """Buffer one event, or count it as dropped."""
        if kind not in KINDS or len(self._buffer) >= (self._limit_ends if kind in ENDS else self._limit):
            self._drop(1)
        else:
            self._buffer.append(JobEvent(kind, job_id, time.time(), fields))

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is buffered, for at most `timeout_s`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_s)

    def _work(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self.flush()
            if time.monotonic() >= self._report_at:
                self._report()
        self._retry_at = 0.0
        while self._buffer and self.flush():
            pass
        self._report()
        self._disconnect()

    def flush(self) -> bool:
        """Send at most what the rate allows per flush; False if the broker did not take it."""
        if not self._buffer or time.monotonic() < self._retry_at:
            return not self._buffer
        batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), self._flush_max))]
        try:
            dispatcher = self._connect()
            for event in batch:
                dispatcher.send(f"task-{event.kind}", **event_fields(event))
            dispatcher.flush()
        except Exception as error:  # noqa: BLE001 - whatever a transport raises, Flower is only a view
            self._drop(len(batch))
            self._retry_at = time.monotonic() + RETRY_S
            log.info("job_events_not_sent", count=len(batch), cause=type(error).__name__)
            self._disconnect()
            return False
        self.sent += len(batch)
        return True

    def _connect(self) -> EventDispatcher:
        """Give the dispatcher. Offline it must raise: its own buffer has no bound."""
        if self._dispatcher is None:
            self._connection = self._app.connection_for_write()
            self._dispatcher = self._app.events.Dispatcher(
                self._connection,
                hostname=self._hostname,
                buffer_group=["task"],
                buffer_limit=self._flush_max + 1,
                buffer_while_offline=False,
            )
        return self._dispatcher

    def _disconnect(self) -> None:
        connection, self._connection, self._dispatcher = self._connection, None, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:  # noqa: BLE001 - it is broken already
            log.debug("connection_not_closed", cause=type(error).__name__)

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count

    def _report(self) -> None:
        """Say how many were dropped since the last line, if any were."""
        dropped = self.dropped
        if dropped > self._reported:
            log.warning("job_events_dropped", count=dropped - self._reported, total=dropped, sent=self.sent)
            self._reported, self._report_at = dropped, time.monotonic() + REPORT_S


def event_fields(event: JobEvent) -> dict[str, Any]:
    """Give the fields of a task event. kwargs only if there is something to show: each event replaces them."""
    job_id = _plain(event.job_id)
    fields: dict[str, Any] = {
        "uuid": job_id,
        "name": NAME,
        "args": f"('{job_id}',)",
        "timestamp": event.at_s,
        "retries": 0,
        "root_id": job_id,
    }
    shown = {key: _plain(event.fields[key]) for key in SHOWN if event.fields.get(key)}
    if shown:
        fields["kwargs"] = repr({"id": job_id, **shown})
    match event.kind:
        case "succeeded":
            fields["result"] = _result(event.fields)
            if "runtime_ms" in event.fields:
                fields["runtime"] = int(event.fields["runtime_ms"]) / 1000
        case "failed" | "retried":
            fields["exception"] = _plain(event.fields.get("code", event.kind))
            fields["traceback"] = None
        case "revoked":
            fields |= {"terminated": False, "signum": None, "expired": False}
        case _:
            fields.setdefault("kwargs", repr({"id": job_id}))
    return fields


def _result(fields: Mapping[str, str | int]) -> str:
    text = f"{int(fields.get('images', 0))} images"
    if "cost_micros" in fields:
        whole, micros = divmod(int(fields["cost_micros"]), 1_000_000)
        text = f"{text}, {whole}.{micros:06d} {_plain(fields.get('currency', ''))}".rstrip()
    keys = [key for key in str(fields.get("object_keys", "")).split() if _OBJECT_KEY.fullmatch(key)]
    return f"{text}: {' '.join(keys)}" if keys else text


def _plain(value: str | int) -> str:
    """Give names, codes and numbers as they are, and hide whatever else got here: no prose, no URL, no data."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else "(hidden)"
