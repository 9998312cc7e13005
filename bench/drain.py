"""Draining jobs through submit, poll, store and notify: what one worker process spends per job.

The sandbox answers after 1 s, there is no rate limit, images are small and stored on file://, in memory if the system
has such a folder (the disk's own work varies by more than all of ours); CPU is the worker
process's own (utime + stime of /proc), from the first enqueue to the last delivered webhook.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from bench.folders import memory_folder
from producers import Darkroom
from producers.stack import Stack
from shared.jobs.lifecycle import JobState
from shared.redis.client import make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JOBS = 2_000
WITHIN_S = 240.0
BATCH = "drain"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give worker_cpu_ms_per_job, jobs_per_s, polls_per_job, rss_mb."""
    jobs = jobs or JOBS
    rows = []
    with TemporaryDirectory(prefix="darkroom-bench-", dir=memory_folder()) as kept:
        for number in range(runs):
            rows.append(drained(jobs, Path(kept, str(number))))
            say(f"run {number + 1}/{runs}: " + ", ".join(f"{k} {v:,.2f}" for k, v in rows[-1].items()))
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]} | {
        "jobs": jobs,
        "runs": runs,
    }


def worked_off(darkroom: Darkroom, stack: Stack, http: httpx.Client, jobs: int) -> tuple[float, float]:
    """Have the one worker do a batch, from the enqueue to the last event; give its CPU and the time, in seconds."""
    pid = next(part for part in stack.parts if part.name == "worker1").process.pid
    sink = stack.urls["sink"]
    warm_up(darkroom, http, sink)
    cpu, started = cpu_s(pid), time.monotonic()
    requests = ({"model": "wan2.7-image", "prompt": f"bench {n}", "size": "1K"} for n in range(jobs))
    darkroom.enqueue_many(requests, batch=BATCH, webhook=f"{sink}/ok", keep=False)
    wait_for_events(stack, http, sink, jobs + 2)  # its own batch.completed beside the warm-up's event
    elapsed = time.monotonic() - started
    return cpu_s(pid) - cpu, elapsed


def drained(jobs: int, artifacts: Path, server: Mapping[str, str] | None = None) -> dict[str, float]:
    """Drain once. `server` are options of the state server, set before the worker's clock starts."""
    constant = ("--latency-sigma", "0", "--latency-scale", "off", "--image-px", "64")
    with (
        Stack(flower=False, events=False, sandbox_args=constant, keep_in=artifacts) as stack,
        httpx.Client(trust_env=False) as http,
    ):
        client = make_client(stack.settings.redis)
        for name, value in (server or {}).items():
            client.config_set(name, value)
        worker = next(part for part in stack.parts if part.name == "worker1")
        with Darkroom(stack.settings) as darkroom:
            spent, elapsed = worked_off(darkroom, stack, http, jobs)
            status = darkroom.batch(BATCH)
        if status.counts.get(JobState.COMPLETED) != jobs:
            raise RuntimeError(f"{status.counts} of {jobs}")
        polls = http.get(f"{stack.urls['provider']}/stats").json()["polls"]
        return {
            "worker_cpu_ms_per_job": 1000 * spent / jobs,
            "jobs_per_s": jobs / elapsed,
            "polls_per_job": polls / (jobs + 1),
            "rss_mb": rss_mb(worker.process.pid),
        }


def warm_up(darkroom: Darkroom, http: httpx.Client, sink: str) -> None:
    """Let imports, connections and scripts be paid for before the clock starts."""
    receipt = darkroom.enqueue({"model": "wan2.7-image", "prompt": "warm up"}, webhook=f"{sink}/ok")
    darkroom.wait(receipt.job_id, timeout_s=60)
    until = time.monotonic() + 30
    while http.get(f"{sink}/summary").json()["unique_ids"] < 1:
        if time.monotonic() > until:
            raise RuntimeError("the warm-up job's webhook did not arrive")
        time.sleep(0.1)


def wait_for_events(stack: Stack, http: httpx.Client, sink: str, events: int) -> None:
    until = time.monotonic() + WITHIN_S
    while (seen := http.get(f"{sink}/summary").json()["unique_ids"]) < events:
        stack.check()
        if time.monotonic() > until:
            raise RuntimeError(f"{seen} of {events} events after {WITHIN_S:.0f} s")
        time.sleep(0.1)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
