"""What a webhook endpoint can do: every event comes in the end, under one id, and never holds up another endpoint's."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from producers.webhooks import job_deliveries
from tests.faults import middleman as spoils
from tests.faults.dials import peak_rss_mib, tune
from tests.faults.judge import judge
from tests.faults.middleman import Middleman, Twist
from tests.faults.table import note_row
from workers.crash_points import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from producers.webhooks import DeliveryStatus
    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

JOBS = 3
EVENTS = JOBS + 1  # and the batch's own
TIMEOUT_S = 1.0
GIB = 1024  # MiB

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Case:
    """What the endpoint does to the first EVENTS deliveries, and whether it counts as taken."""

    twist: Callable[[], Twist]
    taken: bool = False
    wait_s: float = 0


CASES = {
    "500": Case(lambda: Twist("event", spoils.says({}, 500))),
    "500, though it took it": Case(lambda: Twist("event", spoils.says({}, 500), pass_on=True)),
    "timeout: a byte every 0.3 s": Case(lambda: Twist("event", spoils.dripping(0.3, 3))),
    "hang": Case(lambda: Twist("event", spoils.silent(3))),
    "reset": Case(lambda: Twist("event", spoils.vanish)),
    "reset inside the body": Case(lambda: Twist("event", spoils.stopping(after="half", reset=True))),
    "429 with Retry-After 2": Case(
        lambda: Twist("event", spoils.says_bytes(b"", 429, "retry-after: 2\r\n")), wait_s=2.0
    ),
    "301": Case(lambda: Twist("event", spoils.says_bytes(b"", 301, "location: http://169.254.169.254/\r\n"))),
    "1 GiB with 500": Case(lambda: Twist("event", spoils.endless(GIB, 500))),
    "1 GiB with 200": Case(lambda: Twist("event", spoils.endless(GIB), pass_on=True), taken=True),
}


@pytest.mark.parametrize("name", CASES)
def test_an_endpoint_that_fails(faults: FaultHouse, name: str) -> None:
    """Tried again on the schedule, under the same id and a good signature, until it is acknowledged."""
    case = CASES[name]
    twist = case.twist()
    twist.times = EVENTS
    twist.pass_on = twist.pass_on and (case.taken or "took" in name)
    tune(faults, "webhooks", timeout_s=TIMEOUT_S)
    with Middleman(faults.sink.url, [twist]) as between:
        worker = faults.worker()
        before_mib = peak_rss_mib(worker.pid)
        ids = _enqueue(faults, f"{between.url}/ok")
        recovered_s = faults.quiet(JOBS)
        grew_mib = peak_rss_mib(worker.pid) - before_mib
        posts = [at for at, kind in between.seen if kind == "event"]
    verdict = _judged(faults, ids, f"webhook: {name}", recovered_s)
    assert verdict.clean, verdict
    told = _deliveries(faults, ids)
    assert {each.state for each in told} == {"delivered"}
    assert len(posts) == EVENTS if case.taken else len(posts) >= 2 * EVENTS
    assert grew_mib < 96, f"{grew_mib:.0f} MiB more, of four bodies of which 64 KiB each are read"
    if case.wait_s:
        assert posts[EVENTS] - posts[0] >= case.wait_s


def test_410_disables_the_delivery(faults: FaultHouse) -> None:
    """Gone means never again, for that delivery; the job is not touched by it."""
    faults.worker()
    ids = _enqueue(faults, f"{faults.sink.url}/gone")
    recovered_s = faults.quiet(JOBS)
    time.sleep(2)  # two steps of the schedule
    verdict = _judged(faults, ids, "webhook: 410", recovered_s)
    assert verdict.clean, verdict
    assert faults.sink.get("/summary")["deliveries"] == EVENTS
    assert {(each.state, each.last_status) for each in _deliveries(faults, ids)} == {("disabled", "gone")}


def test_a_certificate_nobody_vouches_for(faults: FaultHouse, tmp_path: Path) -> None:
    """Bad TLS is a failure like another: tried to the end of the schedule, and not a byte of the event is sent."""
    tune(faults, "webhooks", schedule_s=(0, 0.3, 0.3))
    faults.worker()
    with _tls_server(tmp_path) as (url, handshakes, received):
        ids = _enqueue(faults, url)
        recovered_s = faults.quiet(JOBS)
    verdict = _judged(faults, ids, "webhook: bad TLS", recovered_s)
    assert (verdict.lost, verdict.double_charged, verdict.forgotten, verdict.damaged) == (0, 0, 0, 0), verdict
    told = _deliveries(faults, ids)
    assert {(each.state, each.attempts) for each in told} == {("exhausted", 3)}
    assert {each.last_status for each in told} == {"tls_failed"}
    assert len(handshakes) >= 3 * JOBS
    assert received == []


def test_a_hanging_endpoint_does_not_delay_others(faults: FaultHouse) -> None:
    """Two hundred events for an endpoint that never answers, and the healthy one's come as if it were alone."""
    many, healthy = 200, 20
    tune(faults, "webhooks", timeout_s=3.0)
    tune(faults, "worker", notify_concurrency=16)
    faults.worker()
    with Middleman(faults.sink.url, [Twist("event", spoils.silent(20), pass_on=False)]) as between:
        slow_ids = _enqueue(faults, f"{between.url}/ok", many, batch="slow")
        faults.until(lambda: len(between.seen) >= 4, 30, "the endpoint hangs")
        ids = _enqueue(faults, f"{faults.sink.url}/ok", healthy)
        took_s = faults.until(lambda: faults.settled(healthy), 60, "the healthy jobs are settled")
        faults.until(
            lambda: faults.sink.get("/summary")["by_type"].get("image.completed", 0) == healthy, 20, "told"
        )
        delays_s = sorted(_told_after_s(faults, ids))
        between.twists.clear()  # healed: what waited for it is told, too
        faults.until(lambda: faults.settled(many, "slow"), 60, "the slow jobs are settled")
        faults.quiet(healthy)
    verdict = _judged(faults, slow_ids + ids, "webhook: another endpoint hangs", took_s)
    assert verdict.clean, verdict
    print(f"delays: median {delays_s[len(delays_s) // 2]:.2f} s, p95 {delays_s[int(0.95 * healthy)]:.2f} s")
    assert delays_s[-1] < 6, delays_s  # twice a timeout: the first few may wait for places once


def test_a_private_address_gets_no_packet(faults: FaultHouse) -> None:
    """Without allow_private a worker sends nothing to loopback: disabled, told why, and the listener hears nothing."""
    tune(faults, "webhooks", allow_private=False)
    tune(
        faults, "storage", url="off"
    )  # results are on loopback here, and would be refused for the same reason
    with _listener() as (address, port, heard):
        faults.worker()
        ids = _enqueue(faults, f"http://{address}:{port}/hook")
        recovered_s = faults.quiet(JOBS)
        time.sleep(0.5)
    verdict = _judged(faults, ids, "webhook: private address", recovered_s)
    assert (verdict.lost, verdict.double_charged, verdict.forgotten) == (0, 0, 0), verdict
    told = _deliveries(faults, ids)
    assert {(each.state, each.last_status) for each in told} == {("disabled", "forbidden_address")}
    assert heard == []
    assert faults.counts() == {"completed": JOBS}


def test_a_worker_killed_after_the_2xx(faults: FaultHouse) -> None:
    """Taken, and not recorded: it comes again under the same id, so that the receiver can tell."""
    victim = faults.worker("victim", **{VARIABLE: "notify.sent:1:KILL"})
    ids = _enqueue(faults, f"{faults.sink.url}/ok")
    faults.until(lambda: not victim.running, 40, "the victim told one event")
    faults.worker("heir")
    recovered_s = faults.quiet(JOBS)
    verdict = _judged(faults, ids, "webhook: worker killed after the 2xx", recovered_s)
    assert verdict.clean, verdict
    summary = faults.sink.get("/summary")
    assert summary["deliveries"] > summary["unique_ids"] == EVENTS
    assert summary["bad_signature"] == 0


def _enqueue(faults: FaultHouse, webhook: str, jobs: int = JOBS, batch: str = "b") -> list[str]:
    receipt = faults.darkroom.enqueue_many(faults.requests(jobs, batch), batch=batch, webhook=webhook)
    assert receipt.enqueued == jobs
    return [item.job_id for item in receipt.items if item.job_id]


def _judged(faults: FaultHouse, ids: list[str], fault: str, recovered_s: float) -> Verdict:
    verdict = judge(faults, ids)
    note_row(fault, faults.seed, verdict, recovered_s)
    return verdict


def _deliveries(faults: FaultHouse, ids: list[str]) -> list[DeliveryStatus]:
    return [each for job_id in ids for each in job_deliveries(faults.settings, job_id)]


def _told_after_s(faults: FaultHouse, ids: list[str]) -> Iterator[float]:
    for each in _deliveries(faults, ids):
        assert each.ended_at is not None
        yield (each.ended_at - each.created_at) / 1000


@contextmanager
def _accepting(server: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve connections in threads that end with the listener."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    server.listen(16)
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


@contextmanager
def _tls_server(folder: Path) -> Iterator[tuple[str, list[float], list[bytes]]]:
    """An endpoint with a certificate it made itself: its URL, the handshakes it saw, and what came after one."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
        " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    handshakes: list[float] = []
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        handshakes.append(time.monotonic())
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as inside:
            received.extend(filter(None, [inside.recv(1)]))

    server = socket.create_server(("127.0.0.1", 0))
    port = cast("int", server.getsockname()[1])
    with _accepting(server, serve):
        yield f"https://127.0.0.1:{port}/hook", handshakes, received


@contextmanager
def _listener() -> Iterator[tuple[str, int, list[str]]]:
    """Listen on a loopback address; give it, its port, and who connected.

    On port 80 if that may be opened: then it is the address that is refused, not the port.
    """
    address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
    try:
        server = socket.create_server((address, 80))
    except PermissionError:
        server = socket.create_server((address, 0))
    heard: list[str] = []

    def serve(connection: socket.socket) -> None:
        heard.append("connected")
        connection.close()

    port = cast("int", server.getsockname()[1])
    with _accepting(server, serve):
        yield address, port, heard
