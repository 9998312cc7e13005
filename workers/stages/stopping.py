"""Batches that reached a cap of their own: what is still queued is cancelled, free of charge, and the batch ends.

1. The batch is sealed, so that its completion can come.
2. Its jobs are read a page at a time, and those that are queued are cancelled by the ordinary transition.
3. One that was being submitted may come back to the queue: the batch is gone through again until none can. One
whose outcome is unknown comes back by a decision only: that is looked for once a minute, and it is not sent meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from shared.jobs.commands import plan_cancel
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, context_json
from shared.redis.scripts import run_async

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from shared.jobs.store import AsyncJobStore
    from shared.redis.keys import Keys
    from shared.settings import LimitSettings
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

INDEX: Final = "stopping"
PAGE_JOBS: Final = 500
PAGES_AT_ONCE: Final = 10  # a sweep has more to do than one large batch
AGAIN_MS: Final = 1000
SELDOM_MS: Final = 60_000


class StoppedBatches:
    """The part of the sweep that ends them."""

    def __init__(
        self, client: Redis, keys: Keys, jobs: AsyncJobStore, limits: LimitSettings, shop: Shop
    ) -> None:
        self._client, self._keys, self._jobs, self._shop = client, keys, jobs, shop
        self._context = context_json(limits)

    async def end(self, member: str, now_ms: int) -> None:
        """Go on with one batch, `tenant:name`."""
        tenant, name = member.split(":", 1)
        await run_async(self._client, "close_batch", self._keys.prefix, self._context, tenant, name, "seal")
        batch = self._keys.batch(tenant, name)
        for _ in range(PAGES_AT_ONCE):
            found: Any = await self._client.hmget(batch, "stop_at", "stopped")
            start, why = int(found[0] or 0), (found[1] or b"").decode()
            ids: Any = await self._client.lrange(
                self._keys.batch_jobs(tenant, name), start, start + PAGE_JOBS - 1
            )
            await self._cancel([job_id.decode() for job_id in ids], why)
            if len(ids) < PAGE_JOBS:
                await self._finish_round(member, batch, now_ms)
                return
            await self._client.hset(batch, "stop_at", str(start + PAGE_JOBS))

    async def _cancel(self, job_ids: list[str], why: str) -> None:
        found = [job for job in await self._jobs.read(job_ids) if job and job.state is JobState.QUEUED]
        plans = [plan for job in found if (plan := plan_cancel(job, by=f"batch cap {why}", tell=False))]
        results = await asyncio.gather(*map(self._shop.recorder.apply, plans))
        for plan, applied in zip(plans, results, strict=True):
            if applied is Applied.FIRST:
                self._shop.events.emit("revoked", plan.job_id)
        if plans:
            log.info("batch_rest_cancelled", reason=why, jobs=results.count(Applied.FIRST))

    async def _finish_round(self, member: str, batch: str, now_ms: int) -> None:
        """Begin again while jobs may still be, or come back, in the queue; seldom if only a decision brings them there."""
        found: Any = await self._client.hmget(
            batch, *(f"n:{state}" for state in (JobState.QUEUED, JobState.SUBMITTING, JobState.UNKNOWN))
        )
        queued, submitting, unknown = (int(count or 0) for count in found)
        if queued + submitting + unknown > 0:
            again_ms = AGAIN_MS if queued + submitting > 0 else SELDOM_MS
            await self._client.hdel(batch, "stop_at")
            await self._client.zadd(self._keys.index(INDEX), {member: now_ms + again_ms})
        else:
            await self._client.zrem(self._keys.index(INDEX), member)
