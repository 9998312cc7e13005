"""The sweep, once a second in one process: what ends by time alone, not by work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from shared.errors import DarkroomError, JobNotFound, RecordTooNew
from shared.jobs.commands import TOLD, plan_expire, plan_resubmit
from shared.jobs.lifecycle import DeliveryState, JobState
from shared.jobs.transition import Applied, context_json
from shared.money.caps import is_over
from shared.redis.scripts import run_async
from workers.stages.stopping import INDEX, StoppedBatches
from workers.stages.submit_plans import GIVING_UP, plan_give_up_unknown, resubmit_wait_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from shared.jobs.job import Job
    from shared.jobs.store import AsyncJobStore
    from shared.jobs.transition import Transition
    from shared.redis.keys import Keys
    from shared.settings import Settings
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

AT_ONCE: Final = 200
DAY_MS: Final = 86_400_000
TIDY_EVERY_MS: Final = 600_000
TIDY_ENDPOINTS, TIDY_DELIVERIES = 20, 100
_TOLD: Final = {
    "expiring": ("failed", "expired"),
    "resubmit": ("retried", "resubmitted"),
    GIVING_UP: ("failed", "unknown_outcome"),
}


class Sweep:
    """Expires queued jobs, resubmits and fails by policy, seals idle batches, reports stalled ones."""

    def __init__(
        self, client: Redis, keys: Keys, jobs: AsyncJobStore, settings: Settings, shop: Shop
    ) -> None:
        self._client, self._keys, self._jobs, self._shop = client, keys, jobs, shop
        self._context = context_json(settings.limits)
        self._wait_ms = resubmit_wait_ms(settings.worker)
        self._stopped = StoppedBatches(client, keys, jobs, settings.limits, shop)
        self._usage_day = self._tidied_at = 0
        self._running = False

    async def run(self) -> None:
        """Sweep once; not beside a sweep of this process that is not done yet, as with a slow server they would pile up."""
        if self._running:
            return
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False

    async def _run(self) -> None:
        seconds, micros = await self._client.time()
        now_ms = seconds * 1000 + micros // 1000
        await self._jobs_due("expiring", now_ms, plan_expire)
        await self._jobs_due("resubmit", now_ms, lambda job: self._resubmit(job, now_ms))
        await self._jobs_due(GIVING_UP, now_ms, _give_up)
        await self._batches_due("batches", now_ms, "seal")
        await self._batches_due("stalling", now_ms, "stall")
        for member in await self._due(INDEX, now_ms):
            await self._end_stopped(member, now_ms)
        await self._forget_usage(now_ms)
        await self._tidy_endpoints(now_ms)
        await self._tell_ends(now_ms)
        self._shop.arm("notify", "", 0)

    async def _forget_usage(self, now_ms: int) -> None:
        """Once a day, drop the counters of periods that no cap looks at any more."""
        today = now_ms // DAY_MS
        if today == self._usage_day:
            return
        self._usage_day = today
        fields: Any = await self._client.hkeys(self._keys.usage)
        old = [field for field in fields if is_over(field.decode(), today)]
        if old:
            await self._client.hdel(self._keys.usage, *old)

    async def _tidy_endpoints(self, now_ms: int) -> None:
        """Now and then, take out of endpoints what workers of an older version ended."""
        if now_ms - self._tidied_at < TIDY_EVERY_MS:
            return
        self._tidied_at = now_ms
        bounds = (TIDY_ENDPOINTS, TIDY_DELIVERIES)
        await run_async(
            self._client, "tidy_endpoints", self._keys.prefix, DeliveryState.PENDING.value, *bounds
        )

    async def _end_stopped(self, member: str, now_ms: int) -> None:
        """Go on with a batch that stopped; one with a job that we cannot read is left to workers of its version."""
        try:
            await self._stopped.end(member, now_ms)
        except DarkroomError as error:
            log.warning("sweep_skipped", batch=member, index=INDEX, cause=type(error).__name__)

    def _resubmit(self, job: Job, now_ms: int) -> Transition | None:
        if job.state is not JobState.UNKNOWN:
            return None
        return plan_resubmit(job, by="policy resubmit_once", now_ms=now_ms, wait_ms=self._wait_ms)

    async def _due(self, index: str, now_ms: int) -> list[str]:
        members: Any = await self._client.zrangebyscore(
            self._keys.index(index), "-inf", now_ms, start=0, num=AT_ONCE
        )
        return [member.decode() for member in members]

    async def _jobs_due(self, index: str, now_ms: int, plan: Callable[[Job], Transition | None]) -> None:
        for job_id in await self._due(index, now_ms):
            if await self._is_done_with(index, job_id, plan):
                await self._client.zrem(self._keys.index(index), job_id)

    async def _is_done_with(self, index: str, job_id: str, plan: Callable[[Job], Transition | None]) -> bool:
        """Apply the plan; say whether the entry is of no use any more. A plan that is applied removes it itself."""
        try:
            job, applied = await self._jobs.change(job_id, plan)
        except JobNotFound:
            return True
        except DarkroomError as error:  # it moved under us, or it is too early: the next sweep looks again
            log.warning("sweep_skipped", job_id=job_id, index=index, cause=type(error).__name__)
            return False
        if applied is Applied.FIRST:
            kind, code = _TOLD[index]
            self._shop.events.emit(kind, job_id, code=code)
        # A job that is being submitted may be queued again, and its deadline still stands then.
        return applied is None and job.state is not JobState.SUBMITTING

    async def _tell_ends(self, now_ms: int) -> None:
        """Show in Flower what ended, or was put back, by a command of somebody who does not tell it."""
        job_ids = await self._due(TOLD, now_ms)
        if not job_ids:
            return
        try:
            jobs = await self._jobs.read(job_ids)
        except RecordTooNew:  # the sweep of a later version tells it
            return
        for job in jobs:
            if job is not None and job.state is JobState.CANCELLED:
                self._shop.events.emit("revoked", job.id)
            elif job is not None and job.state is JobState.QUEUED:
                self._shop.events.emit("retried", job.id, code="redriven")
            elif job is not None and job.state is JobState.FAILED:
                self._shop.events.emit("failed", job.id, code=job.error_code or "failed")
        await self._client.zrem(self._keys.index(TOLD), *job_ids)

    async def _batches_due(self, index: str, now_ms: int, verb: str) -> None:
        for member in await self._due(index, now_ms):
            tenant, name = member.split(":", 1)
            await run_async(self._client, "close_batch", self._keys.prefix, self._context, tenant, name, verb)


def _give_up(job: Job) -> Transition | None:
    if job.state is not JobState.UNKNOWN or job.on_unknown != "fail":
        return None
    return plan_give_up_unknown(job.id)
