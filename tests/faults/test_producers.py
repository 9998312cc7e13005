"""What a producer meets during an outage: an error within 10 s, and a chunk that is sent again creates once."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import StateUnavailable
from tests.faults.judge import judge
from tests.faults.proxy import FAIR, LOSE_BOTH, LOSE_TO_CLIENT, LOSE_TO_SERVER, Weather
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from producers.client import Darkroom
    from tests.faults.campaign import FaultHouse
    from tests.faults.proxy import Proxy

JOBS = 20
ERROR_WITHIN_S = 10.0
SCALED_S = 2.0
SLACK_S = 1.9  # of a busy machine; a second timeout would show

pytestmark = pytest.mark.timeout(240)


@contextmanager
def _killed(faults: FaultHouse, _: Proxy) -> Iterator[None]:
    faults.state.kill()
    yield
    faults.state.start()


@contextmanager
def _paused(faults: FaultHouse, _: Proxy) -> Iterator[None]:
    faults.state.pause()
    yield
    faults.state.resume()


@contextmanager
def _read_only(faults: FaultHouse, _: Proxy) -> Iterator[None]:
    with faults.state.client() as client:
        client.replicaof("127.0.0.1", "9")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def _full(faults: FaultHouse, _: Proxy) -> Iterator[None]:
    with faults.state.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def _refused(faults: FaultHouse, proxy: Proxy) -> Iterator[None]:
    proxy.turn(Weather(refuse=True))
    proxy.reset_all()
    with _weather(Weather(refuse=True))(faults, proxy):
        yield


def _weather(weather: Weather) -> Callable[[FaultHouse, Proxy], Any]:
    @contextmanager
    def turned(_: FaultHouse, proxy: Proxy) -> Iterator[None]:
        proxy.turn(weather)
        yield
        proxy.turn(FAIR)

    return turned


OUTAGES: dict[str, Callable[[FaultHouse, Proxy], Any]] = {
    "killed": _killed,
    "paused": _paused,
    "read-only": _read_only,
    "full": _full,
    "lost to the server": _weather(LOSE_TO_SERVER),
    "lost to the client": _weather(LOSE_TO_CLIENT),
    "refused": _refused,
    "cut": _weather(Weather(cut_after=0)),
}


def _items(faults: FaultHouse) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (request, {"idempotency_key": f"key-{at}"}) for at, request in enumerate(faults.requests(JOBS, "b"))
    ]


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_enqueue_fails_soon_and_its_repetition_creates_once(faults: FaultHouse, outage: str) -> None:
    """Whether or not the server heard the first try: one job per key, and one charge. Timeouts are scaled to 2 s."""
    faults.set_section("redis", socket_timeout_s=SCALED_S)
    proxy = faults.through("state")
    producer = faults.producer()
    producer.overview()  # its connection is open
    with OUTAGES[outage](faults, proxy):
        for enqueue in (_one, _many):
            assert _failed_after_s(faults, producer, enqueue) < SCALED_S + SLACK_S
    receipt = _many(faults, producer)
    assert receipt.total == JOBS
    assert len(set(receipt.job_ids)) == JOBS
    faults.worker()
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, receipt.job_ids)
    note_row(f"enqueue while the state server is {outage}", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert faults.counts() == {"completed": JOBS}


@pytest.mark.parametrize("is_open", [True, False], ids=["open connection", "new connection"])
def test_an_enqueue_fails_within_ten_seconds_by_default(faults: FaultHouse, *, is_open: bool) -> None:
    """With the timeouts of the settings table, and a network that swallows everything."""
    proxy = faults.through("state")
    producer = faults.producer()
    if is_open:
        producer.overview()
    proxy.turn(LOSE_BOTH)
    assert _failed_after_s(faults, producer, _many) < ERROR_WITHIN_S + SLACK_S / 2
    assert _failed_after_s(faults, producer, _one) < ERROR_WITHIN_S + SLACK_S / 2


def _failed_after_s(
    faults: FaultHouse, producer: Darkroom, enqueue: Callable[[FaultHouse, Darkroom], Any]
) -> float:
    started = time.monotonic()
    with pytest.raises(StateUnavailable):
        enqueue(faults, producer)
    return time.monotonic() - started


def _one(faults: FaultHouse, producer: Darkroom) -> Any:
    request, options = _items(faults)[0]
    return producer.enqueue(request, batch="b", webhook=faults.hook, **options)


def _many(faults: FaultHouse, producer: Darkroom) -> Any:
    return producer.enqueue_many(_items(faults), batch="b", webhook=faults.hook)
