"""A replica takes over from the state server: with all that was written, without the last of it, or beside it.

Replication is asynchronous, so what a primary answered in the last moments may not be on the replica: that window is
judged like a power loss. The stream of replication passes a proxy of the tests, which loses it without an end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from shared.errors import StateUnavailable
from tests.faults.failover import Pair
from tests.faults.load import JOBS, SLOTS, forgotten_intents, intents, judged, judged_with_a_gap, under_load
from tests.faults.proxy import HOST, Proxy

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

FEW = 10
LAG_S = 1.0
SPLIT_S = 2.0
REFUSING_S = 4.0
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
def test_a_failover_in_order(faults: FaultHouse) -> None:
    """The server's own FAILOVER under load: both servers change places, no connection ends by it, nothing is lost."""
    with Pair(faults) as pair:
        ids = under_load(faults)
        pair.lead(pair.door)
        with pair.primary.client() as client:
            client.execute_command("FAILOVER", "TO", HOST, pair.replica.port, "TIMEOUT", 10_000)
        faults.until(lambda: pair.refusal().startswith("You can't write"), 15, "the primary is a replica")
        faults.take_over(pair.replica)
        judged(faults, "failover to a replica that has everything, in order (FAILOVER)", ids)


@BOTH
def test_a_replica_that_lags(faults: FaultHouse) -> None:
    """The replica lacks a second: POSTs of that second may be sent again, and no others; nothing older is lost."""
    with Pair(faults) as pair:
        ids = under_load(faults)
        pair.cut()
        time.sleep(LAG_S)
        assert pair.lag_bytes() > 0
        with pair.primary.client() as client:
            client.client_pause(10_000, all=False)  # no intent is written any more
        doubtful = _only_on_the_old(pair, ids)
        _fail_over(pair)
        judged_with_a_gap(faults, "failover to a replica that lacks 1 s", ids, doubtful)


def test_what_was_enqueued_too_late_is_enqueued_again(faults: FaultHouse) -> None:
    """A producer that repeats the last seconds with the same keys creates what the replica lacks, and only that."""
    with Pair(faults) as pair:
        producer = faults.producer()
        requests = enumerate(faults.requests(2 * FEW, "b"))
        items = [(request, {"idempotency_key": f"key-{at}"}) for at, request in requests]
        kept = producer.enqueue_many(items[:FEW], batch="b", webhook=faults.hook, seal=False)
        faults.until(pair.in_step, 5, "the replica has everything")
        pair.cut()
        late = producer.enqueue_many(items[FEW:], batch="b", webhook=faults.hook, seal=False)
        assert late.enqueued == FEW
        _fail_over(pair)
        again = producer.enqueue_many(items, batch="b", webhook=faults.hook)
        assert (again.enqueued, again.duplicates) == (FEW, FEW)
        assert again.job_ids[:FEW] == kept.job_ids
        faults.worker()
        judged(faults, "enqueue of the lost second, repeated after a failover", again.job_ids)


def _fail_over(pair: Pair) -> None:
    """Kill the primary, promote the replica."""
    pair.primary.kill()
    pair.promote()
    pair.lead(pair.door)


@BOTH
def test_two_primaries_for_a_while(faults: FaultHouse) -> None:
    """The replica is promoted while the old primary lives and has a worker of its own; then it is demoted.

    Both sides send what was queued at the split: each POST whose intent only the old primary has may be charged twice.
    What it did besides is done again. Its worker follows, though no connection of it ends.
    """
    with Pair(faults) as pair, Proxy(f"{HOST}:{pair.primary.port}") as own_door:
        faults.lane(max_in_flight=SLOTS)
        _worker_behind(faults, own_door, "stays")
        ids = under_load(faults)
        pair.cut()
        pair.promote()
        pair.lead(pair.door)
        pair.door.reset_all()
        time.sleep(SPLIT_S)
        pair.stand_alone(pair.primary)  # it takes no writes from here on, and still has those it took
        doubtful = _only_on_the_old(pair, ids)
        pair.lead(own_door)
        pair.follow(pair.primary, f"{HOST}:{pair.replica.port}")
        judged_with_a_gap(faults, f"failover with two primaries for {SPLIT_S:.0f} s", ids, doubtful)
        for other in faults.workers[1:]:
            other.stop()
        faults.enqueue(5, "after")
        faults.until(
            lambda: faults.settled(5, "after"), 30, "the worker of the old primary works for the new one"
        )


@BOTH
def test_no_replica_no_writes(faults: FaultHouse) -> None:
    """-NOREPLICAS while the stream is cut: an enqueue is refused, workers wait, and go on when the replica is back."""
    with Pair(faults) as pair:
        ids = under_load(faults, 2 * JOBS)
        pair.demand_replica()
        pair.cut()
        faults.until(lambda: pair.refusal().startswith("NOREPLICAS"), 20, "the primary refuses writes")
        with pytest.raises(StateUnavailable, match="min-replicas-to-write"):
            faults.darkroom.enqueue_many(faults.requests(3, "refused"), batch="refused", webhook=faults.hook)
        with pair.primary.client() as client:
            assert not client.keys("{darkroom}:*refused*"), "an enqueue is refused whole"
        time.sleep(REFUSING_S)
        assert not faults.settled(len(ids))
        pair.mend()
        faults.until(lambda: not pair.refusal(), 20, "the primary writes again")
        judged(faults, f"no replica in touch (-NOREPLICAS) for {REFUSING_S:.0f} s", ids)
        assert faults.counts() == {"completed": len(ids)}


def test_a_primary_that_stops_by_itself(faults: FaultHouse) -> None:
    """With min-replicas-to-write the old primary ends its side of a split, though a worker still reaches it.

    The replica is promoted after that: what was sent in the two or three seconds before is in doubt, and nothing later.
    """
    with Pair(faults) as pair, Proxy(f"{HOST}:{pair.primary.port}") as own_door:
        faults.lane(max_in_flight=SLOTS)
        _worker_behind(faults, own_door, "stays")
        ids = under_load(faults, 2 * JOBS)
        pair.demand_replica()
        pair.cut()
        faults.until(lambda: pair.refusal().startswith("NOREPLICAS"), 20, "the primary refuses writes")
        doubtful = _only_on_the_old(pair, ids)
        pair.promote()
        pair.lead(pair.door)
        pair.door.reset_all()
        time.sleep(SPLIT_S)
        assert _only_on_the_old(pair, ids) - doubtful == set(), "it takes no intent any more"
        pair.lead(own_door)
        pair.follow(pair.primary, f"{HOST}:{pair.replica.port}")
        judged_with_a_gap(faults, "failover from a primary that stops without its replica", ids, doubtful)


def _worker_behind(faults: FaultHouse, door: Proxy, name: str) -> None:
    """Start a worker that reaches the state server through a door of its own."""
    everybody = faults.settings
    faults.set_section("redis", url=f"redis://{door.address}/0")
    faults.worker(name)
    faults.settings = everybody


def _only_on_the_old(pair: Pair, ids: list[str]) -> set[str]:
    """Give the jobs with an intent of a POST that the replica, promoted or not, does not know."""
    return forgotten_intents(had=intents(pair.primary, ids), kept=intents(pair.replica, ids))
