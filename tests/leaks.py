"""Keys nobody owns: in production they would stay for ever, so a test that leaves one fails.

A key is right if it has a TTL, or if an owner says that it may live without one. Owners are patterns relative to
the namespace: those of `PERMANENT` always, and those that `living` finds for jobs, deliveries and batches not ended.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from glob import escape
from typing import TYPE_CHECKING, Final

from shared.jobs.lifecycle import TERMINAL, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import redis

    from shared.redis.keys import Keys

# One per installation or lane, or empty (and so gone) when nothing waits in it: they do not grow with the jobs done.
PERMANENT: Final = (
    "control", "audit", "counts", "ledger", "balances", "opening", "closed", "usage", "orphans", "workers", "losses", "lanes",
    "lane:*", "q:*", "ready:*", "slots:*", "z:*", "endpoints", "ew:*", "ef:*",
)  # fmt: skip


def assert_no_orphan_keys(client: redis.Redis, namespace: str, allowed: Iterable[str]) -> None:
    """Fail if a key of the namespace has neither a TTL nor an owner. `allowed` are patterns beside `PERMANENT`."""
    prefix = f"{{{namespace}}}:"
    patterns = {*PERMANENT, *allowed}
    wild = [
        pattern for pattern in patterns if set(pattern) & set("*?[")
    ]  # thousands of jobs have a name each
    orphans = [
        name
        for name in _without_ttl(client, prefix)
        if (own := name.removeprefix(prefix)) not in patterns
        and not any(fnmatchcase(own, pattern) for pattern in wild)
    ]
    assert not orphans, f"{len(orphans)} keys have neither a TTL nor an owner: {sorted(orphans)[:10]}"


def living(client: redis.Redis, keys: Keys) -> Iterator[str]:
    """Give patterns of the keys that jobs, deliveries and batches own which have not ended."""
    for kind in "jdb":
        for raw in client.scan_iter(match=f"{keys.prefix}{kind}:*", count=1000):
            ident = _text(raw).removeprefix(f"{keys.prefix}{kind}:")
            record = {_text(key): _text(value) for key, value in client.hgetall(raw).items()}
            yield from _owned(kind, ident, record)


def _owned(kind: str, ident: str, record: dict[str, str]) -> Iterator[str]:
    match kind:
        case "j" if record.get("state") not in TERMINAL or record.get("accounting") == "open":
            yield from (f"{part}:{escape(ident)}" for part in "jrxt")
            yield escape(f"i:{record.get('tenant')}:{record.get('idempotency')}")
        case "d" if record.get("state") == DeliveryState.PENDING:
            yield escape(f"d:{ident}")
        case "b" if (
            "completed_at" not in record
            or record.get("done") != record.get("total")
            or int(record.get("held_micros", "0"))
        ):
            yield escape(f"b:{ident}")
            yield escape(f"bj:{ident}")
            yield f"aside:*:{escape(ident)}"
        case _:
            return


def _without_ttl(client: redis.Redis, prefix: str) -> Iterator[str]:
    for key in client.scan_iter(match=f"{prefix}*", count=1000):
        if client.pttl(key) == -1:
            yield _text(key)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
