"""What `darkroom top` shows: the overview, with queues, stages and caps. Bounded, whatever the number of jobs.

Three pipelines of a few commands per lane, model and shown tenant: sizes and heads of sorted sets, never their
contents. Tenants are at most MOST_TENANTS per model; what was left out is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from producers.overview import Overview, parse_overview, queue_overview
from producers.parties import EndpointUse, WorkerUse, queue_endpoints, read_parties
from producers.store_caps import cap_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from shared.redis.keys import Keys
    from shared.settings import Settings

MOST_TENANTS: Final = 20  # per model: what a screen has room for


@dataclass(frozen=True, slots=True)
class LaneUse:
    """POSTs without an answer yet, and the limits of the lane. submit_per_s and poll_per_s: 0 is unlimited."""

    name: str
    posts: int
    posts_limit: int
    slots_limit: int
    submit_per_s: float
    poll_per_s: float


@dataclass(frozen=True, slots=True)
class QueueUse:
    """One tenant's queued jobs of a model. `next_age_ms` is the age of the job that is next in its turn.

    With equal priorities that is the oldest. `parked` is set while the queue waits, and `reason` says for what: `cap`,
    or `paused` by hand.
    """

    model: str
    tenant: str
    depth: int
    parked: bool
    next_age_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StageUse:
    """Entries of a stage whose time has come and that no worker has taken; how long the first has been due."""

    stage: str
    lane: str
    due: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class SpendUse:
    """Spent and held of a scope in this window (UTC), in micros; limit_micros is None if nothing limits it.

    `held_micros` is what its jobs hold now: part of used_micros, but for holds of an earlier window.
    """

    scope: str
    window: str
    currency: str
    used_micros: int
    limit_micros: int | None
    held_micros: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """All of it.

    `left_out` tells, by model, how many tenants with a queue are not shown; `endpoints` and `workers` are the first
    of `endpoint_count` and of the overview's workers.
    """

    overview: Overview
    lanes: tuple[LaneUse, ...]
    queues: tuple[QueueUse, ...]
    stages: tuple[StageUse, ...]
    spend: tuple[SpendUse, ...]
    left_out: dict[str, int]
    workers: tuple[WorkerUse, ...] = ()
    endpoints: tuple[EndpointUse, ...] = ()
    endpoint_count: int = 0


def read_vitals(client: Redis, keys: Keys, settings: Settings) -> Vitals:
    """Read it all. Raises RedisError or OSError."""
    models = sorted(settings.models)
    pipe = client.pipeline(transaction=False)
    lanes = queue_overview(pipe, keys, settings)
    for model in models:
        for name in (keys.ready(model), keys.index(f"parked:{model}")):
            pipe.zrange(name, 0, MOST_TENANTS - 1)
            pipe.zcard(name)
    queue_endpoints(pipe, keys)
    *replies, hosts, endpoint_count = pipe.execute()
    split = len(replies) - 4 * len(models)
    overview = parse_overview(lanes, replies[:split], settings)
    waiting, left_out = _waiting(models, replies[split:])
    names = [f"{account}/{model}" for account, model in lanes]
    sizes = _sizes(client, keys, settings, names, waiting, overview.at_ms)
    parties = read_parties(client, keys, overview.workers, [host.decode() for host in hosts], overview.at_ms)
    return Vitals(
        overview=overview,
        lanes=tuple(_lane(name, count, settings) for name, count in zip(names, sizes.posts, strict=True)),
        queues=_aged(client, keys, sizes.queues, overview.at_ms),
        stages=sizes.stages,
        spend=sizes.spend,
        left_out=left_out,
        workers=parties.workers,
        endpoints=parties.endpoints,
        endpoint_count=endpoint_count,
    )


def _waiting(
    models: Sequence[str], replies: Sequence[Any]
) -> tuple[list[tuple[str, str, bool]], dict[str, int]]:
    """Give (model, tenant, parked) of the queues to show, and how many are not."""
    found: list[tuple[str, str, bool]] = []
    left_out = {}
    for at, model in enumerate(models):
        ready, ready_count, parked, parked_count = replies[4 * at : 4 * at + 4]
        rows = [(model, name.decode(), False) for name in ready]
        rows += [(model, name.decode(), True) for name in parked]
        found += rows[:MOST_TENANTS]
        if (missing := ready_count + parked_count - len(rows[:MOST_TENANTS])) > 0:
            left_out[model] = missing
    return found, left_out


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the second trip reads; a queue with the id of the job at its head."""

    posts: list[int]
    stages: tuple[StageUse, ...]
    queues: list[tuple[QueueUse, bytes | None]]
    spend: tuple[SpendUse, ...]


def _sizes(
    client: Redis,
    keys: Keys,
    settings: Settings,
    lanes: Sequence[str],
    waiting: Sequence[tuple[str, str, bool]],
    now_ms: int,
) -> _Sizes:
    """Read POSTs per lane, stages, queues with the job at their head, and spending."""
    places = [(stage, lane) for stage in ("submit", "poll") for lane in lanes] + [
        ("store", ""),
        ("notify", ""),
    ]
    caps = cap_rows(settings, now_ms)
    pipe = client.pipeline(transaction=False)
    for lane in lanes:
        pipe.zcard(keys.index(f"intents:{lane}"))
    for stage, lane in places:
        index = keys.index(f"{stage}:{lane}" if lane else stage)
        pipe.zcount(index, "-inf", now_ms)
        pipe.zrange(index, 0, 0, withscores=True)
    for model, tenant, _ in waiting:
        pipe.zcard(keys.queue(model, tenant))
        pipe.zrange(keys.queue(model, tenant), 0, 0)
        pipe.hget(keys.parked, f"{model}|{tenant}")
    if caps:
        pipe.hmget(keys.usage, [row.field for row in caps])
        for row in caps:
            pipe.hget(getattr(keys, row.held_in), row.held_field)
    replies = iter(pipe.execute())
    posts = [next(replies) for _ in lanes]
    stages = tuple(_stage(*place, next(replies), next(replies), now_ms) for place in places)
    queues = [_queue(*each, next(replies), next(replies), next(replies)) for each in waiting]
    used = next(replies) if caps else []
    spend = tuple(
        SpendUse(
            row.scope,
            row.window,
            row.currency,
            int(micros or 0),
            row.limit_micros,
            max(0, int(next(replies) or 0)),
        )
        for row, micros in zip(caps, used, strict=True)
    )
    return _Sizes(posts, stages, queues, spend)


def _stage(stage: str, lane: str, due: int, first: Sequence[tuple[bytes, float]], now_ms: int) -> StageUse:
    """Say how late it is: what is leased is not due, since its score is the end of the lease."""
    return StageUse(stage, lane, due, max(0, int(now_ms - first[0][1])) if first else 0)


def _queue(
    model: str, tenant: str, parked: bool, depth: int, head: Sequence[bytes], why: bytes | None
) -> tuple[QueueUse, bytes | None]:
    reason = why.decode().partition("|")[0] if parked and why else ""
    return QueueUse(model, tenant, depth, parked, reason=reason), head[0] if head else None


def _aged(
    client: Redis, keys: Keys, sized: Sequence[tuple[QueueUse, bytes | None]], now_ms: int
) -> tuple[QueueUse, ...]:
    """Add ages; a queue that was emptied in the meantime has none, and is left out."""
    pipe = client.pipeline(transaction=False)
    filled = [(queue, head) for queue, head in sized if head is not None]
    for _, head in filled:
        pipe.hget(keys.job(head.decode()), "created_at")
    aged = []
    for (queue, _), created_at in zip(filled, pipe.execute(), strict=True):
        age = max(0, now_ms - int(created_at)) if created_at else None
        aged.append(replace(queue, next_age_ms=age))
    return tuple(sorted(aged, key=lambda each: (-each.depth, each.model, each.tenant)))


def _lane(name: str, posts: int, settings: Settings) -> LaneUse:
    account = settings.accounts[name.partition("/")[0]]
    return LaneUse(
        name=name,
        posts=posts,
        posts_limit=account.max_outstanding_posts,
        slots_limit=account.max_in_flight,
        submit_per_s=account.submit_per_s,
        poll_per_s=account.poll_per_s,
    )
