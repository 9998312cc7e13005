"""The ledger's stream: whether days that are over are closed, before they fill the state server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from producers.doctor.findings import beware, good
from shared.money.entry import parse_entry

if TYPE_CHECKING:
    from redis import Redis

    from producers.doctor.findings import Finding
    from shared.redis.keys import Keys

OLD_DAYS: Final = 35  # a monthly close is in time
_DAY_MS: Final = 86_400_000


def judge_ledger(client: Redis, keys: Keys) -> Finding:
    """Read how old the oldest entry is, and how many there are. Raises what the client raises."""
    pipe = client.pipeline(transaction=False)
    pipe.xrange(keys.ledger, count=1)
    pipe.xlen(keys.ledger)
    pipe.time()
    rows, entries, (seconds, _) = pipe.execute()
    return judge_age(_at_ms(rows), entries, int(seconds) * 1000)


def _at_ms(rows: list[Any]) -> int | None:
    return parse_entry(*rows[0]).at_ms if rows else None


def judge_age(oldest_ms: int | None, entries: int, now_ms: int) -> Finding:
    """Judge it: pure."""
    days = 0 if oldest_ms is None else max(0, now_ms - oldest_ms) // _DAY_MS
    what = f"the ledger has {entries} entries in it, the oldest {days} days old"
    if days <= OLD_DAYS:
        return good("state", what)
    return beware(
        "state", what, "Run `darkroom ledger close`, and let cron run it daily: entries take memory."
    )
