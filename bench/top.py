"""What `darkroom top` costs the state server: its look at 1 Hz with many jobs queued, beside as long a time without.

CPU seconds of the server (INFO cpu, system and user) while it is looked at, minus those of the same time idle.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from producers import Darkroom
from producers.stack import Stack
from producers.vitals import read_vitals
from shared.redis.client import make_client
from shared.redis.keys import Keys
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

JOBS: Final = 100_000
TENANTS: Final = 10
ENDPOINTS: Final = 20
DELIVERIES: Final = 500  # at each
WORKERS: Final = 20
LOOKS: Final = 20
EVERY_S: Final = 1.0


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give cpu_ratio (share of one core, median of the runs), ms_per_look (server CPU), jobs, endpoints, workers and runs."""
    jobs = jobs or JOBS
    with Stack.valkey_only() as stack:
        settings = load_settings(redis={"url": stack.urls["redis"]}, broker={"url": stack.urls["broker"]})
        with Darkroom(settings) as darkroom:
            for tenant in range(TENANTS):
                darkroom.enqueue_many(_requests(jobs // TENANTS), tenant=f"bench-{tenant}", keep=False)
        client, keys = make_client(settings.redis), Keys.of(settings.redis.namespace)
        _populate(client, keys)
        ratios = []
        for number in range(runs):
            idle = _cpu_s_while(client, lambda: None)
            looked = _cpu_s_while(client, lambda: read_vitals(client, keys, settings))
            ratios.append((looked - idle) / (LOOKS * EVERY_S))
            say(
                f"run {number + 1}/{runs}: {ratios[-1]:.3%} of a core, idle {idle:.4f} s, looked {looked:.4f} s"
            )
        seen = read_vitals(client, keys, settings)
        client.close()
    ratio = statistics.median(ratios)
    return {
        "cpu_ratio": round(ratio, 6),
        "ms_per_look": round(1000 * ratio * EVERY_S, 3),
        "jobs": seen.overview.counts["queued"],
        "endpoints": len(seen.endpoints),
        "workers": len(seen.workers),
        "runs": runs,
    }


def _populate(client: Redis, keys: Keys) -> None:
    """Let deliveries fail at some endpoints, and workers be alive for as long as it takes."""
    now_ms = int(client.time()[0]) * 1000
    pipe = client.pipeline(transaction=False)
    for host in (f"hooks-{number}.example.com" for number in range(ENDPOINTS)):
        ids = {f"evt_{host}_{number}": now_ms for number in range(DELIVERIES)}
        pipe.zadd(keys.endpoints, {host: len(ids)})
        pipe.zadd(keys.waiting(host), ids)
        pipe.zadd(keys.failing(host), ids)
        pipe.zadd(keys.index("notify"), dict.fromkeys(ids, now_ms))
    for name in (f"w{number}@host:{number}" for number in range(WORKERS)):
        pipe.zadd(keys.workers, {name: now_ms + 3_600_000})
        pipe.hset(
            keys.worker(name), mapping={"stages": "submit poll notify store", "held": "submit=32 poll=100"}
        )
    pipe.execute()


def _requests(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"model": "wan2.7-image", "prompt": f"a lighthouse at dusk, number {number}", "n": 1}


def _cpu_s_while(client: Redis, look: Callable[[], object]) -> float:
    """Give the server's CPU seconds during LOOKS looks, EVERY_S apart."""
    before = _cpu_s(client)
    for _ in range(LOOKS):
        started = time.monotonic()
        look()
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - started)))
    return _cpu_s(client) - before


def _cpu_s(client: Redis) -> float:
    found: dict[str, Any] = client.info("cpu")
    return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])
