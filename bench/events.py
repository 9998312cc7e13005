"""What job events for Flower cost a worker: its CPU per job with them, beside the same without, at a steady rate.

Pairs of runs, one with and one without events, in turns that change sides; each on a stack of its own, paced by the
account's submit rate. CPU is the worker process's own, from the first enqueue to the last delivered webhook.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import httpx

from bench.drain import worked_off
from bench.folders import memory_folder
from producers import Darkroom
from producers.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS: Final = 2_000
RATE_PER_S: Final = 200


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give cpu_ratio (on / off, median of the pairs; low and high of them), CPU per job of both sides, and the rate."""
    jobs = jobs or JOBS
    pairs: list[tuple[float, float]] = []
    rates: list[float] = []
    with TemporaryDirectory(prefix="darkroom-bench-", dir=memory_folder()) as kept:
        for number in range(runs):
            found = {}
            for events in (True, False) if number % 2 else (False, True):
                folder = Path(kept, f"{number}-{'on' if events else 'off'}")
                found[events], per_s = _run(jobs, folder, events=events)
                rates.append(per_s)
            pairs.append((found[True], found[False]))
            say(
                f"pair {number + 1}/{runs}: on {found[True]:.3f} ms, off {found[False]:.3f} ms per job, "
                f"ratio {found[True] / found[False]:.3f}"
            )
    ratios = [on / off for on, off in pairs]
    return {
        "cpu_ratio": round(statistics.median(ratios), 3),
        "cpu_ratio_low": round(min(ratios), 3),
        "cpu_ratio_high": round(max(ratios), 3),
        "cpu_ms_per_job_on": round(statistics.median(on for on, _ in pairs), 3),
        "cpu_ms_per_job_off": round(statistics.median(off for _, off in pairs), 3),
        "jobs_per_s": round(statistics.median(rates), 1),
        "jobs": jobs,
        "pairs": runs,
    }


def _run(jobs: int, artifacts: Path, *, events: bool) -> tuple[float, float]:
    """Give the worker's CPU in ms per job, and jobs per second."""
    constant = ("--latency-sigma", "0", "--latency-scale", "off", "--image-px", "64")
    with (
        Stack(
            flower=False, events=events, rate_per_s=RATE_PER_S, sandbox_args=constant, keep_in=artifacts
        ) as stack,
        httpx.Client(trust_env=False) as http,
        Darkroom(stack.settings) as darkroom,
    ):
        spent, elapsed = worked_off(darkroom, stack, http, jobs)
        return 1000 * spent / jobs, jobs / elapsed
