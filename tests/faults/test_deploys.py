"""Workers that end in order, and one that does not: a deploy leaves no unknown job, a kill frees its jobs in 15 s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from shared.settings import WorkerSettings
from tests.faults.judge import judge
from tests.faults.load import BUSY_MACHINE, JOBS, SLOTS, under_load
from tests.faults.table import note_row

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

GRACE_S = 15.0  # the POST's timeout and what is left for the rest, at a campaign's settings
LEASE_ENDS_WITHIN_S = 15.0

pytestmark = pytest.mark.timeout(240)


def _slow_posts(faults: FaultHouse, seconds: str = "1") -> None:
    faults.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": seconds}]})


def test_sigterm_in_mid_load(faults: FaultHouse) -> None:
    """Claims stop, POSTs in flight are waited for, leases are given back: the other worker goes on, nothing is unknown."""
    _slow_posts(faults)
    ids = under_load(faults)
    faults.until(lambda: _submitting(faults) > 0, 20, "POSTs in flight")
    started = time.monotonic()
    assert faults.workers[0].stop(within_s=GRACE_S * BUSY_MACHINE) == 0
    assert time.monotonic() - started < GRACE_S * BUSY_MACHINE
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row("SIGTERM in mid-load", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert verdict.unknown == verdict.failed == 0, verdict


def test_rolling_restart(faults: FaultHouse) -> None:
    """Each worker is replaced in turn, one of them twice: every job completes, none is unknown."""
    _slow_posts(faults, "0.5")
    ids = under_load(faults)
    for nr in range(3):
        code = faults.workers[nr].stop(within_s=GRACE_S * BUSY_MACHINE)
        assert code == 0, faults.workers[nr].log()[-8000:]
        faults.worker(f"next-{nr}")
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row("rolling restart of three workers", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert faults.counts() == {"completed": JOBS}


def test_a_killed_worker_holds_its_jobs_for_fifteen_seconds_at_most(faults: FaultHouse) -> None:
    """Default leases: what a killed worker held is elsewhere, or told as unknown, within 15 s."""
    faults.set_section("worker", **dict(WorkerSettings()))
    _slow_posts(faults, "20")
    victim = faults.worker("victim")
    ids = faults.enqueue_for_judgement(SLOTS)
    faults.until(lambda: _submitting(faults) == SLOTS, 30, "the victim's POSTs are in flight")
    faults.worker("heir")
    victim.kill()
    held = _submitting(faults)
    recovered_s = faults.until(lambda: not _submitting(faults), 2 * LEASE_ENDS_WITHIN_S, "the leases end")
    faults.quiet(SLOTS)
    verdict = judge(faults, ids)
    note_row("worker killed, default settings", faults.seed, verdict, recovered_s)
    assert recovered_s < LEASE_ENDS_WITHIN_S
    assert verdict.clean, verdict
    assert verdict.unknown == held > 0, "each POST that was in flight is told, not guessed"


def _submitting(faults: FaultHouse) -> int:
    return faults.counts().get("submitting", 0)
