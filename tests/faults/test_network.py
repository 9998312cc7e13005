"""What a network may do between workers and their servers: lose, reset, delay. Through a proxy of the tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import again_and_again, judged, under_load
from tests.faults.proxy import FAIR, LOSE_BOTH, LOSE_TO_CLIENT, LOSE_TO_SERVER, Weather

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse

OUTAGE_S = 6.0  # four leases
RESUME_S = (
    30.0  # with the default socket timeout of 10 s: a silent connection is waited for once, then replaced
)

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    "weather", [LOSE_TO_SERVER, LOSE_TO_CLIENT, LOSE_BOTH], ids=["to server", "to client", "both ways"]
)
def test_state_connections_are_blackholed(
    faults: FaultHouse, weather: Weather, request: pytest.FixtureRequest
) -> None:
    """Half-open connections to the state server: silence, also for those made meanwhile; later ones work."""
    proxy = faults.through("state")
    ids = under_load(faults)
    proxy.turn(weather)
    time.sleep(OUTAGE_S)
    proxy.turn(FAIR)
    way = request.node.callspec.id
    judged(faults, f"connections to the state server lost {way} for {OUTAGE_S:.0f} s", ids, resume_s=RESUME_S)


def test_state_connections_hang_and_recover(faults: FaultHouse) -> None:
    """Bytes are held for 6 s and arrive after all: what was decided meanwhile stands."""
    proxy = faults.through("state")
    ids = under_load(faults)
    proxy.turn(Weather(hold=frozenset({"to_server", "to_client"})))
    time.sleep(OUTAGE_S)
    proxy.turn(FAIR)
    judged(faults, "connections to the state server held for 6 s", ids)


def test_state_connections_are_reset(faults: FaultHouse) -> None:
    """RST of every connection, four times a second for 3 s."""
    proxy = faults.through("state")
    ids = under_load(faults)
    with again_and_again(proxy.reset_all, 0.25):
        time.sleep(3)
    judged(faults, "connections to the state server reset for 3 s", ids)


def test_answers_of_the_state_server_are_cut(faults: FaultHouse) -> None:
    """Each connection dies after 2,000 bytes of answers, often in the middle of one."""
    proxy = faults.through("state")
    ids = under_load(faults)
    proxy.turn(Weather(cut_after=2000))
    time.sleep(4)
    proxy.turn(FAIR)
    judged(faults, "answers of the state server cut for 4 s", ids)


def test_state_server_is_far_away(faults: FaultHouse) -> None:
    """Two seconds per round trip, with leases as by default: slow, and nothing worse."""
    worker = faults.settings.worker.model_copy(update={"lease_s": 12.0, "renew_s": 4.0})
    faults.settings = faults.settings.model_copy(update={"worker": worker})
    proxy = faults.through("state")
    ids = under_load(faults)
    proxy.turn(Weather(delay_s=1.0))
    time.sleep(10)
    proxy.turn(FAIR)
    judged(faults, "2 s of latency to the state server for 10 s", ids)


def test_broker_is_blackholed(faults: FaultHouse) -> None:
    """Celery's connections hang: the pacemaker runs the stages itself, nothing waits for the broker."""
    proxy = faults.through("broker")
    ids = under_load(faults)
    proxy.turn(LOSE_BOTH)
    resumed_s = judged(faults, "connections to the broker lost for good", ids)
    assert resumed_s < 10
