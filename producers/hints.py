"""Telling workers that there is work: best effort, on a thread of its own.

Nothing waits for it and nothing depends on it: a worker's own tick finds the work within a second. The thread asks
the state server how many hints are wanted (`look`, so hints are bounded over all producers) and hands them to the
publisher. Celery is imported there, too, so that the first enqueue of a process does not wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

from shared.redis.client import make_client
from shared.redis.looks import Look, look

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

    from shared.broker import HintPublisher
    from shared.redis.keys import Keys
    from shared.redis.looks import Seen
    from shared.settings import Settings

HINT_TTL_MS: Final = 250
_CLOSE_WITHIN_S: Final = 0.5


class Hinter:
    """Hints the submit stage of lanes. Survives a fork: the child starts its own thread."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings, self._keys = settings, keys
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._lanes: set[str] = set()
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def hint(self, lanes: Iterable[str]) -> None:
        """Say that jobs wait for these lanes (`account/model`). Returns at once, never raises."""
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            if self._closed:
                return
            self._lanes.update(lanes)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="darkroom-producer-hints", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Let what is under way go out, but wait only briefly."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lanes and not self._busy, timeout=_CLOSE_WITHIN_S)
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        with contextlib.suppress(Exception), make_client(self._settings.redis) as client:
            publisher = self._publisher()
            while lanes := self._take():
                self._publish(client, publisher, lanes)
                self._rest()
            publisher.close()

    def _publish(self, client: Redis, publisher: HintPublisher, lanes: set[str]) -> None:
        with contextlib.suppress(Exception):  # a hint is disposable, whatever broke
            for seen in self._look(client, lanes):
                if seen.hints:
                    publisher.hint(seen.look.stage, seen.look.lane, seen.hints)

    def _publisher(self) -> HintPublisher:
        from shared.broker import HintPublisher, make_app  # noqa: PLC0415 - Celery takes half a second to import

        return HintPublisher(make_app(self._settings))

    def _look(self, client: Redis, lanes: set[str]) -> list[Seen]:
        places = [Look("submit", lane, lane.partition("/")[2]) for lane in sorted(lanes)]
        worker = self._settings.worker
        return look(
            client,
            self._keys,
            places,
            worker="",
            alive_ms=int(worker.lease_s * 1000),
            hint_ttl_ms=HINT_TTL_MS,
            k=worker.claim_size,
            sweep=False,
        )[2]

    def _take(self) -> set[str]:
        """Wait for lanes to hint; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._lanes or self._closed)
            lanes, self._lanes = self._lanes, set()
            self._busy = bool(lanes)
            return lanes

    def _rest(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
