"""The store this process works for: once a second it looks whether it is the one that it knew, and its clock runs on.

The first worker of an installation marks the store with a random id. A store that is emptied, or replaced by another
one, has no such mark or another: then nobody knows what was paid for, and this process stops all spending until an
operator ends the freeze. Between two looks the mark is part of every claim of submits (claim_submit.lua).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic_core import to_json
from redis.exceptions import RedisError

from shared.jobs.schema import SCHEMA
from shared.redis.client import translated
from shared.redis.scripts import run_async
from workers.claims import lease_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

    from shared.redis.keys import Keys
    from shared.settings import Settings
    from workers.lanes import Lane

log = structlog.get_logger(__name__)

EVERY_S: Final = 1.0


class Installation:
    """What one worker process knows of its store."""

    def __init__(
        self, client: Redis, keys: Keys, settings: Settings, worker: str, lanes: Iterable[Lane]
    ) -> None:
        self._client, self._keys, self._url = client, keys, settings.redis.url
        self._question = lease_arguments(settings.worker) | {
            "worker": worker,
            "lanes": [(lane.name, lane.model) for lane in lanes],
        }
        self.mark = ""
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Learn the mark, or set it if there is none. Raises StateUnavailable."""
        with translated(self._url):
            await self.look()

    def start(self) -> None:
        """Look from now on, on the running loop."""
        self._task = asyncio.create_task(self._look_for_ever(), name="darkroom-installation")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> str:
        """Look once; give same, first, adopted (an operator accepted the store as it is) or lost."""
        question = self._question | {"known": self.mark, "fresh": secrets.token_hex(16)}
        reply: Any = await run_async(self._client, "watch_state", self._keys.prefix, to_json(question))
        verdict: str = reply[0].decode()
        mark: str = reply[1].decode()
        self._tell(verdict, mark, int(reply[2]), int(reply[3]))
        if verdict != "lost":
            self.mark = mark
        return verdict

    def _tell(self, verdict: str, mark: str, schema: int, step_ms: int) -> None:
        """Log changes, not every look."""
        if verdict == "lost" and not self._lost:
            log.error("state_lost", cause="replaced" if mark else "emptied", mark=self.mark, found=mark)
        if verdict == "adopted":
            log.warning("state_adopted", mark=mark, before=self.mark)
        if verdict == "first" and schema > SCHEMA:
            log.warning("state_is_of_a_later_version", schema=schema)
        if step_ms and verdict != "first":
            log.warning("state_clock_stepped" if step_ms < 0 else "state_clock_gap", ms=step_ms)
        self._lost = verdict == "lost"

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except (RedisError, OSError):
                continue  # the pacemaker says that it is away
            except Exception as error:  # it must go on: claims are made under what it finds
                log.exception("installation_fault", cause=type(error).__name__)
