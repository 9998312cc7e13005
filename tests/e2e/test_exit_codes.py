"""The exit code of a worker: 0 when it was asked to end and left nothing behind, whoever asked and whatever broke then."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shared.broker import make_app, task_name
from tests.servers import WorkerProc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)

GRACE_S = 30.0
JOBS = 4


def posting(house: House, seconds: str = "1.5") -> WorkerProc:
    """Give a worker whose POSTs are in flight, each for so long."""
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": seconds}]})
    worker = house.worker()
    house.enqueue(JOBS)
    house.until(lambda: house.counts() == {"submitting": JOBS}, 30, "POSTs in flight")
    house.until(lambda: house.ledger()["submits_seen"] == JOBS, 30, "the provider has them")
    return worker


def ended(worker: WorkerProc) -> int:
    """Wait for its end, which it was asked for; give its exit code."""
    give_up_at = time.monotonic() + GRACE_S
    while worker.running:
        assert time.monotonic() < give_up_at, worker.log()[-4000:]
        time.sleep(0.02)
    code = worker.exit_code
    assert code is not None
    return code


def _signal(number: signal.Signals) -> Callable[[House, WorkerProc], None]:
    return lambda _, worker: worker.signal(number)


def _remote_control(house: House, worker: WorkerProc) -> None:
    """As `celery control shutdown` and Flower do."""
    app = make_app(house.settings)
    house.until(lambda: bool(app.control.ping(timeout=1)), 30, "the worker's remote control")
    assert worker.running
    app.control.shutdown()


ASKED: dict[str, Callable[[House, WorkerProc], None]] = {
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "SIGQUIT": _signal(signal.SIGQUIT),
    "remote control": _remote_control,
}


@pytest.mark.parametrize("who", ASKED)
def test_a_worker_that_was_asked_to_end_waits_for_its_posts_and_ends_with_0(house: House, who: str) -> None:
    """Every way of asking drains: what is in flight is answered and recorded."""
    worker = posting(house)
    ASKED[who](house, worker)
    assert ended(worker) == 0, worker.log()[-4000:]
    assert house.counts() == {"generating": JOBS}


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGQUIT)],
)
def test_asking_twice_changes_nothing(house: House, numbers: tuple[signal.Signals, ...]) -> None:
    """An impatient supervisor does not make a job unknown."""
    worker = posting(house, "3")
    for number in numbers:
        worker.signal(number)
        time.sleep(0.5)  # two of a kind at once are one [signal(7)]
    assert ended(worker) == 0, worker.log()[-4000:]
    assert house.counts() == {"generating": JOBS}


def test_a_fourth_interrupt_cuts_work_off_and_says_so(house: House) -> None:
    """Ctrl-C again and again: the end is at once, with exit code 1 and its reason."""
    worker = posting(house, "19")
    for _ in range(4):
        worker.signal(signal.SIGINT)
        time.sleep(0.5)
    assert ended(worker) == 1
    assert "work_left_behind" in worker.log()


def test_what_the_grace_cuts_off_is_told_by_exit_code_1(house: House) -> None:
    """The state server is away until the end: answers of the provider are not recorded."""
    house.settings = house.settings.model_copy(
        update={"worker": house.settings.worker.model_copy(update={"submit_timeout_s": 5, "shutdown_s": 2})}
    )
    worker = posting(house)
    house.state.pause()
    try:
        worker.signal(signal.SIGTERM)
        assert ended(worker) == 1
    finally:
        house.state.resume()
    assert "work_left_behind" in worker.log()


def test_an_idle_worker_leaves_nothing_behind_though_both_servers_hang(house: House) -> None:
    """Nothing was under way, so nothing is lost by not waiting for them."""
    worker = house.worker()
    house.state.pause()
    house.broker.pause()
    try:
        worker.signal(signal.SIGTERM)
        assert ended(worker) == 0, worker.log()[-4000:]
    finally:
        house.state.resume()
        house.broker.resume()


def test_a_worker_that_is_asked_to_end_while_it_starts_ends_at_once_with_0(
    house: House, tmp_path: Path
) -> None:
    """It waits for a state server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = house.settings.redis.model_copy(
            update={"url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"}
        )
        worker = WorkerProc(tmp_path / "w", house.settings.model_copy(update={"redis": redis}))
        worker.start(wait=False)
        try:
            silent.settimeout(60)
            asking, _ = silent.accept()
            with asking:
                worker.signal(signal.SIGTERM)
                assert ended(worker) == 0, worker.log()[-4000:]
        finally:
            worker.stop()


def test_garbage_that_comes_while_it_stops_changes_nothing(house: House) -> None:
    """A message that is no message comes by the consumer's last read: it is dropped, all is drained, the code is 0."""
    worker = posting(house)
    worker.signal(signal.SIGTERM)
    house.until(lambda: "Warm shutdown" in worker.log(), 20, "the signal arrived")
    prefix = f"{house.settings.redis.namespace}.broker."
    with house.broker.client() as broker:
        for stage in ("submit", "poll", "store", "notify"):
            broker.lpush(f"{prefix}{task_name(stage)}", "no message")
    assert ended(worker) == 0, worker.log()[-4000:]
    assert "Expecting value" in worker.log() or "JSONDecodeError" in worker.log()
    assert "broker_message_dropped" in worker.log()
    assert house.counts() == {"generating": JOBS}
