"""What durability costs: the same enqueues and the same drain with appendfsync everysec, always, and without an AOF.

    many       jobs/s of enqueue_many: an fsync per chunk of jobs
    single     jobs/s of enqueue, one after the other: an fsync per job
    cpu_ms     CPU of the worker process per job, from enqueue to webhook
    drained    jobs/s of that
All modes in every run; medians over the runs. What an fsync takes is the disk's: the figures are of this machine. Only
the images are kept in memory, where there is such a folder: their files are not what is measured.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from bench.drain import drained
from bench.enqueue import enqueued_per_s
from bench.folders import memory_folder
from producers import Darkroom
from producers.stack import Stack
from shared.redis.client import make_client
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import Settings

JOBS = 1_000
MANY = 20_000
SINGLE = 500
MODES: Final = {
    "no_aof": {"appendonly": "no"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "always": {"appendonly": "yes", "appendfsync": "always"},
}


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give MODE_many_per_s, MODE_single_per_s, MODE_cpu_ms_per_job and MODE_drained_per_s."""
    rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with TemporaryDirectory(prefix="darkroom-bench-", dir=memory_folder()) as kept:
        for number in range(runs):
            for mode, options in MODES.items():
                row = _run(options, jobs or JOBS, Path(kept, f"{mode}-{number}"))
                rows[mode].append(row)
                say(f"run {number + 1}/{runs} {mode}: " + ", ".join(f"{k} {v:,.2f}" for k, v in row.items()))
    return {
        f"{mode}_{name}": round(statistics.median(row[name] for row in each), 2)
        for mode, each in rows.items()
        for name in each[0]
    } | {"jobs": jobs or JOBS, "runs": runs}


def _run(options: dict[str, str], jobs: int, artifacts: Path) -> dict[str, float]:
    with Stack.valkey_only() as stack:
        settings = load_settings(redis={"url": stack.urls["redis"]}, broker={"url": stack.urls["broker"]})
        client = make_client(settings.redis)
        for name, value in options.items():
            client.config_set(name, value)
        many = enqueued_per_s(client, settings, MANY)
        single = _singly_per_s(settings)
    row = drained(jobs, artifacts, options)
    return {
        "many_per_s": many,
        "single_per_s": single,
        "cpu_ms_per_job": row["worker_cpu_ms_per_job"],
        "drained_per_s": row["jobs_per_s"],
    }


def _singly_per_s(settings: Settings) -> float:
    with Darkroom(settings) as darkroom:
        darkroom.enqueue({"model": "wan2.7-image", "prompt": "warm up"})
        started = time.perf_counter()
        for number in range(SINGLE):
            darkroom.enqueue({"model": "wan2.7-image", "prompt": f"one of many, number {number}"})
        return SINGLE / (time.perf_counter() - started)
