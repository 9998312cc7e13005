"""Who takes part: the workers that are alive, and the webhook endpoints where deliveries wait. Bounded reads.

A delivery that succeeds at its first try is never entered at an endpoint, so what is shown is what is late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from shared.redis.keys import Keys

MOST_ENDPOINTS: Final = 20
MOST_WORKERS: Final = 50
WORKER_FIELDS: Final = ("host", "pid", "since", "version", "stages", "held")
DELIVERY_FIELDS: Final = ("attempts", "last_status")


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """One living worker process. `since_at` (unix ms) and the rest are None or empty while it has not said them.

    `seen_ms` is the age of its last sign of life; `in_flight` what it held a few seconds ago, by stage.
    """

    name: str
    seen_ms: int
    host: str = ""
    pid: int | None = None
    since_at: int | None = None
    version: str = ""
    stages: tuple[str, ...] = ()
    in_flight: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """Deliveries that wait at one host for another try, how many of them failed before, the age of the oldest.

    `last_status` and `tries` are those of the oldest that failed; `next_ms` is the time until its next try.
    """

    host: str
    waiting: int
    failing: int = 0
    oldest_ms: int = 0
    last_status: str = ""
    tries: int = 0
    next_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Parties:
    """Both, as far as they are read."""

    workers: tuple[WorkerUse, ...]
    endpoints: tuple[EndpointUse, ...]


def read_parties(
    client: Redis, keys: Keys, names: Sequence[str], hosts: Sequence[str], now_ms: int
) -> Parties:
    """Read what workers say of themselves, and how endpoints stand; two trips, the second only for what fails."""
    names = names[:MOST_WORKERS]
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hmget(keys.worker(name), WORKER_FIELDS)
        pipe.zscore(keys.workers, name)
    for host in hosts:
        _queue_endpoint(pipe, keys, host)
    replies = pipe.execute()
    workers = tuple(
        _worker(name, now_ms - int(replies[2 * at + 1] or now_ms), replies[2 * at])
        for at, name in enumerate(names)
    )
    rest = replies[2 * len(names) :]
    found = [_endpoint(host, rest[4 * at : 4 * at + 4], now_ms) for at, host in enumerate(hosts)]
    failed = [event_id for _, event_id in found if event_id is not None]
    for event_id in failed:
        _queue_reason(pipe, keys, event_id)
    why = iter(pipe.execute() if failed else ())
    endpoints = (
        use if event_id is None else _with_reason(use, (next(why), next(why)), now_ms)
        for use, event_id in found
    )
    return Parties(workers, tuple(use for use in endpoints if use.waiting))


def _worker(name: str, seen_ms: int, values: Sequence[bytes | None]) -> WorkerUse:
    """Read the record of a worker: WORKER_FIELDS, each of which may be missing."""
    host, pid, since, version, stages, held = ("" if each is None else each.decode() for each in values)
    pairs = (each.partition("=") for each in held.split())
    return WorkerUse(
        name=name,
        seen_ms=max(0, seen_ms),
        host=host,
        pid=int(pid) if pid else None,
        since_at=int(since) if since else None,
        version=version,
        stages=tuple(stages.split()),
        in_flight={stage: int(count) for stage, _, count in pairs},
    )


def queue_endpoints(pipe: Any, keys: Keys) -> None:
    """Ask which endpoints have deliveries waiting: two replies."""
    pipe.zrevrange(keys.endpoints, 0, MOST_ENDPOINTS - 1)
    pipe.zcard(keys.endpoints)


def _queue_endpoint(pipe: Any, keys: Keys, host: str) -> None:
    """Ask how one endpoint stands: four replies."""
    pipe.zcard(keys.waiting(host))
    pipe.zcard(keys.failing(host))
    pipe.zrange(keys.waiting(host), 0, 0, withscores=True)
    pipe.zrange(keys.failing(host), 0, 0)


def _endpoint(host: str, replies: Sequence[Any], now_ms: int) -> tuple[EndpointUse, str | None]:
    """Read the replies; give the oldest delivery that failed, too, which says why."""
    waiting, failing, oldest, first = replies
    age = max(0, now_ms - int(oldest[0][1])) if oldest else 0
    return EndpointUse(host, waiting, failing, age), first[0].decode() if first else None


def _queue_reason(pipe: Any, keys: Keys, event_id: str) -> None:
    """Ask what became of a delivery: two replies."""
    pipe.hmget(keys.delivery(event_id), DELIVERY_FIELDS)
    pipe.zscore(keys.index("notify"), event_id)


def _with_reason(use: EndpointUse, replies: Sequence[Any], now_ms: int) -> EndpointUse:
    """Add what the oldest failed delivery says."""
    (attempts, last), due_at = replies
    return EndpointUse(
        use.host,
        use.waiting,
        use.failing,
        use.oldest_ms,
        "" if last is None else last.decode(),
        int(attempts or 0),
        None if due_at is None else max(0, int(due_at) - now_ms),
    )
