"""Remote control as Flower's buttons use it: revoking a job's row cancels the job.

The stock commands would remember the id as a revoked task and do nothing to the job. Every worker gets the
broadcast, in its main thread, so cancelling is handed to a thread, and is idempotent in the state server.
"""

from __future__ import annotations

import queue
import re
import threading
from typing import Any, Final

import structlog
from celery.worker.control import Panel, control_command

from shared.jobs.answers import job_id_of
from workers.tasks import serving

log = structlog.get_logger(__name__)

PENDING_MAX: Final = 1000
_JOB_ID: Final = re.compile(r"job_[A-Za-z0-9]{1,60}")
_stock_revoke: Final[Any] = Panel.data["revoke"]


def install() -> None:
    """Put our commands in the place of Celery's."""
    control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")(revoke)
    control_command(
        name="terminate",
        variadic="task_id",
        args=[("signal", str)],
        signature="<signal> [id1 [id2 [... [idN]]]]",
    )(terminate)


class Cancellations:
    """Cancels jobs one command after the other, on a daemon thread that starts with the first."""

    def __init__(self) -> None:
        self._pending: queue.Queue[list[str]] = queue.Queue(maxsize=PENDING_MAX)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self, job_ids: list[str]) -> bool:
        """Take a command without waiting; False if too many wait."""
        try:
            self._pending.put_nowait(job_ids)
        except queue.Full:
            return False
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="darkroom-cancel", daemon=True)
                self._thread.start()
        return True

    def join(self) -> None:
        """Wait until all that was asked is done."""
        self._pending.join()

    def _work(self) -> None:
        while True:
            job_ids = self._pending.get()
            try:
                _cancel(job_ids)
            finally:
                self._pending.task_done()


cancellations: Final = Cancellations()


def _cancel(job_ids: list[str]) -> None:
    if serving.runtime is None:
        return
    try:
        handled = serving.runtime.cancel_jobs(job_ids)
    except Exception as error:  # noqa: BLE001 - the next command must still be heard
        log.warning("jobs_not_cancelled", count=len(job_ids), cause=type(error).__name__)
    else:
        log.info("jobs_cancelled_by_control", job_ids=handled)


def revoke(
    state: Any, task_id: str | list[str], terminate: bool = False, signal: str | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Cancel jobs; revoke Celery tasks as ever."""
    asked = [task_id] if isinstance(task_id, str) else list(task_id or ())
    jobs = sorted({each for each in asked if _JOB_ID.fullmatch(each)})
    others = [each for each in asked if each not in jobs]
    if serving.door is not None and asked:  # every id may be a task that waits in the broker, or its job
        jobs, others = sorted(map(job_id_of, asked)), asked
    if jobs and not cancellations.ask(jobs):
        return {"error": "too many cancellations wait in this worker; try again"}
    if others or not jobs:
        stock: dict[str, Any] = _stock_revoke(state, others, terminate=terminate, signal=signal, **kwargs)
        return stock
    return {"ok": f"cancelling {', '.join(jobs)}"}


def terminate(state: Any, signal: str, task_id: str | list[str], **kwargs: Any) -> dict[str, Any]:
    """Cancel jobs; terminate Celery tasks as ever."""
    return revoke(state, task_id, terminate=True, signal=signal, **kwargs)
