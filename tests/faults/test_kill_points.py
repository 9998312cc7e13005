"""Every step boundary of a job's way, and a worker that dies there, is paused there, or exits there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign import STOPPED_S, is_gone
from tests.faults.judge import judge
from tests.faults.table import note_row
from workers.crash_points import HOWS, STEPS, VARIABLE

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

JOBS = 10

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_ends_at_a_step(faults: FaultHouse, step: str, how: str) -> None:
    """Another worker takes over: nothing lost, nothing paid twice, nothing forgotten, no event under two ids."""
    nth = faults.chance.randint(1, JOBS // 2)
    victim = faults.worker("victim", **{VARIABLE: f"{step}:{nth}:{how}"})
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: is_gone(victim), 40, f"the victim reached {step} for the {nth}. time")
    faults.worker("heir")
    if how == "STOP":
        time.sleep(STOPPED_S)
        victim.resume()
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(f"{step} {how}", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert verdict.failed == 0, verdict
    if step in ("submit.intent_written", "submit.posted") and how != "STOP":
        assert verdict.unknown > 0, verdict  # an intent without an outcome is told, not guessed
