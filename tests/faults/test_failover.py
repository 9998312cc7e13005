"""A replica takes over from the state server: with all that was written, without the last of it, or beside it.

Replication is asynchronous, so what a primary answered in the last moments may not be on the replica: that window is
judged like a power loss. The stream of replication passes a proxy of the tests, which loses it without an end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.failover import Pair
from tests.faults.load import judged, judged_with_a_gap, submits, under_load

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

LAG_S = 1.0
SPLIT_S = 2.0
GUARDED = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}
BOTH = pytest.mark.parametrize(
    "faults", [{}, {"binary": "redis-server"}], ids=["valkey", "redis7"], indirect=True
)

pytestmark = pytest.mark.timeout(240)


@BOTH
def test_a_replica_that_has_everything(faults: FaultHouse) -> None:
    """Writes are held back until the replica has them all, as an orderly failover does; then SIGKILL: nothing is lost."""
    with Pair(faults) as pair:
        ids = under_load(faults)
        with pair.primary.client() as client:
            client.client_pause(10_000, all=False)
        faults.until(pair.in_step, 5, "the replica has everything")
        _fail_over(pair)
        judged(faults, "failover to a replica that has everything", ids)


@BOTH
def test_a_replica_that_lags(faults: FaultHouse) -> None:
    """The replica lacks a second: POSTs of that second may be sent again, and no others; nothing older is lost."""
    with Pair(faults) as pair:
        ids = under_load(faults)
        before = submits(faults)
        pair.cut()
        time.sleep(LAG_S)
        assert pair.lag_bytes() > 0
        seen = _fail_over(pair)
        judged_with_a_gap(faults, "failover to a replica that lacks 1 s", ids, seen - before)


def _fail_over(pair: Pair) -> int:
    """Kill the primary, promote the replica; give the submits that the provider had seen by then."""
    pair.primary.kill()
    time.sleep(0.3)  # POSTs whose intent was written arrive
    seen = submits(pair.faults)
    pair.promote()
    pair.lead(pair.door)
    return seen
