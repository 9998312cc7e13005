"""What becomes of hints: lost, duplicated, without a broker. The broker may do what it likes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from shared.broker import make_app, task_name
from tests.faults.load import JOBS, again_and_again, judged, under_load

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

pytestmark = pytest.mark.timeout(240)


def test_flushed_again_and_again(faults: FaultHouse) -> None:
    """FLUSHDB five times a second until all is done: every message is lost."""
    with faults.broker.client() as client, again_and_again(client.flushdb, 0.2):
        ids = under_load(faults)
        faults.quiet(JOBS)
    judged(faults, "broker flushed five times a second", ids)


def test_killed_and_restarted(faults: FaultHouse) -> None:
    """SIGKILL of the broker, 3 s without one: work goes on meanwhile, and workers stay."""
    ids = under_load(faults)
    faults.broker.kill()
    resumed_s = faults.resumed(10)
    assert resumed_s < 10
    time.sleep(3)
    faults.broker.start()
    judged(faults, "broker killed, back after 3 s", ids)


def test_down_for_good(faults: FaultHouse) -> None:
    """The broker dies and stays away: everything is done all the same."""
    ids = under_load(faults)
    faults.broker.kill()
    judged(faults, "broker down for good", ids)


def test_hints_come_a_hundred_times(faults: FaultHouse) -> None:
    """Every hint there is, a hundred times, five times a second: one claim wins, one POST per job."""
    lane, sent = "main/wan2.7-image", 0
    with make_app(faults.settings) as app, app.connection_for_write() as connection:

        def flood() -> None:
            nonlocal sent
            for stage in ("submit", "poll", "store", "notify"):
                for _ in range(100):
                    where = lane if stage in ("submit", "poll") else ""
                    app.send_task(task_name(stage), (where,), connection=connection)
                    sent += 1

        with again_and_again(flood, 0.2):
            ids = under_load(faults)
            faults.quiet(JOBS)
    assert sent >= 400, "the flood never came"
    judged(faults, "each hint a hundred times, again and again", ids)
