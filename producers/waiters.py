"""Waiting for jobs to end: many waiters, two connections.

One connection listens to the channel on which ended jobs are announced; one reads records. An announcement may be
lost (pub/sub keeps nothing), so every waited-for job is looked at each time the listener (re)connects and about once
a second after that, all of them together. Whoever begins to wait reads once itself after it is registered: what
ended before is seen by that read, what ends later is announced, or seen by a read-back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from shared.errors import JobNotFound, StateUnavailable
from shared.jobs.lifecycle import TERMINAL
from shared.redis.client import translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from shared.jobs.job import Job
    from shared.jobs.store import AsyncJobStore, JobStore
    from shared.redis.keys import Keys

READ_BACK_S: Final = 1.0
READ_AT_ONCE: Final = 500
ANNOUNCED_AT_ONCE: Final = 1000
_READ_SHARE: Final = 10  # a read-back of very many jobs takes at most a tenth of the time
_AFTER_FAILURE_S: Final = 0.5
_IDLE_S: Final = 5.0  # the listener outlives its last waiter by this, for the next one
_SLICE_S: Final = 0.1  # a thread that blocks in a read sees a close only between two
_JOIN_S: Final = 2.0
_FAILURES: Final = (RedisError, OSError, StateUnavailable)


class Tally:
    """What one waiter waits for, and what it has."""

    def __init__(self, job_ids: Sequence[str], done: threading.Event | asyncio.Event) -> None:
        self.job_ids, self.left, self.done = list(job_ids), set(job_ids), done
        self.ended: dict[str, Job] = {}
        self.missing: str | None = None

    def give(self, job_id: str, job: Job | None) -> None:
        """Take what was read of a job."""
        if job is None:
            self.missing = job_id
        elif job.ended and job_id in self.left:
            self.left.discard(job_id)
            self.ended[job_id] = job
        if not self.left or self.missing is not None:
            self.done.set()

    def result(self) -> list[Job]:
        """Give the jobs in the order asked for. Raises JobNotFound, TimeoutError."""
        if self.missing is not None:
            raise JobNotFound(self.missing)
        if self.left:
            some = ", ".join(sorted(self.left)[:3])
            raise TimeoutError(f"{len(self.left)} of {len(self.job_ids)} jobs have not ended yet: {some}")
        return [self.ended[job_id] for job_id in self.job_ids]


class Registry:
    """Who waits for which job."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Tally]] = {}
        self._lock = threading.Lock()
        self.idle_since = time.monotonic()

    def add(self, tally: Tally) -> None:
        with self._lock:
            for job_id in tally.left:
                self._waiting.setdefault(job_id, []).append(tally)

    def remove(self, tally: Tally) -> None:
        with self._lock:
            for job_id in set(tally.job_ids):
                others = [each for each in self._waiting.pop(job_id, ()) if each is not tally]
                if others:
                    self._waiting[job_id] = others
            self.idle_since = time.monotonic()

    def waited(self, job_ids: Sequence[str] | None = None) -> list[str]:
        """Give those of the ids that somebody waits for; all of them for None."""
        with self._lock:
            return (
                list(self._waiting)
                if job_ids is None
                else [each for each in job_ids if each in self._waiting]
            )

    def give(self, job_ids: Sequence[str], jobs: Sequence[Job | None]) -> None:
        """Hand records to all that wait for them."""
        with self._lock:
            for job_id, job in zip(job_ids, jobs, strict=True):
                for tally in self._waiting.get(job_id, ()):
                    tally.give(job_id, job)

    def release(self) -> None:
        """End every wait."""
        with self._lock:
            for tallies in self._waiting.values():
                for tally in tallies:
                    tally.done.set()

    @property
    def idle(self) -> bool:
        with self._lock:
            return not self._waiting and time.monotonic() - self.idle_since > _IDLE_S


def _slices(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(job_ids), READ_AT_ONCE):
        yield job_ids[at : at + READ_AT_ONCE]


def _queue_states(pipe: Any, keys: Keys, job_ids: Sequence[str]) -> Any:
    for job_id in job_ids:
        pipe.hget(keys.job(job_id), "state")
    return pipe


def _over(job_ids: Sequence[str], states: Sequence[bytes | None]) -> list[str]:
    """Give the jobs whose wait is over: ended, or without a record."""
    return [
        job_id
        for job_id, state in zip(job_ids, states, strict=True)
        if state is None or state.decode() in TERMINAL
    ]


def _next_read_at(started_at: float) -> float:
    now = time.monotonic()
    return now + max(READ_BACK_S, _READ_SHARE * (now - started_at))


class Waiters:
    """The blocking edge: callers wait on events, one daemon thread listens and reads."""

    def __init__(self, client: Redis, keys: Keys, jobs: JobStore, url: str) -> None:
        self._client, self._keys, self._jobs, self._url = client, keys, jobs, url
        self._registry = Registry()
        self._starting, self._reading = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wait(self, job_ids: Sequence[str], timeout_s: float | None) -> list[Job]:
        """Wait until all have ended. Raises TimeoutError, JobNotFound, StateUnavailable."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        done = threading.Event()
        tally = Tally(job_ids, done)
        self._registry.add(tally)
        try:
            self._read(tally.job_ids)
            if tally.left and tally.missing is None:
                self._start()
                done.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            return tally.result()
        finally:
            self._registry.remove(tally)

    def close(self) -> None:
        """End every wait and the thread, before its connection is closed under it."""
        self._closed = True
        self._registry.release()
        thread = self._thread
        if thread is not None:
            thread.join(_JOIN_S)

    def _read(self, job_ids: Sequence[str]) -> None:
        """Read records and hand them out; one reader at a time, so that one connection serves all."""
        for some in _slices(job_ids):
            with self._reading, translated(self._url):
                jobs = self._jobs.read(some)
            self._registry.give(some, jobs)

    def _read_back(self) -> float:
        started_at = time.monotonic()
        for some in _slices(self._registry.waited()):
            with self._reading, translated(self._url):
                states = _queue_states(self._client.pipeline(transaction=False), self._keys, some).execute()
            self._read(_over(some, states))
        return _next_read_at(started_at)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="darkroom-waits", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        client: Any = self._client
        while not self._stop():
            try:
                with contextlib.closing(client.pubsub(ignore_subscribe_messages=True)) as channel:
                    channel.subscribe(self._keys.ended)
                    channel.get_message(timeout=READ_BACK_S)  # the confirmation: from here on it listens
                    self._listen(channel)
            except _FAILURES:
                time.sleep(_AFTER_FAILURE_S)

    def _listen(self, channel: Any) -> None:
        read_at = self._read_back()
        while not self._closed and not self._registry.idle:
            self._read(self._registry.waited(self._announced(channel, read_at)))
            if time.monotonic() >= read_at:
                read_at = self._read_back()

    def _announced(self, channel: Any, until: float) -> list[str]:
        """Give what is announced: the first within the time, and what came with it."""
        found: list[str] = []
        left = until - time.monotonic()
        message = channel.get_message(timeout=max(0.0, min(left, _SLICE_S)))
        while message is not None and len(found) < ANNOUNCED_AT_ONCE:
            found.append(message["data"].decode())
            message = channel.get_message(timeout=0)
        return found

    def _stop(self) -> bool:
        """Say whether nobody needs the thread; a waiter that comes later starts the next."""
        with self._starting:
            if not self._closed and not self._registry.idle:
                return False
            self._thread = None
            return True


class AsyncWaiters:
    """The asyncio edge: callers wait on events, one task listens and reads."""

    def __init__(self, client: AsyncRedis, keys: Keys, jobs: AsyncJobStore, url: str) -> None:
        self._client, self._keys, self._jobs, self._url = client, keys, jobs, url
        self._registry = Registry()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, job_ids: Sequence[str], timeout_s: float | None) -> list[Job]:
        """As Waiters.wait."""
        done = asyncio.Event()
        tally = Tally(job_ids, done)
        self._registry.add(tally)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_over(tally, done), timeout_s)
            return tally.result()
        finally:
            self._registry.remove(tally)

    async def _until_over(self, tally: Tally, done: asyncio.Event) -> None:
        await self._read(tally.job_ids)
        if tally.left and tally.missing is None:
            self._start()
            await done.wait()

    async def close(self) -> None:
        self._registry.release()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _read(self, job_ids: Sequence[str]) -> None:
        for some in _slices(job_ids):
            with translated(self._url):
                async with self._reading:
                    jobs = await self._jobs.read(some)
            self._registry.give(some, jobs)

    async def _read_back(self) -> float:
        started_at = time.monotonic()
        for some in _slices(self._registry.waited()):
            with translated(self._url):
                async with self._reading:
                    pipe = _queue_states(self._client.pipeline(transaction=False), self._keys, some)
                    states = await pipe.execute()
            await self._read(_over(some, states))
        return _next_read_at(started_at)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="darkroom-waits")

    async def _work(self) -> None:
        while not self._registry.idle:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._keys.ended)
                    await channel.get_message(timeout=READ_BACK_S)
                    await self._listen(channel)
            except _FAILURES:
                await asyncio.sleep(_AFTER_FAILURE_S)

    async def _listen(self, channel: Any) -> None:
        read_at = await self._read_back()
        while not self._registry.idle:
            await self._read(self._registry.waited(await self._announced(channel, read_at)))
            if time.monotonic() >= read_at:
                read_at = await self._read_back()

    async def _announced(self, channel: Any, until: float) -> list[str]:
        found: list[str] = []
        message = await channel.get_message(timeout=max(0.0, until - time.monotonic()))
        while message is not None and len(found) < ANNOUNCED_AT_ONCE:
            found.append(message["data"].decode())
            message = await channel.get_message(timeout=0)
        return found
