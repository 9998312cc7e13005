"""The asyncio client: `AsyncDarkroom`, method for method the blocking one. What it decides is in `core` and `bulk`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from producers.bulk import Bulk
from producers.cancels import Cancelled, CancelResult, cancel_outcome, cancelled, which_jobs
from producers.core import (
    Core,
    check_applied,
    check_generation_id,
    decision,
    needs_clock,
)
from producers.hints import Hinter
from producers.link import AsyncLink, AsyncSender
from producers.operating import AsyncOperating
from producers.overview import Overview, parse_overview, queue_overview
from producers.receipt import BatchReceipt, BatchStatus, ItemReceipt, Receipt
from producers.waiters import AsyncWaiters
from shared.errors import BatchNotFound, DarkroomError
from shared.instants import running_clock
from shared.jobs.commands import OWNER, plan_cancel, plan_release, plan_resolve, plan_resubmit
from shared.jobs.disposition import Disposition
from shared.jobs.names import check_name
from shared.jobs.store import AsyncJobStore
from shared.jobs.transition import context_json
from shared.redis.client import check_server, make_async_client, make_client, translated
from shared.redis.scripts import run_async
from shared.settings import load_settings
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence

    from producers.client import Item, JobIds, Request
    from shared.jobs.data_uri import DataUri
    from shared.jobs.job import Job
    from shared.jobs.transition import AuditNote, Transition
    from shared.money.caps import BatchCaps
    from shared.orders import JobDefaults, JobOptions
    from shared.settings import Settings
    from shared.storage import ObjectStore


class AsyncDarkroom(AsyncOperating):
    """Enqueues jobs and asks after them; belongs to the event loop that first uses it. See `Darkroom`."""

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings or load_settings(**overrides)
        self._core = Core(self.settings)
        self._keys, self._url = self._core.keys, self.settings.redis.url
        self._client = make_async_client(self.settings.redis)
        self._jobs = AsyncJobStore(self._client, self._keys, self.settings.limits)
        self._hints = Hinter(self.settings, self._keys)
        self._waiters = AsyncWaiters(self._client, self._keys, self._jobs, self._url)
        self._checked = False
        self._checking: asyncio.Task[None] | None = None
        self._store: ObjectStore | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End waits and close connections."""
        await asyncio.to_thread(self._hints.close)
        await self._waiters.close()
        await self._client.aclose()

    # --- enqueue ---

    async def enqueue(
        self,
        request: Request,
        *,
        tenant: str | None = None,
        batch: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Receipt:
        """As Darkroom.enqueue."""
        now_ms = await self.now_ms() if needs_clock(options) else 0
        params = self._core.params(options, lambda: now_ms)
        order = self._core.order(request, tenant=tenant, batch=batch, params=params)
        await self._put_inputs((order.tenant, uri) for uri in order.uploads.values())
        async with self._state():
            reply = await run_async(self._client, "enqueue_jobs", self._keys.prefix, *order.arguments)
        receipt = self._core.receipt(order, reply)
        if receipt.disposition is Disposition.ENQUEUED:
            self._hints.hint(self._core.offer(order.model).lanes)
        return receipt

    async def enqueue_many(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        tenant: str | None = None,
        batch: str | None = None,
        batch_webhook: str | None = None,
        batch_caps: BatchCaps | None = None,
        seal: bool = True,
        keep: bool = True,
        on_disposition: Callable[[ItemReceipt], object] | None = None,
        **defaults: Unpack[JobDefaults],
    ) -> BatchReceipt:
        """As Darkroom.enqueue_many; takes asynchronous iterables, too."""
        receipt = BatchReceipt(batch, self._core.retention)
        try:
            bulk = Bulk(
                self._core,
                receipt,
                tenant=tenant,
                batch_webhook=batch_webhook,
                batch_caps=batch_caps,
                defaults=defaults,
                now_ms=running_clock(await self.now_ms()),
                keep=keep,
                on_disposition=on_disposition,
            )
            async with aclosing(AsyncLink(self._client)) as link:
                prefix, hint = self._keys.prefix, self._hints.hint
                await AsyncSender(bulk, link, prefix, self._url, self._put_inputs, hint).send_all(items)
            if seal and batch is not None:
                for owner in receipt.tenants:
                    receipt.sealed |= await self._close_batch(batch, owner) >= 0
        except DarkroomError as error:
            error.receipt = receipt
            raise
        return receipt

    async def _put_inputs(self, inputs: Iterable[tuple[str, DataUri]]) -> None:
        for tenant, uri in inputs:
            self._store = self._store or open_store(self.settings.storage)
            await self._store.put_input_async(tenant, uri.payload, uri.media_type, uri.extension)

    # --- ask ---

    async def get(self, job_id: str) -> Job:
        """Read a job. Raises JobNotFound."""
        async with self._state():
            return await self._jobs.get(job_id)

    async def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Read jobs, in one round trip; None where there is no record."""
        async with self._state():
            return await self._jobs.read(job_ids)

    @overload
    async def wait(self, job_ids: str, timeout_s: float | None = None) -> Job: ...
    @overload
    async def wait(self, job_ids: JobIds, timeout_s: float | None = None) -> list[Job]: ...
    async def wait(self, job_ids: str | JobIds, timeout_s: float | None = None) -> Job | list[Job]:
        """As Darkroom.wait."""
        await self._check()
        if isinstance(job_ids, str):
            return (await self._waiters.wait([job_ids], timeout_s))[0]
        return await self._waiters.wait(job_ids, timeout_s)

    async def batch(self, name: str, tenant: str | None = None) -> BatchStatus:
        """Read a batch. Raises BatchNotFound."""
        owner = self._core.tenant(tenant)
        client: Any = self._client
        async with self._state():
            record = await client.hgetall(self._keys.batch(owner, name))
        if not record:
            raise BatchNotFound(name)
        pauses = await self.pauses_of(owner, name)
        return BatchStatus.parse(name, owner, self.settings.currency, record, pauses)

    async def wait_batch(
        self, name: str, timeout_s: float | None = None, *, tenant: str | None = None, every_s: float = 0.5
    ) -> BatchStatus:
        """As Darkroom.wait_batch."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := await self.batch(name, tenant)).completed_at is None:
            left = every_s if deadline is None else min(every_s, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"batch {name}: {status.done} of {status.total} jobs have ended so far")
            await asyncio.sleep(left)
        return status

    async def overview(self) -> Overview:
        """Read the state of lanes, workers and counts."""
        async with self._state():
            pipe = self._client.pipeline(transaction=False)
            lanes = queue_overview(pipe, self._keys, self.settings)
            return parse_overview(lanes, await pipe.execute(), self.settings)

    async def unknown(self, limit: int = 1000) -> list[Job]:
        """Read the jobs whose submit has an unknown outcome, oldest first."""
        client: Any = self._client
        async with self._state():
            members = await client.zrange(self._keys.index("unknown"), 0, limit - 1)
            jobs = await self._jobs.read([member.decode() for member in members])
        return [job for job in jobs if job is not None]

    async def now_ms(self) -> int:
        """Ask the state server for its time (unix ms)."""
        client: Any = self._client
        async with self._state():
            seconds, micros = await client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    # --- change ---

    async def cancel(self, job_id: str, *, by: str | None = None, why: str = "") -> CancelResult:
        """As Darkroom.cancel."""
        note = decision("cancel", which_jobs([job_id]), by or OWNER, why) if by or why else None
        before = await self._change(job_id, partial(plan_cancel, by=by or OWNER), note=note)
        return CancelResult(cancel_outcome(before), await self.get(job_id))

    async def resolve(self, job_id: str, generation_id: str, *, by: str | None = None, why: str = "") -> Job:
        """As Darkroom.resolve."""
        found, note = check_generation_id(generation_id), decision("resolve", which_jobs([job_id]), by, why)
        await self._change(job_id, partial(plan_resolve, generation_id=found, by=note.who), found, note)
        return await self.get(job_id)

    async def resubmit(self, job_id: str, *, by: str | None = None, why: str = "") -> Job:
        """As Darkroom.resubmit."""
        now_ms, wait_ms = await self.now_ms(), self._core.resubmit_wait_ms
        note = decision("resubmit", which_jobs([job_id]), by, why)
        plan = partial(plan_resubmit, by=note.who, now_ms=now_ms, wait_ms=wait_ms)
        before = await self._change(job_id, plan, note=note)
        self._hints.hint(self._core.lanes(before.model))
        return await self.get(job_id)

    async def release(self, job_id: str, *, by: str | None = None, why: str = "") -> Job:
        """As Darkroom.release."""
        note = decision("release", which_jobs([job_id]), by, why)
        await self._change(job_id, partial(plan_release, by=note.who), note=note)
        return await self.get(job_id)

    async def cancel_many(
        self, job_ids: Sequence[str], *, by: str | None = None, why: str = "", words: str = ""
    ) -> list[Cancelled]:
        """As Darkroom.cancel_many."""
        note = decision("cancel", which_jobs(job_ids, words), by, why)
        async with self._state():
            changed = await self._jobs.change_many(job_ids, partial(plan_cancel, by=note.who), note)
        return cancelled(job_ids, changed)

    async def seal(self, name: str, tenant: str | None = None) -> bool:
        """As Darkroom.seal."""
        check_name("batch", name)
        done = await self._close_batch(name, self._core.tenant(tenant))
        if done < 0:
            raise BatchNotFound(name)
        return bool(done)

    async def _close_batch(self, name: str, tenant: str) -> int:
        arguments = (context_json(self.settings.limits), tenant, name, "seal")
        async with self._state():
            return int(await run_async(self._client, "close_batch", self._keys.prefix, *arguments))

    async def _change(
        self,
        job_id: str,
        plan: Callable[[Job], Transition | None],
        generation_id: str = "",
        note: AuditNote | None = None,
    ) -> Job:
        async with self._state():
            before, applied = await self._jobs.change(job_id, plan, note)
        check_applied(job_id, applied, generation_id)
        return before

    # --- the server ---

    async def _check(self) -> None:
        """Refuse a server that may not hold the truth; asked off the loop, and once for all who wait meanwhile."""
        if self._checked:
            return
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(asyncio.to_thread(_check_server, self.settings))
            self._checking.add_done_callback(_seen)
        await asyncio.shield(self._checking)  # who is cancelled does not cancel it for the others
        self._checked = True

    @asynccontextmanager
    async def _state(self) -> AsyncIterator[None]:
        await self._check()
        with translated(self._url):
            yield


def _seen(check: asyncio.Task[None]) -> None:
    """Look at its error, which asyncio would complain of if all who waited were cancelled."""
    if not check.cancelled():
        check.exception()


def _check_server(settings: Settings) -> None:
    with make_client(settings.redis) as client:
        check_server(client, settings)
