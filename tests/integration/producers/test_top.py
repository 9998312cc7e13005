"""`darkroom top` against a real state server: piped, narrow, as JSON, and while the server is away."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, Any

import pytest

from producers.parties import MOST_ENDPOINTS
from producers.vitals import MOST_TENANTS, SpendUse, read_vitals
from shared.settings import CapSettings
from tests.integration.producers.conftest import FOX, LANE, MODEL
from tests.servers import ValkeyProc, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

DARKROOM = str(Path(sys.executable).with_name("darkroom"))
Pty = tuple[int, int]


def run(state: State, folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the test's settings and its output piped."""
    full = {**os.environ, **environment(state.settings), **env}
    return subprocess.run(
        [DARKROOM, "top", *args],
        cwd=folder,
        env=full,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_json_has_lanes_queues_stages_and_spend(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """One object for scripts: what is queued, in flight and unanswered, with the limits beside it."""
    for _ in range(3):
        darkroom.enqueue(FOX)
    darkroom.enqueue(FOX, tenant="acme")
    first, second = worker.claim(2)
    worker.intend(first)
    worker.intend(second)
    worker.accept(second, "g-1")
    found = json.loads(run(state, tmp_path, "--json").stdout)
    lane = next(each for each in found["lanes"] if each["name"] == LANE)
    assert (lane["posts"], lane["in_flight"], lane["polling"], lane["condition"]) == (1, 2, 1, "open")
    assert (lane["posts_limit"], lane["slots_limit"]) == (32, 200)
    assert sum(each["depth"] for each in found["queues"]) == 2
    assert all(each["model"] == MODEL and each["next_age_ms"] >= 0 for each in found["queues"])
    assert {each["stage"] for each in found["stages"]} == {"submit", "poll", "store", "notify"}
    account = [each for each in found["spend"] if each["scope"] == "account:default"]
    assert {each["window"]: each["used_micros"] for each in account} == dict.fromkeys(
        ("day", "month", "total"), 400_000
    )
    assert {each["held_micros"] for each in account} == {400_000}
    assert found["counts"]["queued"] == 2
    assert found["left_out"] == {}


def test_json_has_workers_and_endpoints(state: State, tmp_path: Path, darkroom: Darkroom) -> None:
    """What each worker says of itself, and where deliveries wait, with the reason of the oldest that failed."""
    now_ms, keys, client = darkroom.now_ms(), state.keys, state.client
    client.zadd(keys.workers, {"w1@a:7": now_ms - 500, "w2@b:8": now_ms, "gone@c:9": now_ms - 600_000})
    told: dict[Any, Any] = {"host": "a", "pid": 7, "since": now_ms - 60_000, "version": "1.2"}
    told |= {"stages": "submit poll", "held": "poll=12 submit=3"}
    client.hset(keys.worker("w1@a:7"), mapping=told)
    client.pexpire(keys.worker("w1@a:7"), 60_000)
    with darkroom_deliveries(state, "hooks.example.com", waiting=3, failing=2, now_ms=now_ms):
        found = json.loads(run(state, tmp_path, "--json").stdout)
        text = run(state, tmp_path, COLUMNS="200").stdout
    first, second = found["workers"]
    assert (first["name"], first["pid"], first["version"]) == ("w1@a:7", 7, "1.2")
    assert (first["stages"], first["in_flight"]) == (["submit", "poll"], {"poll": 12, "submit": 3})
    assert 500 <= first["seen_ms"] < 60_000
    assert (second["name"], second["since_at"], second["in_flight"]) == ("w2@b:8", None, {})
    (endpoint,) = found["endpoints"]
    assert found["endpoint_count"] == 1
    assert (endpoint["host"], endpoint["waiting"], endpoint["failing"]) == ("hooks.example.com", 3, 2)
    assert (endpoint["last_status"], endpoint["tries"]) == ("status_500", 4)
    assert endpoint["oldest_ms"] >= 90_000
    assert 0 < endpoint["next_ms"] <= 30_000
    assert "poll 12 submit 3" in text
    assert "status_500 (try 4)" in text


@contextmanager
def darkroom_deliveries(
    state: State, host: str, *, waiting: int, failing: int, now_ms: int
) -> Iterator[None]:
    """Let deliveries wait at a host, as the notify stage enters them; the oldest first failed four times."""
    keys, client = state.keys, state.client
    events = {f"evt_{at}": now_ms - 90_000 + 1000 * at for at in range(waiting)}
    client.zadd(keys.endpoints, {host: waiting})
    client.zadd(keys.waiting(host), events)
    client.zadd(keys.failing(host), dict(list(events.items())[:failing]))
    client.hset(keys.delivery("evt_0"), mapping={"attempts": 4, "last_status": "status_500"})
    client.zadd(keys.index("notify"), {"evt_0": now_ms + 30_000})
    yield
    client.delete(keys.delivery("evt_0"))


def test_endpoints_beyond_a_screen_are_counted(state: State) -> None:
    """Those with the most deliveries are shown; the cost of a look does not grow with the rest."""
    now_ms = int(state.client.time()[0]) * 1000
    for number in range(MOST_ENDPOINTS + 2):
        host = f"h{number}.test"
        state.client.zadd(state.keys.endpoints, {host: number + 1})
        state.client.zadd(state.keys.waiting(host), {f"e{at}": now_ms for at in range(number + 1)})
    vitals = read_vitals(state.client, state.keys, state.settings)
    assert (len(vitals.endpoints), vitals.endpoint_count) == (MOST_ENDPOINTS, MOST_ENDPOINTS + 2)
    assert vitals.endpoints[0].host == f"h{MOST_ENDPOINTS + 1}.test"


def test_what_a_tenant_holds_stands_beside_what_it_used(
    state: State, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """Of a tenant that a cap names; once settled nothing is held, and it is still used."""
    cap = CapSettings(scope="tenant:acme", window="day", limit="5")
    settings = state.settings.model_copy(update={"caps": (cap,)})

    def spend() -> SpendUse:
        found = read_vitals(state.client, state.keys, settings).spend
        return next(each for each in found if each.scope == "tenant:acme")

    darkroom.enqueue(FOX, tenant="acme")
    assert (spend().used_micros, spend().held_micros) == (0, 0)
    (job_id,) = worker.claim()
    assert (spend().used_micros, spend().held_micros, spend().limit_micros) == (200_000, 200_000, 5_000_000)
    worker.intend(job_id)
    worker.accept(job_id, "g-1")
    worker.deliver(job_id)
    assert (spend().used_micros, spend().held_micros) == (200_000, 0)


@pytest.mark.parametrize("columns", ["40", "200"])
def test_piped_it_is_one_plain_snapshot(
    state: State, tmp_path: Path, darkroom: Darkroom, columns: str
) -> None:
    """Without escape codes, with what needs a person, and it ends by itself."""
    darkroom.enqueue(FOX)
    done = run(state, tmp_path, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "0/32" in done.stdout
    assert "no worker is alive" in done.stdout


def test_what_is_overdue_is_late(state: State, darkroom: Darkroom) -> None:
    """An entry whose time came five seconds ago, and one that is leased."""
    now_ms = darkroom.now_ms()
    state.client.zadd(state.keys.index("store"), {"job_a": now_ms - 5000, "job_b": now_ms + 60_000})
    store = next(
        each for each in read_vitals(state.client, state.keys, state.settings).stages if each.stage == "store"
    )
    assert store.due == 1
    assert store.lag_ms >= 5000


def test_tenants_beyond_a_screen_are_counted(state: State, darkroom: Darkroom) -> None:
    """The cost of a look does not grow with them."""
    for number in range(MOST_TENANTS + 3):
        darkroom.enqueue(FOX, tenant=f"t{number}")
    vitals = read_vitals(state.client, state.keys, state.settings)
    assert len(vitals.queues) == MOST_TENANTS
    assert vitals.left_out == {MODEL: 3}


def test_a_server_that_is_not_there_is_one_line(state: State, tmp_path: Path) -> None:
    """Piped, it ends with the usual error."""
    done = run(state, tmp_path, DARKROOM_REDIS='{"url": "redis://127.0.0.1:1/0"}')
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("darkroom: no Redis at 127.0.0.1:1/0. ")


def read_until(terminal: int, wanted: str, within_s: float = 30) -> str:
    """Read what a program draws until a text is in it."""
    seen, give_up_at = "", time.monotonic() + within_s
    while wanted not in seen:
        assert time.monotonic() < give_up_at, f"{wanted!r} was not drawn: {seen[-2000:]}"
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


def test_a_terminal_goes_on_when_the_server_is_back(state: State, tmp_path: Path) -> None:
    """Down is said in a line; the tables come back with the server; Ctrl-C ends it."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    with ValkeyProc(tmp_path / "server") as server:
        env: dict[str, Any] = {**os.environ, **environment(state.settings), "NO_COLOR": "1", "TERM": "xterm"}
        env["DARKROOM_REDIS"] = json.dumps({"url": server.url()})
        env.pop("COLUMNS", None)
        command = [DARKROOM, "top", "--interval", "0.2"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE
        ) as process:
            read_until(ours, LANE)
            server.kill()
            read_until(ours, "Looking again.")
            server.start()
            assert "\x1b[3" not in read_until(ours, LANE)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
    os.close(ours)
    os.close(theirs)
