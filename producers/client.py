"""The blocking client: `Darkroom`. Safe for many threads; what it decides is in `core` and `bulk`."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from producers.bulk import Bulk
from producers.cancels import Cancelled, CancelResult, cancel_outcome, cancelled, which_jobs
from producers.core import (
    Core,
    check_applied,
    check_generation_id,
    decision,
)
from producers.hints import Hinter
from producers.link import Link, Sender
from producers.operating import Operating
from producers.receipt import BatchReceipt, ItemReceipt, Receipt
from producers.waiters import Waiters
from shared.errors import BatchNotFound, DarkroomError
from shared.instants import running_clock
from shared.jobs.commands import OWNER, plan_cancel, plan_release, plan_resolve, plan_resubmit
from shared.jobs.disposition import Disposition
from shared.jobs.names import check_name
from shared.jobs.transition import context_json
from shared.redis.scripts import run
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shared.jobs.data_uri import DataUri
    from shared.jobs.job import Job
    from shared.jobs.request import GenerationRequest
    from shared.jobs.transition import AuditNote, Transition
    from shared.money.caps import BatchCaps
    from shared.orders import JobDefaults, JobOptions, Order
    from shared.settings import Settings
    from shared.storage import ObjectStore

    Request = Mapping[str, Any] | GenerationRequest
    Item = Request | tuple[Request, Mapping[str, Any]]
    JobIds = list[str] | tuple[str, ...]


class Darkroom(Operating):
    """Enqueues jobs and asks after them.

    `settings` (or overrides of what environment and darkroom.toml say) name the state server. Nothing connects
    before the first call. Every call may raise StateUnavailable; the first one ConfigurationError, if the server
    may not hold the truth (it evicts keys).
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        super().__init__(settings, **overrides)
        self._core = Core(self.settings)
        self._hints = Hinter(self.settings, self._keys)
        self._waiters = Waiters(self._client, self._keys, self._jobs, self._url)
        self._opening = threading.Lock()
        self._store: ObjectStore | None = None

    def close(self) -> None:
        """End waits and close connections."""
        self._hints.close()
        self._waiters.close()
        super().close()

    # --- enqueue ---

    def enqueue(
        self,
        request: Request,
        *,
        tenant: str | None = None,
        batch: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Receipt:
        """Accept one job durably. JobOptions says what it may carry.

        Raises InvalidRequest, UnknownPrice, IdempotencyConflict, BacklogFull, BatchSealed, StorageError.
        """
        params = self._core.params(options, self._clock())
        order = self._core.order(request, tenant=tenant, batch=batch, params=params)
        self._put_inputs((order.tenant, uri) for uri in order.uploads.values())
        with self._state():
            reply = run(self._client, "enqueue_jobs", self._keys.prefix, *order.arguments)
        return self._accepted(order, self._core.receipt(order, reply))

    def _accepted(self, order: Order, receipt: Receipt) -> Receipt:
        if receipt.disposition is Disposition.ENQUEUED:
            self._hints.hint(self._core.offer(order.model).lanes)
        return receipt

    def enqueue_many(
        self,
        items: Iterable[Item],
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
        """Accept any number of jobs from any iterable, in chunks; at most two chunks are in memory.

        An item is a request, or a pair (request, options): options are JobOptions and `tenant`, and override
        `defaults`. Bad items are rejected in the receipt and never stop the rest. With keep=False the receipt has
        counts only. `on_disposition` is called for every item, in order. The batch is sealed at the end unless
        seal=False, never if the iterable raises (what it gave since the last chunk is then not enqueued).

        Raises BacklogFull, BatchSealed, BatchCapsConflict, StateUnavailable or StorageError, each with `.receipt`: what was
        acknowledged. Run again with the same idempotency keys: what was accepted comes back as duplicates.
        """
        receipt = BatchReceipt(batch, self._core.retention)
        try:
            bulk = Bulk(
                self._core,
                receipt,
                tenant=tenant,
                batch_webhook=batch_webhook,
                batch_caps=batch_caps,
                defaults=defaults,
                now_ms=self._clock(),
                keep=keep,
                on_disposition=on_disposition,
            )
            self._check()
            with closing(Link(self._client)) as link:
                sender = Sender(bulk, link, self._keys.prefix, self._url, self._put_inputs, self._hints.hint)
                sender.send_all(items)
            if seal and batch is not None:
                for owner in receipt.tenants:
                    receipt.sealed |= self._close_batch(batch, owner) >= 0
        except DarkroomError as error:
            error.receipt = receipt
            raise
        return receipt

    def check_many(
        self,
        items: Iterable[Item],
        *,
        tenant: str | None = None,
        batch: str | None = None,
        batch_webhook: str | None = None,
        batch_caps: BatchCaps | None = None,
        on_disposition: Callable[[ItemReceipt], object] | None = None,
        **defaults: Unpack[JobDefaults],
    ) -> BatchReceipt:
        """Judge and price items as enqueue_many would, and enqueue nothing. No server is asked.

        `enqueued` counts the valid ones. Durations are counted from this machine's clock.
        """
        bulk = Bulk(
            self._core,
            BatchReceipt(batch, self._core.retention),
            tenant=tenant,
            batch_webhook=batch_webhook,
            batch_caps=batch_caps,
            defaults=defaults,
            now_ms=running_clock(time.time_ns() // 1_000_000),
            keep=False,
            on_disposition=on_disposition,
        )
        for item in items:
            if bulk.add(item):
                bulk.check()
        bulk.check()
        return bulk.receipt

    def _put_inputs(self, inputs: Iterable[tuple[str, DataUri]]) -> None:
        for tenant, uri in inputs:
            self._open_store().put_input(tenant, uri.payload, uri.media_type, uri.extension)

    def _open_store(self) -> ObjectStore:
        with self._opening:
            self._store = self._store or open_store(self.settings.storage)
            return self._store

    # --- wait ---

    @overload
    def wait(self, job_ids: str, timeout_s: float | None = None) -> Job: ...
    @overload
    def wait(self, job_ids: JobIds, timeout_s: float | None = None) -> list[Job]: ...
    def wait(self, job_ids: str | JobIds, timeout_s: float | None = None) -> Job | list[Job]:
        """Wait until the job has ended, or all of them have. Many threads may wait; together they use two connections.

        An unknown job has not ended. Raises TimeoutError, JobNotFound.
        """
        self._check()
        if isinstance(job_ids, str):
            return self._waiters.wait([job_ids], timeout_s)[0]
        return self._waiters.wait(job_ids, timeout_s)

    # --- change ---

    def cancel(self, job_id: str, *, by: str | None = None, why: str = "") -> CancelResult:
        """Cancel a job. With `by` or `why` it is somebody's decision, and in the audit; else a program takes its own back.

        Raises TransitionRefused for one with an unknown outcome.
        """
        note = decision("cancel", which_jobs([job_id]), by or OWNER, why) if by or why else None
        before = self._change(job_id, partial(plan_cancel, by=by or OWNER), note=note)
        return CancelResult(cancel_outcome(before), self.get(job_id))

    def resolve(self, job_id: str, generation_id: str, *, by: str | None = None, why: str = "") -> Job:
        """Attach the provider's generation to a job whose submit had an unknown outcome. Raises TransitionRefused."""
        found, note = check_generation_id(generation_id), decision("resolve", which_jobs([job_id]), by, why)
        self._change(job_id, partial(plan_resolve, generation_id=found, by=note.who), found, note)
        return self.get(job_id)

    def resubmit(self, job_id: str, *, by: str | None = None, why: str = "") -> Job:
        """Queue an unknown job again: a second charge is possible. Refused while its POST may be in flight."""
        now_ms, wait_ms = self.now_ms(), self._core.resubmit_wait_ms
        note = decision("resubmit", which_jobs([job_id]), by, why)
        plan = partial(plan_resubmit, by=note.who, now_ms=now_ms, wait_ms=wait_ms)
        before = self._change(job_id, plan, note=note)
        self._hints.hint(self._core.lanes(before.model))
        return self.get(job_id)

    def release(self, job_id: str, *, by: str | None = None, why: str = "") -> Job:
        """Give an unknown job up: it fails, and its money is free again. Raises TransitionRefused."""
        note = decision("release", which_jobs([job_id]), by, why)
        self._change(job_id, partial(plan_release, by=note.who), note=note)
        return self.get(job_id)

    def cancel_many(
        self, job_ids: Sequence[str], *, by: str | None = None, why: str = "", words: str = ""
    ) -> list[Cancelled]:
        """Cancel jobs as an operator, a few hundred at a time, and note it in the audit: who, how many, which and why.

        Each job has its own outcome; one with an unknown outcome is refused, as by `cancel`.
        """
        note = decision("cancel", which_jobs(job_ids, words), by, why)
        with self._state():
            changed = self._jobs.change_many(job_ids, partial(plan_cancel, by=note.who), note)
        return cancelled(job_ids, changed)

    def seal(self, name: str, tenant: str | None = None) -> bool:
        """Close a batch to further jobs; False if it was sealed already. Raises BatchNotFound."""
        check_name("batch", name)
        done = self._close_batch(name, self._core.tenant(tenant))
        if done < 0:
            raise BatchNotFound(name)
        return bool(done)

    def _close_batch(self, name: str, tenant: str) -> int:
        arguments = (context_json(self.settings.limits), tenant, name, "seal")
        with self._state():
            return int(run(self._client, "close_batch", self._keys.prefix, *arguments))

    def _change(
        self,
        job_id: str,
        plan: Callable[[Job], Transition | None],
        generation_id: str = "",
        note: AuditNote | None = None,
    ) -> Job:
        """Apply a plan; give the job as it was before."""
        with self._state():
            before, applied = self._jobs.change(job_id, plan, note)
        check_applied(job_id, applied, generation_id)
        return before

    # --- the server ---

    def _clock(self) -> Callable[[], int]:
        """Give a clock that asks the server once, and only if it is needed."""
        started: list[Callable[[], int]] = []

        def now_ms() -> int:
            if not started:
                started.append(running_clock(self.now_ms()))
            return started[0]()

        return now_ms
