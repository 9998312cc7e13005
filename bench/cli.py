"""What the quick commands cost: CPU milliseconds (user and system) of the whole process, from its start to its end.

Beside them, in the same rounds, what any command of this kind pays: the interpreter alone, and importing Typer and
redis-py. A round runs each once, so that a busy moment of the machine is everybody's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from producers import Darkroom
from producers.stack import Stack
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS_PER_RUN: Final = 3
JOBS: Final = 1000
PEERS: Final = {"python": ("-c", "pass"), "typer_redis": ("-c", "import typer, redis")}


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give NAME_ms (median) and NAME_best_ms for each command and peer, rounds, and jobs in the store."""
    jobs = jobs or JOBS
    with Stack.valkey_only() as stack:
        url = stack.urls["redis"]
        settings = load_settings(redis={"url": url}, broker={"url": stack.urls["broker"]})
        with Darkroom(settings) as darkroom:
            requests = ({"model": "wan2.7-image", "prompt": f"a lighthouse, {at}"} for at in range(jobs))
            first = str(darkroom.enqueue_many(requests, batch="bench").job_ids[0])
        spent: dict[str, list[float]] = {name: [] for name in (*PEERS, *_commands(first))}
        env = {**os.environ, "DARKROOM_REDIS__URL": url}
        for number in range(runs * ROUNDS_PER_RUN):
            for name, command in _all(first).items():
                spent[name].append(_cpu_ms(command, env))
            say(f"round {number + 1}: " + ", ".join(f"{name} {each[-1]:.0f}" for name, each in spent.items()))
    figures: dict[str, Any] = {}
    for name, each in spent.items():
        figures |= {f"{name}_ms": round(statistics.median(each), 1), f"{name}_best_ms": round(min(each), 1)}
    return figures | {"rounds": runs * ROUNDS_PER_RUN, "jobs": jobs}


def _commands(job_id: str) -> dict[str, tuple[str, ...]]:
    return {
        "help": ("--help",),
        "status": ("status",),
        "status_job": ("status", job_id),
        "batch": ("batch", "bench"),
        "top_once": ("top", "--once"),
        "doctor_help": ("doctor", "--help"),
    }


def _all(job_id: str) -> dict[str, list[str]]:
    darkroom = str(Path(sys.executable).with_name("darkroom"))
    peers = {name: [sys.executable, *words] for name, words in PEERS.items()}
    return peers | {name: [darkroom, *words] for name, words in _commands(job_id).items()}


def _cpu_ms(command: list[str], env: Mapping[str, str]) -> float:
    """Run it, and give what the system charged it for."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return 1000 * (used.ru_utime + used.ru_stime)
