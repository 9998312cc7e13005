"""The state server is emptied under load, or away for longer than leases last: nothing is paid for twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from producers.doctor.examine import examine
from producers.exporter import StoreCollector
from tests.faults.judge import judge
from tests.faults.table import note_row
from tests.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.campaign import FaultHouse

pytestmark = pytest.mark.timeout(180)

STOPPED_WITHIN_S = 2.0
LEASE_S, RENEW_S = 5.0, 4.0  # renewals are rare, so that claims come before them when the server is back
AWAY_S = 6.0


def _wait(true: Callable[[], bool], what: str, within_s: float = 30) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < within_s, what
        time.sleep(0.02)
    return time.monotonic() - started


def _accepted(faults: FaultHouse) -> int:
    return sum(group["accepted"] for group in faults.ledger()["groups"])


def _health(faults: FaultHouse) -> int:
    """What the health check of a worker's container on this machine would say."""
    env = {**os.environ, "DARKROOM_REDIS__URL": faults.state.url(0)}
    program = [sys.executable, str(ROOT / "deploy/worker_health.py")]
    return subprocess.run(
        program, env={**env, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True
    ).returncode


def _metric(faults: FaultHouse, name: str) -> float:
    families = StoreCollector(faults.state.client(), faults.settings).collect()
    return next(each.samples[0].value for each in families if each.name == name)


def _errors(faults: FaultHouse) -> list[str]:
    return [each.what for each in examine(faults.settings) if each.level == "error" and each.area == "work"]


def test_an_emptied_state_server(faults: FaultHouse) -> None:
    """FLUSHALL under load: submits stop within 2 s although jobs are enqueued again; an operator lets them go on."""
    account = faults.settings.accounts["main"].model_copy(update={"submit_per_s": 10.0})
    faults.settings = faults.settings.model_copy(update={"accounts": {"main": account}})
    faults.worker("one")
    faults.worker("two")
    faults.enqueue(200, "before")
    faults.until(lambda: _accepted(faults) >= 10, 30, "submits under way")
    assert (_health(faults), _metric(faults, "darkroom_state_lost"), _errors(faults)) == (0, 0, [])

    faults.state.client().flushall()
    flushed_at = time.monotonic()
    accepted = _accepted(faults)
    ids = faults.enqueue_for_judgement(20)
    frozen: Any = faults.state.client()
    _wait(lambda: frozen.hget("{darkroom}:control", "freeze") == b"spending", "frozen")
    stopped_s = time.monotonic() - flushed_at
    assert stopped_s < STOPPED_WITHIN_S
    time.sleep(2)
    # POSTs that were claimed before the flush may still have gone out; nothing of the emptied store has.
    markers = [group["marker"] for group in faults.ledger()["groups"]]
    assert not [marker for marker in markers if marker.startswith("b-")]
    assert _accepted(faults) - accepted <= 10
    assert _health(faults) == 1
    assert _metric(faults, "darkroom_state_lost") == 1
    assert any("emptied or replaced" in what for what in _errors(faults))
    assert faults.counts() == {"queued": 20}

    faults.darkroom.freeze(None, by="tests")
    recovered_s = faults.quiet(20)
    verdict = judge(faults, ids)
    note_row("FLUSHALL under load", faults.seed, verdict, recovered_s)
    assert (verdict.lost, verdict.double_charged, verdict.damaged, verdict.untold) == (0, 0, 0, 0), verdict
    assert faults.counts() == {"completed": 20}
    assert faults.charged_twice() == []
    assert _metric(faults, "darkroom_state_lost") == 0
    _wait(lambda: _health(faults) == 0, "health is green again")


def test_a_state_server_that_was_away(faults: FaultHouse) -> None:
    """Away for longer than every lease, with POSTs under way whose holders live: none was ever taken for dead."""
    rule = {"on": "submit", "kind": "slow", "arg": str(AWAY_S + 4)}
    faults.provider.post("/control/faults", {"rules": [rule]})
    worker = faults.settings.worker.model_copy(
        update={"submit_timeout_s": 4 * AWAY_S, "lease_s": LEASE_S, "renew_s": RENEW_S}
    )
    faults.settings = faults.settings.model_copy(update={"worker": worker})
    faults.worker("one")
    faults.worker("two")
    ids = faults.enqueue_for_judgement(10)
    faults.until(lambda: _accepted(faults) == 10, 30, "POSTs under way")
    faults.state.kill()
    time.sleep(AWAY_S)
    faults.state.start()
    recovered_s = faults.quiet(10)
    verdict = judge(faults, ids)
    note_row("state server away for longer than a lease", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert (verdict.unknown, verdict.failed) == (0, 0), verdict
    jobs = [job for job in faults.darkroom.get_many(ids) if job is not None]
    assert [line.note for job in jobs for line in job.timeline if line.state == "unknown"] == []
