"""Claiming due work: typed calls of `claim_submit.lua` and `claim_due.lua`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from shared.jobs.lifecycle import JobState
from shared.jobs.schema import SCHEMA
from shared.redis.scripts import run_async
from workers import metrics
from workers.lanes import Lane, interval_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.asyncio import Redis

    from shared.redis.keys import Keys
    from shared.settings import WorkerSettings

SUBMIT_FIELDS: Final = (
    "epoch", "state", "tenant", "n", "attempts", "requeues", "resubmits", "suspect", "deaths", "intent_id",
    "on_unknown", "sequential", "model", "created_at", "redriven", "deadline_at",
)  # fmt: skip
JOB_FIELDS: Final = (
    "epoch", "state", "tenant", "n", "hold", "polls", "tries", "suspect", "deaths", "intent_id", "generation_id",
    "submitted_at", "generated_at", "sequential", "model", "lane", "created_at", "cost_micros", "currency",
    "empty_polls", "redriven",
)  # fmt: skip
DELIVERY_FIELDS: Final = (
    "epoch",
    "state",
    "event",
    "tenant",
    "job",
    "batch",
    "attempts",
    "created_at",
    "deaths",
    "waits_at",
)
STUCK_INTENT_MS: Final = 10_000  # five intents older than this open the breaker
POISON_DEATHS: Final = 3
STORE_PROBE_MS: Final = 30_000  # without news of an object store that failed, one job goes to try it
# The least time without a sign of any worker that means an outage, or a step of the clock.
GAP_MS: Final = 3000
GRACE_MS: Final = 5000  # the least that holders of leases get after it
AHEAD_US: Final = (
    50_000  # permits are given out so long before their moments: the lateness that costs no permit
)


@dataclass(frozen=True)  # without slots: `request` is kept where cached_property puts it
class Entry:
    """One claimed job or delivery: this process may work on it while it holds the lease under this epoch."""

    id: str
    index: str
    kind: str
    epoch: int
    fields: dict[str, str] = field(repr=False)
    spec: bytes = field(default=b"", repr=False)
    detail: tuple[bytes | None, ...] = field(default=(), repr=False)
    subject: Sequence[Any] = field(default=(), repr=False)
    expired: bool = False
    now_ms: int = 0
    starts_in_s: float = 0  # from the claim: the moment of its permit
    claimed_at: float = field(default_factory=time.monotonic, repr=False, compare=False)  # monotonic clock

    def number(self, name: str) -> int:
        return int(self.fields.get(name) or 0)

    @cached_property
    def request(self) -> Mapping[str, Any]:
        """What the job asks for, as its spec has it; empty for a claim that came without a spec."""
        asked: dict[str, Any] = from_json(self.spec)["request"] if self.spec else {}
        return asked

    @property
    def suspect(self) -> bool:
        return self.fields.get("suspect") == "1"

    @property
    def poisoned(self) -> bool:
        return self.number("deaths") >= POISON_DEATHS


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to one claim. next_in_ms is -1 when only an event can bring more; paced: a rate decides it."""

    next_in_ms: int
    reason: str
    entries: tuple[Entry, ...]
    paced: bool = False


class Claims:
    """Claims for one worker process."""

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        settings: WorkerSettings,
        worker: str,
        mark: Callable[[], str] = lambda: "",
        *,
        stores: bool = True,
    ) -> None:
        """`mark` gives that of the state server's data which this process knows; "" does not ask for any.

        `stores`: whether images are kept, so that submits wait while the object store is in trouble.
        """
        self._client, self._keys, self._settings, self._worker = client, keys, settings, worker
        self._mark, self._lease = mark, lease_arguments(settings)
        lag_ms = int(settings.store_trouble_s * 1000)
        self._store = {"lag_ms": lag_ms, "probe_ms": STORE_PROBE_MS} if stores else None

    async def submit(self, lane: Lane, k: int, *, suspects: bool) -> Claim:
        """Take up to k queued jobs that the lane's permits, slots and POST places allow."""
        account = lane.settings
        question = {
            "lane": lane.name,
            "model": lane.model,
            "account": lane.account,
            "worker": self._worker,
            "k": k,
            "interval_us": interval_us(account.submit_per_s),
            "burst": account.submit_burst,
            "ahead_us": AHEAD_US,
            "max_posts": account.max_outstanding_posts,
            "max_slots": account.max_in_flight,
            "price_micros": lane.price_micros,
            "currency": lane.currency,
            "breaker": self._settings.breaker_ambiguous,
            "probe_ms": int(self._settings.breaker_probe_s * 1000),
            "stuck_ms": STUCK_INTENT_MS,
            "suspects": int(suspects),
            "before": JobState.QUEUED,
            "after": JobState.SUBMITTING,
            "fields": SUBMIT_FIELDS,
            "mark": self._mark(),
        }
        if self._store is not None:
            question["store"] = self._store
        if lane.caps is not None:
            question["caps"] = lane.caps
        next_in, now, reason, *rows = await self._run("claim_submit", question)
        index = f"submit:{lane.name}"
        entries = (
            _entry(
                row[0],
                index,
                "j",
                SUBMIT_FIELDS,
                row[2],
                now,
                expired=bool(row[1]),
                spec=row[3],
                starts_in_s=row[4] / 1e6,
            )
            for row in rows
        )
        claim = Claim(next_in, reason.decode(), tuple(entries), paced=account.submit_per_s > 0)
        _count_permits(lane.name, claim)
        return claim

    async def poll(self, lane: Lane, k: int, *, suspects: bool) -> Claim:
        """Take up to k generations whose poll is due and permitted."""
        rate = (f"poll:{lane.account}", interval_us(lane.settings.poll_per_s), lane.settings.poll_burst)
        claim = await self._due(f"poll:{lane.name}", "j", JOB_FIELDS, k, rate, suspects=suspects)
        if claim.entries:
            metrics.count(metrics.PERMITS_USED, "poll", lane.name, by=len(claim.entries))
        return claim

    async def store(self, k: int, *, suspects: bool) -> Claim:
        """Take up to k jobs whose images are to be copied; their detail is (urls, artifacts)."""
        detail = ("urls", "artifacts")
        return await self._due(
            "store", "j", JOB_FIELDS, k, ("", 0, 1), detail=detail, spec=True, suspects=suspects
        )

    async def notify(self, k: int, *, suspects: bool) -> Claim:
        """Take up to k due deliveries with what they tell of."""
        return await self._due("notify", "d", DELIVERY_FIELDS, k, ("", 0, 1), suspects=suspects)

    async def _due(
        self,
        index: str,
        kind: str,
        fields: tuple[str, ...],
        k: int,
        rate: tuple[str, int, int],
        *,
        suspects: bool,
        detail: tuple[str, ...] = (),
        spec: bool = False,
    ) -> Claim:
        question = {
            "index": index,
            "kind": kind,
            "worker": self._worker,
            "k": k,
            "suspects": int(suspects),
            "rate_key": rate[0],
            "interval_us": rate[1],
            "burst": rate[2],
            "fields": fields,
            "detail": detail,
            "spec": spec,
        }
        next_in, now, *rows = await self._run("claim_due", question)
        entries = (
            _entry(
                row[0], index, kind, fields, row[1], now, detail=tuple(row[2]), subject=row[3], spec=row[4]
            )
            for row in rows
        )
        return Claim(next_in, "", tuple(entries), paced=rate[1] > 0)

    async def _run(self, name: str, question: dict[str, Any]) -> Any:
        return await run_async(self._client, name, self._keys.prefix, to_json(question | self._lease))


def lease_arguments(settings: WorkerSettings) -> dict[str, int]:
    """Give what scripts need to know of leases and records: for how long, what a gap is, and which version we are."""
    lease_ms = int(settings.lease_s * 1000)
    return {
        "lease_ms": lease_ms,
        "gap_ms": max(lease_ms // 2, GAP_MS),
        "grace_ms": max(lease_ms, GRACE_MS),
        "schema": SCHEMA,
    }


def _count_permits(lane: str, claim: Claim) -> None:
    used = sum(not entry.expired for entry in claim.entries)
    if used:
        metrics.count(metrics.PERMITS_USED, "submit", lane, by=used)
    elif claim.reason != "idle":
        metrics.count(metrics.PERMITS_REFUSED, lane, claim.reason)


def _entry(
    entry_id: bytes,
    index: str,
    kind: str,
    names: tuple[str, ...],
    values: Sequence[bytes | None],
    now_ms: int,
    **more: Any,
) -> Entry:
    fields = {name: value.decode() for name, value in zip(names, values, strict=True) if value is not None}
    return Entry(entry_id.decode(), index, kind, int(fields["epoch"]), fields, now_ms=now_ms, **more)
