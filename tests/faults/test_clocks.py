"""Clocks that jump or differ: the state server's steps, workers' are wrong. Nothing is undone, lost or paid twice."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.faults.clocks import WallClock, library, server_is_off_by_s
from tests.faults.dials import rules, tune
from tests.faults.load import JOBS, judged, under_load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.campaign import FaultHouse

# A step of five minutes: longer than every lease, wait and schedule of a campaign. It is taken around the right time,
# as receivers refuse webhooks whose timestamp is more than five minutes off [Standard Webhooks].
STEP_S = 300
HALF_S = STEP_S // 2
CLOSE_S = 30.0  # on a busy machine

BOTH = pytest.mark.parametrize(
    "faults", [{}, {"binary": "redis-server"}], ids=["valkey", "redis7"], indirect=True
)

pytestmark = pytest.mark.timeout(240)


@BOTH
@pytest.mark.parametrize(("before", "after"), [(-HALF_S, HALF_S), (HALF_S, -HALF_S)], ids=["forward", "back"])
def test_the_servers_clock_steps(faults: FaultHouse, tmp_path: Path, before: int, after: int) -> None:
    """Five minutes at once, in mid-load: leases, waits and POSTs under way outlive it, and work goes on.

    A step forward makes what is generated look old, so its next poll may be one of the rare ones: 12 s later.
    """
    clock = WallClock(tmp_path, before)
    clock.of_state_server(faults)
    tune(
        faults, "worker", lease_s=12.0, renew_s=4.0
    )  # as by default: claims come long before the next renewal
    ids = under_load(faults)
    assert abs(server_is_off_by_s(faults) - before) < CLOSE_S
    rules(faults, {"on": "submit", "kind": "slow", "arg": "3", "probability": 1})
    faults.until(lambda: faults.counts().get("submitting", 0) > 1, 20, "POSTs under way")
    clock.set(after)
    assert abs(server_is_off_by_s(faults) - after) < CLOSE_S, "the clock has really stepped"
    rules(faults)
    way = "forward" if after > before else "back"
    judged(faults, f"clock of the state server set {way} by 5 min", ids)
    assert faults.counts() == {"completed": JOBS}, "POSTs under way too"
    noticed = "state_clock_gap" if after > before else "state_clock_stepped"
    assert any(noticed in worker.log() for worker in faults.workers)


def test_workers_clocks_differ(faults: FaultHouse, tmp_path: Path) -> None:
    """One worker is five minutes ahead, one behind: who verifies webhooks sees the server's time from both."""
    env = {}
    for name, offset_s in (("one", STEP_S), ("two", -STEP_S)):
        (tmp_path / f"clock-of-{name}").mkdir()
        env[name] = WallClock(tmp_path / f"clock-of-{name}", offset_s).environment
    ids = under_load(faults, env=env)
    judged(faults, "clocks of two workers 10 min apart", ids)
    for worker in faults.workers:
        assert "delivery_attempted" in worker.log(), "both have worked"
    assert _logged_apart_s(faults) > STEP_S, "their clocks were really apart"
    told = faults.sink.get("/received?limit=1000")["deliveries"]
    assert len(told) >= len(ids)
    assert all(abs(each["received_at"] - int(each["webhook_timestamp"])) < CLOSE_S for each in told)


def test_a_missing_library_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    """Never a skip."""
    with pytest.raises(pytest.fail.Exception, match="apt-get install faketime"):
        library(tmp_path)


def _logged_apart_s(faults: FaultHouse) -> float:
    """Give how far apart the two workers say that the last line of their logs was written."""
    one, two = (_last_logged_at(worker.log()) for worker in faults.workers)
    return (one - two).total_seconds()


def _last_logged_at(text: str) -> datetime:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"')]
    return datetime.fromisoformat(lines[-1]["timestamp"])
