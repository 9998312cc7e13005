"""One job among two hundred ends the process that touches it: it is put aside after few deaths, the others go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.dials import tune
from tests.faults.judge import judge
from tests.faults.table import note_row
from tests.faults.test_judge import Break, BrokenWorkerProc

if TYPE_CHECKING:
    from pathlib import Path

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse

JOBS: Final = 200
WORKERS: Final = 3
MARK: Final = "arsenic"
DEATHS_MAX: Final = 4  # one among others, which makes it a suspect, then three alone
NEVER_S: Final = 120.0
# Time runs four times as fast: lease (12 s), generation (20 s) and the vendor's rate (5 submits per second) alike.
LEASE_S: Final = 3.0
GENERATION_S: Final = 5.0
SUBMIT_PER_S: Final = 20.0
POSTS: Final = 8

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True)
class Poison:
    """Where a prompt with the mark ends the process, in a copy of the sources."""

    broken: Break
    code: str
    free: bool


_FATAL: Final = f'        if b"{MARK}" in entry.spec: __import__("os")._exit(66)\n'


def _after(sentence: str, file: str, code: str, *, free: bool) -> Poison:
    return Poison(Break(file, sentence, sentence + _FATAL), code, free)


POISONS: Final = {
    "submit": _after(
        '        crash_points.cross("submit.claimed")\n', "workers/stages/submit.py", "poison", free=True
    ),
    "store": _after(  # its images are paid for: a redrive copies them
        '        have = {artifact["index"] for artifact in known}\n',
        "workers/stages/store.py",
        "copy_failed",
        free=False,
    ),
}


@pytest.mark.parametrize("stage", POISONS)
def test_one_poisonous_job_among_many(faults: FaultHouse, tmp_path: Path, stage: str) -> None:
    """It alone fails, after few deaths; every neighbour completes, late only if it shared a claim with the first death."""
    tune(faults, "worker", lease_s=LEASE_S, renew_s=LEASE_S / 3)
    faults.lane(max_outstanding_posts=POSTS, submit_per_s=SUBMIT_PER_S)
    faults.provider.post("/control/settings", {"latency": GENERATION_S})
    workers = [BrokenWorkerProc(tmp_path / f"w{at}", faults.settings, name=f"w{at}") for at in range(WORKERS)]
    for worker in workers:
        worker.break_at(POISONS[stage].broken)
        faults.join(worker)
    house = _House(faults, workers)
    well = house.run("well", [])
    ill = house.run("ill", [JOBS // 2])
    jobs = [faults.darkroom.get(job_id) for job_id in ill]
    (poisonous,) = [job for job in jobs if MARK in str(job.request["prompt"])]
    verdict = judge(faults, [*well, *ill])
    note_row(f"poison: a job that kills its worker in {stage}", faults.seed, verdict, house.took_s)
    assert verdict.clean, verdict
    assert (str(poisonous.state), poisonous.error_code) == ("failed", POISONS[stage].code)
    assert (poisonous.cost_micros == 0) is POISONS[stage].free
    assert verdict.failed == 1, verdict
    assert house.deaths <= DEATHS_MAX
    calm = _took_s([faults.darkroom.get(job_id) for job_id in well])
    stormy = _took_s([job for job in jobs if job is not poisonous])
    print(
        f"{stage}: {house.deaths} deaths, {verdict.unknown} unknown, {_quantiles(calm)} without, {_quantiles(stormy)} with"
    )
    assert verdict.unknown <= house.deaths * POSTS, "POSTs that were under way in a process that died"
    assert _at(stormy, 0.5) < 2 * _at(calm, 0.5)
    assert _at(stormy, 0.99) < 2 * _at(calm, 0.99)


class _House:
    """Workers that are started again when they die, as a supervisor would."""

    def __init__(self, faults: FaultHouse, workers: list[BrokenWorkerProc]) -> None:
        self._faults, self._workers = faults, workers
        self.deaths, self.took_s = 0, 0.0

    def run(self, batch: str, poisonous: list[int]) -> list[str]:
        """Enqueue a batch and tend the workers until it is settled; give the ids."""
        requests = self._faults.requests(JOBS, batch)
        for at in poisonous:
            requests[at]["prompt"] = f"{MARK} {requests[at]['prompt']}"
        receipt = self._faults.darkroom.enqueue_many(requests, batch=batch, webhook=self._faults.hook)
        assert receipt.enqueued == JOBS
        started = time.monotonic()
        while not self._faults.settled(JOBS, batch):
            assert time.monotonic() - started < NEVER_S, self._faults.counts(batch)
            self._tend()
            time.sleep(0.05)
        self.took_s = time.monotonic() - started
        while self._faults.state.client().zcard("{darkroom}:z:notify"):
            self._tend()
            time.sleep(0.05)
        return [item.job_id for item in receipt.items if item.job_id]

    def _tend(self) -> None:
        for worker in self._workers:
            if not worker.running:
                self.deaths += 1
                worker.start(wait=False)


def _took_s(jobs: list[Job]) -> list[float]:
    """Give what jobs took from the enqueue to their end, sorted; unknown ones have none."""
    return sorted((job.finished_at - job.created_at) / 1000 for job in jobs if job.finished_at is not None)


def _at(sorted_s: list[float], share: float) -> float:
    return sorted_s[int(share * len(sorted_s))]


def _quantiles(sorted_s: list[float]) -> str:
    return f"p50 {_at(sorted_s, 0.5):.1f} s, p99 {_at(sorted_s, 0.99):.1f} s"
