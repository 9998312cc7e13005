"""Reading job records and applying plans to them: one pure core, two thin edges (blocking and asyncio)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shared.errors import JobNotFound, TransitionRefused
from shared.jobs.job import Job
from shared.jobs.transition import Applied, context_json, transitions_json
from shared.redis.scripts import run, run_async
from shared.redis.together import read_together, read_together_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from shared.jobs.transition import Transition
    from shared.redis.keys import Keys
    from shared.redis.scripts import Argument
    from shared.redis.together import Read
    from shared.settings import LimitSettings

TRIES: Final = 5  # a record that moves between read and apply is read and planned again


def _reads(keys: Keys, job_ids: Iterable[str]) -> list[Read]:
    """Give the reads of records, four per job."""
    found: list[Read] = []
    for job_id in job_ids:
        found += [("hash", keys.job(job_id)), ("string", keys.spec(job_id))]
        found += [("hash", keys.detail(job_id)), ("list", keys.timeline(job_id))]
    return found


def _jobs(job_ids: Sequence[str], replies: Sequence[Any]) -> list[Job | None]:
    """Give the jobs of the replies; None where there is no record."""
    return [
        Job.parse(job_id, *replies[4 * at : 4 * at + 4]) if replies[4 * at] else None
        for at, job_id in enumerate(job_ids)
    ]


class JobStore:
    """The blocking edge."""

    def __init__(self, client: Redis, keys: Keys, limits: LimitSettings) -> None:
        self._client, self._keys, self._limits = client, keys, limits

    def read(self, job_ids: Sequence[str]) -> list[Job | None]:
        return _jobs(job_ids, read_together(self._client, self._keys, _reads(self._keys, job_ids)))

    def get(self, job_id: str) -> Job:
        return _found(job_id, self.read([job_id])[0])

    def change(self, job_id: str, plan: Callable[[Job], Transition | None]) -> tuple[Job, Applied | None]:
        """Read, plan, apply; again if the record moved.

        Gives the job as read, and what became of the plan (None: nothing to do). Raises JobNotFound,
        TransitionRefused.
        """
        for _ in range(TRIES):
            job = self.get(job_id)
            transition = plan(job)
            if transition is None:
                return job, None
            applied = self._apply(transition)
            if applied is not Applied.FENCED:
                return job, applied
        raise _moving(job_id)

    def _apply(self, transition: Transition) -> Applied:
        reply = run(
            self._client, "apply_transitions", self._keys.prefix, *_arguments(transition, self._limits)
        )
        return Applied(reply[0])


class AsyncJobStore:
    """The asyncio edge."""

    def __init__(self, client: AsyncRedis, keys: Keys, limits: LimitSettings) -> None:
        self._client, self._keys, self._limits = client, keys, limits

    async def read(self, job_ids: Sequence[str]) -> list[Job | None]:
        found = await read_together_async(self._client, self._keys, _reads(self._keys, job_ids))
        return _jobs(job_ids, found)

    async def get(self, job_id: str) -> Job:
        return _found(job_id, (await self.read([job_id]))[0])

    async def change(
        self, job_id: str, plan: Callable[[Job], Transition | None]
    ) -> tuple[Job, Applied | None]:
        """As JobStore.change."""
        for _ in range(TRIES):
            job = await self.get(job_id)
            transition = plan(job)
            if transition is None:
                return job, None
            applied = await self._apply(transition)
            if applied is not Applied.FENCED:
                return job, applied
        raise _moving(job_id)

    async def _apply(self, transition: Transition) -> Applied:
        arguments = _arguments(transition, self._limits)
        reply = await run_async(self._client, "apply_transitions", self._keys.prefix, *arguments)
        return Applied(reply[0])


def _arguments(transition: Transition, limits: LimitSettings) -> tuple[Argument, Argument]:
    return context_json(limits), transitions_json([transition], limits.retain_jobs_s * 1000)


def _found(job_id: str, job: Job | None) -> Job:
    if job is None:
        raise JobNotFound(job_id)
    return job


def _moving(job_id: str) -> TransitionRefused:
    return TransitionRefused(f"job {job_id} keeps changing; nothing was done. Try again.")
