"""A real Celery worker around a runtime that does nothing but note, in the state server, what it is asked.

`celery -A tests.integration.fake_worker worker`. Work is an entry of a due-time index; doing it removes the entry.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import redis

from shared.redis.keys import Keys
from shared.redis.looks import Look
from shared.settings import Settings, load_settings
from workers.app import build_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.event_loop import EventLoop
    from workers.flower import Events

NOTES = "notes"
LOOKS = (Look("submit", "default/m", "m"), Look("poll", "default/m", "m"), Look("store", "", ""))


class NotingRuntime:
    """Notes each call as JSON in the list NOTES."""

    looks = LOOKS

    def __init__(
        self,
        settings: Settings,
        worker: str,
        loop: EventLoop,
        events: Events,
        arm: Callable[[str, str, int], None],
        /,
    ) -> None:
        self._client = redis.Redis.from_url(settings.redis.url)
        self._keys = Keys.of(settings.redis.namespace)
        self._loop, self._events, self._arm = loop, events, arm
        self._stopped = False
        self.note("start", worker)

    def note(self, *what: object) -> None:
        self._client.rpush(NOTES, json.dumps(what))

    def _work(self, how: str, stage: str, lane: str) -> None:
        self._client.delete(self._keys.hint(stage, lane))
        index = self._keys.index(stage if not lane else f"{stage}:{lane}")
        taken: Any = self._client.zpopmin(index, 100)
        thread = threading.current_thread().name
        self.note(how, stage, lane, [each[0].decode() for each in taken], thread)

    def run_stage(self, stage: str, lane: str) -> None:
        self._work("run", stage, lane)

    def spawn_stage(self, stage: str, lane: str) -> None:
        self._work("spawn", stage, lane)

    def stop_claims(self) -> None:
        self._stopped = True

    def close(self) -> None:
        time.sleep(0.2)
        self.note("close", self._stopped)

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        self.note("cancel", job_ids)
        for job_id in job_ids:
            self._events.emit("revoked", job_id)
        return job_ids


app = build_app(load_settings(), NotingRuntime)
