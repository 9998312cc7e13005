"""Looking at what is due, without taking it: the pacemaker's and the producers' question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.redis.scripts import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from shared.redis.keys import Keys


@dataclass(frozen=True, slots=True)
class Look:
    """One place where work waits. lane is `account/model`, or "" for store and notify."""

    stage: str
    lane: str
    model: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What waits there. next_in_ms is -1 when nothing does."""

    look: Look
    hints: int
    due: int
    next_in_ms: int


def look(
    client: Redis,
    keys: Keys,
    looks: Sequence[Look],
    *,
    worker: str,
    alive_ms: int,
    hint_ttl_ms: int,
    k: int,
    sweep: bool,
) -> tuple[int, bool, list[Seen]]:
    """Give the number of living workers, whether the caller is elected to sweep, and what waits at each look."""
    where = [part for each in looks for part in (each.stage, each.lane, each.model)]
    reply = run(client, "look", keys.prefix, worker, alive_ms, hint_ttl_ms, k, int(sweep), *where)
    seen = [Seen(each, *reply[2 + 3 * at : 5 + 3 * at]) for at, each in enumerate(looks)]
    return reply[0], bool(reply[1]), seen
