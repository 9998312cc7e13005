"""Ids that were kept on disk while the state server was away: attached by intent once it is back.

Every process looks, at its start and every few seconds after. What the store says of an id is final: attached, attached
before, listed as an orphan, or claimed by two jobs; then its file goes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from shared.errors import StateUnavailable
from shared.jobs.transition import Applied
from workers.stages.submit_plans import plan_accepted_late, plan_taken

if TYPE_CHECKING:
    from workers.spool import Kept, LateId, Spool
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0


class LateIds:
    """Looks after what the processes of this machine left in the spool."""

    def __init__(self, spool: Spool, shop: Shop, slot_ms: int) -> None:
        self._spool, self._shop, self._slot_ms = spool, shop, slot_ms
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._look_for_ever(), name="darkroom-late-ids")

    async def stop(self) -> None:
        """End; what is not attached stays where it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.attach_leftovers()
            except Exception as error:  # it must go on: paid images depend on it
                log.exception("late_ids_fault", cause=type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def attach_leftovers(self) -> int:
        """Attach what nobody looks after; give how many were decided."""
        kept = await self._spool.leftovers()
        try:
            return sum(await asyncio.gather(*map(self._attach, kept)))
        finally:
            for each in kept:
                each.let_go()

    async def _attach(self, kept: Kept) -> bool:
        late = kept.late
        try:
            applied = await self._decide(late)
        except (StateUnavailable, RedisError, OSError) as error:  # later, then
            log.warning("late_id_waits", job_id=late.job_id, cause=type(error).__name__)
            return False
        kept.remove()
        log.warning("late_id_decided", job_id=late.job_id, lane=late.lane, applied=applied.name)
        if applied is Applied.ORPHAN:
            log.error("generation_orphaned", job_id=late.job_id, lane=late.lane)
        elif applied >= Applied.FIRST:
            self._shop.arm("poll", late.lane, 0)
        return True

    async def _decide(self, late: LateId) -> Applied:
        where = (late.job_id, late.lane, late.intent_id, late.generation_id)
        applied = await self._shop.recorder.apply(plan_accepted_late(*where))
        if applied is Applied.GENERATION_TAKEN:
            log.error("generation_taken", job_id=late.job_id, generation_id=late.generation_id)
            await self._shop.recorder.apply(plan_taken(*where, slot_ms=self._slot_ms))
        return applied
