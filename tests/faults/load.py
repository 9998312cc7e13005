"""A load under which faults are tried, and the judgement after one has ended."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tests.faults.judge import judge
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.faults.campaign import FaultHouse

JOBS: Final = 40
SLOTS: Final = 6  # so that the jobs outlast the fault
RESUME_S: Final = 10.0
BUSY_MACHINE: Final = 2.0  # promises are of a quiet machine


def under_load(faults: FaultHouse, env: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> list[str]:
    """Start two workers on more jobs than they can do at once, and wait until all stages have work.

    `env` gives environment variables of `one` and `two`.
    """
    faults.lane(max_in_flight=SLOTS)
    for name in ("one", "two"):
        faults.worker(name, **env.get(name, {}))
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: faults.counts().get("completed", 0) >= 2, 60, "work in progress")
    return ids


def judged(faults: FaultHouse, fault: str, ids: list[str], *, resume_s: float = RESUME_S) -> float:
    """The fault has just ended: work goes on by itself, every promise is kept. Gives the seconds until it went on."""
    resumed_s = faults.resumed(len(ids), resume_s * BUSY_MACHINE)
    recovered_s = resumed_s + faults.quiet(len(ids))
    verdict = judge(faults, ids)
    name = faults.state_binary or "valkey"
    note_row(f"{fault} ({name})", faults.seed, verdict, recovered_s, resumed_s=resumed_s)
    assert verdict.clean, verdict
    assert verdict.failed == 0, verdict
    assert all(worker.running for worker in faults.workers), "no worker ends over it"
    return resumed_s


@contextmanager
def again_and_again(hurt: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it again and again while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            hurt()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
