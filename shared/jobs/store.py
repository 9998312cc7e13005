"""Reading job records and applying plans to them: one pure core, two thin edges (blocking and asyncio)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.errors import JobNotFound, TransitionRefused
from shared.jobs.job import Job
from shared.jobs.transition import Applied, Transition, context_json, transitions_json
from shared.redis.scripts import run, run_async
from shared.redis.together import read_together, read_together_async

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from shared.jobs.transition import AuditNote
    from shared.redis.keys import Keys
    from shared.redis.scripts import Argument
    from shared.redis.together import Read
    from shared.settings import LimitSettings

Plan = Callable[[Job], Transition | None]
TRIES: Final = 5  # a record that moves between read and apply is read and planned again


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a plan for one of many: the job as read (None: no such job), the answer, or why it was refused.

    Neither answer nor refusal: there was nothing to do.
    """

    before: Job | None
    applied: Applied | None = None
    refused: TransitionRefused | None = None


class _Round:
    """One round of a change of many: who is settled without asking the server, and the plans of the others."""

    def __init__(self, job_ids: Sequence[str], jobs: Sequence[Job | None], plan: Plan) -> None:
        self.settled: dict[str, Changed] = {}
        self.plans: list[Transition] = []
        self._jobs = dict(zip(job_ids, jobs, strict=True))
        for job_id, job in self._jobs.items():
            self._judge(job_id, job, plan)

    def _judge(self, job_id: str, job: Job | None, plan: Plan) -> None:
        try:
            transition = None if job is None else plan(job)
        except TransitionRefused as error:
            self.settled[job_id] = Changed(job, refused=error)
            return
        if transition is None:
            self.settled[job_id] = Changed(job)
        else:
            self.plans.append(transition)

    def take(self, answers: Sequence[int]) -> list[str]:
        """Read the server's answers; give those whose record moved meanwhile."""
        moved = []
        for plan, answer in zip(self.plans, map(Applied, answers), strict=True):
            if answer is Applied.FENCED:
                moved.append(plan.job_id)
            else:
                self.settled[plan.job_id] = Changed(self._jobs[plan.job_id], answer)
        return moved

    def give_up(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self.settled[job_id] = Changed(self._jobs[job_id], refused=_moving(job_id))


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

    def change(self, job_id: str, plan: Plan, note: AuditNote | None = None) -> tuple[Job, Applied | None]:
        """Read, plan, apply; again if the record moved. `note` is for the audit, if it is applied.

        Gives the job as read, and what became of the plan (None: nothing to do). Raises JobNotFound,
        TransitionRefused.
        """
        for _ in range(TRIES):
            job = self.get(job_id)
            transition = plan(job)
            if transition is None:
                return job, None
            applied = Applied(self._apply([transition], note)[0])
            if applied is not Applied.FENCED:
                return job, applied
        raise _moving(job_id)

    def change_many(
        self, job_ids: Sequence[str], plan: Plan, note: AuditNote | None = None
    ) -> dict[str, Changed]:
        """As change, of many in one script call; nothing is raised for a single job. `note` has how many changed."""
        done: dict[str, Changed] = {}
        left: Sequence[str] = list(dict.fromkeys(job_ids))
        for more in reversed(range(TRIES)):
            this = _Round(left, self.read(left), plan)
            left = this.take(self._apply(this.plans, note) if this.plans else [])
            if not more:
                this.give_up(left)
            done |= this.settled
            if not left:
                break
        return done

    def _apply(self, transitions: Sequence[Transition], note: AuditNote | None) -> list[int]:
        arguments = _arguments(transitions, self._limits, note)
        answers: list[int] = run(self._client, "apply_transitions", self._keys.prefix, *arguments)
        return answers


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
        self, job_id: str, plan: Plan, note: AuditNote | None = None
    ) -> tuple[Job, Applied | None]:
        """As JobStore.change."""
        for _ in range(TRIES):
            job = await self.get(job_id)
            transition = plan(job)
            if transition is None:
                return job, None
            applied = Applied((await self._apply([transition], note))[0])
            if applied is not Applied.FENCED:
                return job, applied
        raise _moving(job_id)

    async def change_many(
        self, job_ids: Sequence[str], plan: Plan, note: AuditNote | None = None
    ) -> dict[str, Changed]:
        """As JobStore.change_many."""
        done: dict[str, Changed] = {}
        left: Sequence[str] = list(dict.fromkeys(job_ids))
        for more in reversed(range(TRIES)):
            this = _Round(left, await self.read(left), plan)
            left = this.take(await self._apply(this.plans, note) if this.plans else [])
            if not more:
                this.give_up(left)
            done |= this.settled
            if not left:
                break
        return done

    async def _apply(self, transitions: Sequence[Transition], note: AuditNote | None) -> list[int]:
        arguments = _arguments(transitions, self._limits, note)
        answers: list[int] = await run_async(self._client, "apply_transitions", self._keys.prefix, *arguments)
        return answers


def _arguments(
    transitions: Sequence[Transition], limits: LimitSettings, note: AuditNote | None
) -> tuple[Argument, Argument]:
    return context_json(limits, note), transitions_json(transitions, limits.retain_jobs_s * 1000)


def _found(job_id: str, job: Job | None) -> Job:
    if job is None:
        raise JobNotFound(job_id)
    return job


def _moving(job_id: str) -> TransitionRefused:
    return TransitionRefused(f"job {job_id} keeps changing; nothing was done. Try again.")
