"""Leases this process holds, renewed by one script call from a thread of its own.

The thread stops renewing when the event loop is stuck: a process that cannot act must not keep its jobs.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from shared.redis.scripts import run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from shared.redis.keys import Keys
    from shared.settings import WorkerSettings
    from workers.claims import Entry

log = structlog.get_logger(__name__)

GIVE_BACK_WITHIN_S: Final = 1.0


class Leases:
    """The leases of one process."""

    def __init__(
        self, client: Redis, keys: Keys, settings: WorkerSettings, *, stuck: Callable[[float], bool]
    ) -> None:
        self._client, self._keys, self._settings, self._stuck = client, keys, settings, stuck
        self._held: dict[tuple[str, str], tuple[str, int]] = {}
        self._lock = threading.Lock()  # the loop drops what the thread may just find lost
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="darkroom-leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def hold(self, entry: Entry) -> None:
        with self._lock:
            self._held[entry.index, entry.id] = (entry.kind, entry.epoch)

    def drop(self, entry: Entry) -> None:
        """Stop renewing; the lease ends by a transition or by itself."""
        self._forget((entry.index, entry.id), (entry.kind, entry.epoch))

    def _forget(self, key: tuple[str, str], lease: tuple[str, int]) -> None:
        """Forget this lease, and not a later one of the same entry."""
        with self._lock:
            if self._held.get(key) == lease:
                del self._held[key]

    def indexes(self) -> list[str]:
        """Give the index of each lease that is held."""
        with self._lock:
            return [index for index, _ in self._held]

    def __len__(self) -> int:
        return len(self._held)

    def _renew_for_ever(self) -> None:
        while not self._stopping.wait(self._settings.renew_s):
            if self._stuck(self._settings.renew_s):
                log.error("leases_not_renewed", reason="event loop is stuck", held=len(self._held))
                continue
            try:
                self.renew()
            except (RedisError, OSError) as error:
                log.warning("leases_not_renewed", reason=type(error).__name__, held=len(self._held))
            except Exception as error:  # without this thread the process would lose every job it holds
                log.exception("leases_not_renewed", reason=type(error).__name__, held=len(self._held))

    def renew(self) -> list[str]:
        """Renew all in one call; forget and return the ids that another holder has.

        A job that went on to its next stage here may be held twice for a moment: then only the older lease is lost.
        """
        with self._lock:
            held = list(self._held.items())
        if not held:
            return []
        args = [part for (index, entry_id), (kind, epoch) in held for part in (index, kind, entry_id, epoch)]
        lost = run(self._client, "renew_leases", self._keys.prefix, int(self._settings.lease_s * 1000), *args)
        gone = {entry_id.decode() for entry_id in lost}
        if gone:
            newest_first = sorted(held, key=lambda each: each[1][1], reverse=True)
            oldest = {key[1]: (key, lease) for key, lease in newest_first}
            for entry_id in gone:
                self._forget(*oldest[entry_id])
            log.warning("leases_lost", count=len(gone))
        return sorted(gone)


async def give_back(client: AsyncRedis, keys: Keys, entries: Iterable[Entry]) -> None:
    """Make due at once what this process has to leave at its end, so that it counts as no death of those jobs.

    A submit is not: its heir has to find out what became of the POST, when its lease has ended.
    """
    left = [each for each in entries if not each.index.startswith("submit:")]
    if not left:
        return
    args = [part for each in left for part in (each.index, each.kind, each.id, each.epoch)]
    try:
        async with asyncio.timeout(GIVE_BACK_WITHIN_S):
            given = await run_async(client, "give_back", keys.prefix, *args)
    except (RedisError, OSError, TimeoutError) as error:  # they end by themselves
        log.warning("leases_not_given_back", count=len(left), cause=type(error).__name__)
    else:
        log.info("leases_given_back", count=given)
