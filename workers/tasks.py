"""The Celery tasks, the only ones: one per stage. A task says "look there now" and holds no work of its own.

Their arguments name a lane at most. They send no events (Flower shows jobs instead), keep no result, and are
acknowledged before they run: losing one loses nothing.

The door is the exception, and off by default: `generate_image` carries a request, and makes a job of it. It is
acknowledged early, too: a message that is unacknowledged when the broker goes can end the whole worker.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from redis.exceptions import RedisError

from shared.broker import DOOR_TASK, task_name
from shared.errors import StateUnavailable

if TYPE_CHECKING:
    from celery import Celery

    from shared.redis.looks import Look

log = structlog.get_logger(__name__)

OPTIONS: Final[dict[str, Any]] = {
    "send_events": False,
    "ignore_result": True,
    "acks_late": False,
    "max_retries": 0,
    "shared": False,  # of this app alone, should the process have another
}


class Runtime(Protocol):
    """What runs the stages in this process; made by workers.bootstrap. Every method may be called from any thread."""

    @property
    def looks(self) -> tuple[Look, ...]:
        """What this worker serves."""

    def run_stage(self, stage: str, lane: str) -> None:
        """Work until nothing is due or the drain's time is up; returns soon after `stop_claims`."""

    def spawn_stage(self, stage: str, lane: str) -> None:
        """Start the same without waiting."""

    def stop_claims(self) -> None:
        """Take no new work, at once. Runs in a signal handler: no locks, no I/O."""

    def close(self) -> None:
        """Wait for work in flight within its bounds, give leases back, close clients. Raises CutOff at the bounds."""

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        """Cancel jobs and give the ids that were ours; may take seconds."""


class Door(Protocol):
    """Makes jobs of tasks. Safe for many threads."""

    def take(self, task_id: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Make a job of a task's arguments, or note why not. Raises nothing."""


class Serving:
    """The runtime of this process, and the door if it is open, while it serves."""

    runtime: Runtime | None = None
    door: Door | None = None


serving: Final = Serving()


def register(app: Celery) -> None:
    """Give the app its tasks."""

    @app.task(name=task_name("submit"), **OPTIONS)
    def submit(lane: str) -> None:
        run("submit", lane)

    @app.task(name=task_name("poll"), **OPTIONS)
    def poll(lane: str) -> None:
        run("poll", lane)

    @app.task(name=task_name("store"), **OPTIONS)
    def store(lane: str) -> None:
        run("store", lane)

    @app.task(name=task_name("notify"), **OPTIONS)
    def notify(lane: str) -> None:
        run("notify", lane)


def open_door(app: Celery) -> None:
    """Give the app the task of Celery-native producers."""

    @app.task(bind=True, name=DOOR_TASK, typing=False, **(OPTIONS | {"ignore_result": False}))
    def generate_image(self: Any, *arguments: Any, **given: Any) -> None:
        if serving.door is None:
            log.error("door_message_lost", task_id=self.request.id, cause="closed")
        else:
            serving.door.take(self.request.id, arguments, given)


def run(stage: str, lane: str) -> None:
    """Follow one hint. Hints for what this worker does not serve are left to the looks of those that do."""
    runtime = serving.runtime
    if runtime is None or not any((look.stage, look.lane) == (stage, lane) for look in runtime.looks):
        log.info("hint_ignored", stage=stage)
        return
    try:
        runtime.run_stage(stage, lane)
    except (RedisError, StateUnavailable, OSError, CancelledError) as error:
        log.warning("stage_interrupted", stage=stage, lane=lane, cause=type(error).__name__)
