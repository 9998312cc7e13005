"""The state of the whole, as `darkroom status` shows it: lanes, counts, workers, what needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from producers.freezes import FIELDS as FREEZE_FIELDS
from producers.freezes import Freeze, parse_freeze
from producers.pauses import Pause, parse_pauses
from producers.store_trouble import FIELDS as STORE_FIELDS
from producers.store_trouble import StoreTrouble, parse_store_trouble
from shared.jobs.commands import PAUSED
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.redis.keys import Keys
    from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane. Instants are unix ms; `submitting` are jobs held by a worker, `in_flight` slots in use.

    `blocked` is why submits are paused (such as invalid_api_key), since `blocked_at`; `ambiguous` counts POSTs in a
    row whose outcome is unknown: from `breaker` on, only one probe goes out at a time.
    """

    name: str
    submitting: int
    in_flight: int
    polling: int
    waiting: int
    throttled: int
    ambiguous: int
    breaker: int
    blocked: str | None = None
    blocked_at: int | None = None
    closed_until: int | None = None
    probe_at: int | None = None
    paused_at: int | None = None
    paused_by: str = ""
    paused_why: str = ""

    def condition(self, now_ms: int) -> str:
        """Say in one word how it is: open, paused (by hand), blocked, closed (throttled by the provider), probing."""
        if self.paused_at is not None:
            return "paused"
        if self.blocked is not None:
            return "blocked"
        if self.closed_until is not None and self.closed_until > now_ms:
            return "closed"
        return "probing" if self.ambiguous >= self.breaker else "open"


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, at `at_ms` of the state server.

    `losses`: stores that workers found emptied or replaced, and that nobody has looked into; `newer`: records of a later
    version that workers left alone in the last minute. `paused` has tenants and batches that somebody paused,
    `paused_jobs` counts single jobs; lanes say it themselves. `store_trouble` is set while it stops submits.
    """

    at_ms: int
    counts: Mapping[str, int]
    lanes: tuple[LaneStatus, ...]
    workers: tuple[str, ...]
    unknown: int
    open_batches: int
    deliveries: int
    orphans: int
    frozen: Freeze | None
    losses: int = 0
    newer: int = 0
    paused: tuple[Pause, ...] = ()
    paused_jobs: int = 0
    store_trouble: StoreTrouble | None = None


def queue_overview(pipe: Any, keys: Keys, settings: Settings) -> list[tuple[str, str]]:
    """Put the reads into a pipeline; give the lanes they are of."""
    lanes = [(name, model) for name, account in settings.accounts.items() for model in account.models]
    pipe.time()
    pipe.hmget(keys.counts, [f"*|{state}" for state in JobState])  # of all: the hash grows with the tenants
    pipe.zrange(keys.workers, 0, -1, withscores=True)
    pipe.zcard(keys.index("unknown"))
    pipe.zcard(keys.index("batches"))
    pipe.zcard(keys.index("notify"))
    pipe.hlen(keys.orphans)
    pipe.hmget(keys.control, FREEZE_FIELDS)
    pipe.hvals(keys.losses)
    pipe.zcard(keys.index("newer"))
    pipe.hgetall(keys.paused)  # as many as people paused by hand
    pipe.zcard(keys.index(PAUSED))
    pipe.hmget(keys.control, STORE_FIELDS)
    pipe.zrange(keys.index("store"), 0, 0, withscores=True)
    for account, model in lanes:
        lane = f"{account}/{model}"
        pipe.hgetall(keys.lane(lane))
        pipe.zcard(keys.index(f"submit:{lane}"))
        pipe.zcard(keys.slots(lane))
        pipe.zcard(keys.index(f"poll:{lane}"))
        pipe.zcard(keys.index(f"later:{model}"))
    return lanes


def parse_overview(lanes: Sequence[tuple[str, str]], replies: Sequence[Any], settings: Settings) -> Overview:
    """Read the pipeline's replies."""
    (seconds, micros), counts, workers, unknown, batches, notify, orphans, freeze, *more = replies[:14]
    losses, newer, paused, paused_jobs, noted, first = more
    now_ms = seconds * 1000 + micros // 1000
    alive_since = now_ms - settings.worker.lease_s * 1000
    return Overview(
        at_ms=now_ms,
        counts={state: max(0, int(found or 0)) for state, found in zip(JobState, counts, strict=True)},
        lanes=tuple(
            _lane(f"{account}/{model}", replies[14 + 5 * at : 19 + 5 * at], settings)
            for at, (account, model) in enumerate(lanes)
        ),
        workers=tuple(name.decode() for name, seen_at in workers if seen_at >= alive_since),
        unknown=unknown,
        open_batches=batches,
        deliveries=notify,
        orphans=orphans,
        frozen=parse_freeze(freeze),
        losses=losses.count(b"open"),
        newer=newer,
        paused=parse_pauses(paused),
        paused_jobs=paused_jobs,
        store_trouble=parse_store_trouble(noted, first, now_ms, int(settings.worker.store_trouble_s * 1000)),
    )


def _lane(name: str, replies: Sequence[Any], settings: Settings) -> LaneStatus:
    record, submitting, slots, polling, waiting = replies

    def number(field: str) -> int | None:
        value = record.get(field.encode())
        return int(float(value)) if value is not None else None

    blocked = record.get(b"blocked")
    return LaneStatus(
        name=name,
        submitting=submitting,
        in_flight=slots,
        polling=polling,
        waiting=waiting,
        throttled=number("throttled") or 0,
        ambiguous=number("ambiguous") or 0,
        breaker=settings.worker.breaker_ambiguous,
        blocked=blocked.decode() if blocked is not None else None,
        blocked_at=number("blocked_at"),
        paused_at=number("paused_at"),
        paused_by=record.get(b"paused_by", b"").decode(),
        paused_why=record.get(b"paused_why", b"").decode(),
        closed_until=number("closed_until"),
        probe_at=number("probe_at"),
    )
