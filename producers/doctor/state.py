"""The state Redis, as it answers and as it is set up: whether it may hold the truth, and for how long."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from producers.doctor.findings import bad, beware, good

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis import Redis

    from producers.doctor.findings import Finding

OLDEST: Final = (7, 0)
SKEW_MS: Final = 2000
SLOW_MS: Final = 10
FULL: Final = 0.75
_PINGS: Final = 7
_CONFIG: Final = "Put it into the server's configuration, too."


@dataclass(frozen=True, slots=True)
class StateFacts:
    """`info` is INFO; `config` what CONFIG GET gives, None where a managed server hides it.

    `skew_ms` is the server's clock minus this machine's; `latency_ms` the median of some pings.
    """

    info: Mapping[str, Any]
    config: Mapping[str, str] | None
    skew_ms: float
    latency_ms: float


def read_state(client: Redis) -> StateFacts:
    """Ask the server. Raises what the client raises."""
    latencies = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        client.ping()
        latencies.append(1000 * (time.perf_counter() - started))
    before = time.time()
    clock: Any = client.time()
    between = (before + time.time()) / 2
    info: Any = client.info()
    return StateFacts(
        info=info,
        config=_config(client),
        skew_ms=1000 * (clock[0] + clock[1] / 1e6 - between),
        latency_ms=statistics.median(latencies),
    )


def _config(client: Redis) -> dict[str, str] | None:
    try:
        found: Any = client.config_get("*append*", "maxmemory*", "save")
    except ResponseError:
        return None
    return {_text(name): _text(value) for name, value in found.items()} or None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def judge_state(facts: StateFacts, *, strict: bool) -> Iterator[Finding]:
    """Judge what was read. `strict`: settings demand that every write is on disk before it is answered."""
    yield from _version(facts.info)
    yield from _role(facts.info)
    yield from _policy(facts)
    yield from _persistence(facts, strict=strict)
    yield from _last_saves(facts.info)
    yield from _memory(facts.info)
    yield from _clock(facts.skew_ms)
    yield from _latency(facts.latency_ms)


def _version(info: Mapping[str, Any]) -> Iterator[Finding]:
    text = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {text}"
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        yield bad("state", f"{name} is too old", "Use Redis 7.0 or later, or Valkey.")
    else:
        yield good("state", f"{name} answers")


def _role(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("role") in ("slave", "replica"):
        yield bad("state", "it is a replica, which takes no writes", "Point redis.url at the primary.")


def _policy(facts: StateFacts) -> Iterator[Finding]:
    policy = (facts.config or {}).get("maxmemory-policy") or facts.info.get("maxmemory_policy")
    if policy is None:
        what = "its maxmemory-policy cannot be read: whether it evicts keys, and so loses jobs, is not known"
        yield beware("state", what, "Make sure with its provider that it is noeviction.")
    elif policy != "noeviction":
        do = f"Run `redis-cli CONFIG SET maxmemory-policy noeviction`. {_CONFIG}"
        yield bad("state", f"it evicts keys (maxmemory-policy {policy}), which loses jobs", do)
    else:
        yield good("state", "it evicts nothing (maxmemory-policy noeviction)")


def _persistence(facts: StateFacts, *, strict: bool) -> Iterator[Finding]:
    fsync = (facts.config or {}).get("appendfsync")
    if not int(facts.info.get("aof_enabled", 0)):
        saves = (facts.config or {}).get("save", "")
        what = f"it has no append-only file: a crash loses {'what came since the last snapshot' if saves else 'every job'}"
        yield bad("state", what, f"Run `redis-cli CONFIG SET appendonly yes`. {_CONFIG}")
    elif fsync is None:
        what = "it has an append-only file; how often that is synced cannot be read"
        yield beware("state", what, "Make sure with its provider that it is everysec or always.")
    elif fsync == "no":
        what = (
            "it leaves syncing to the system (appendfsync no): a power loss costs up to half a minute of jobs"
        )
        yield bad("state", what, f"Run `redis-cli CONFIG SET appendfsync everysec`. {_CONFIG}")
    elif strict and fsync != "always":
        what = f"durability is strict, and appendfsync is {fsync}: clients and workers refuse to start"
        yield bad("state", what, f"Run `redis-cli CONFIG SET appendfsync always`. {_CONFIG}")
    else:
        yield good("state", f"it writes an append-only file (appendfsync {fsync})")


def _last_saves(info: Mapping[str, Any]) -> Iterator[Finding]:
    failed = [
        what
        for key, what in (
            ("aof_last_write_status", "the last write of its append-only file failed"),
            ("aof_last_bgrewrite_status", "the last rewrite of its append-only file failed"),
            ("rdb_last_bgsave_status", "its last snapshot failed"),
        )
        if info.get(key, "ok") != "ok"
    ]
    for what in failed:
        yield bad("state", what, "Look at its log; most often its disk is full.")


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    of, most = ("maxmemory", limit) if limit else ("the machine's memory", machine)
    if not most:
        yield good("state", f"it holds {_mb(used)}; how much it may cannot be read")
        return
    what = f"it holds {_mb(used)}, {100 * used // most} % of {of} ({_mb(most)})"
    if used > FULL * most:
        yield beware("state", what, "Give it more memory, or lower limits.backlog: full, it takes no jobs.")
    else:
        yield good("state", what)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _clock(skew_ms: float) -> Iterator[Finding]:
    what = (
        f"its clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} this machine's"
    )
    if abs(skew_ms) > SKEW_MS:
        do = "Set both by NTP: consumers refuse webhooks whose timestamp is minutes off."
        yield beware("state", what, do)
    else:
        yield good("state", "its clock agrees with this machine's")


def _latency(latency_ms: float) -> Iterator[Finding]:
    what = f"it answers in {latency_ms:.1f} ms"
    if latency_ms > SLOW_MS:
        yield beware("state", what, "Move it nearer to the workers: every step of a job asks it.")
    else:
        yield good("state", what)
