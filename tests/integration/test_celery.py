"""Celery as it really runs: a worker process, a broker that dies, hangs or forgets, signals, and what Flower hears."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery.events.state import State
from kombu.exceptions import OperationalError

from shared.broker import HintPublisher, make_app, publish_hint, task_name, unread_hints
from shared.redis.keys import Keys
from shared.settings import BrokerSettings, RedisSettings, Settings
from tests.integration.fake_worker import NOTES
from tests.servers import ValkeyProc
from workers.flower import JobEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery import Celery

KEYS = Keys.of("darkroom")
JOB = "job_0123456789abcdefghijklmnop"


def until(condition: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    """Wait for something that happens in another process or thread."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProc]:
    with ValkeyProc(tmp_path_factory.mktemp("celery") / "state") as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyProc]:
    """Give a broker of its own, for tests that kill it: it remembers nothing."""
    with ValkeyProc(tmp_path / "broker", name="broker", appendonly="no") as server:
        yield server


@pytest.fixture
def state(valkey: ValkeyProc) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url(valkey)) as client:
        client.flushall()
        yield client


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port where nobody listens: bound, so that nobody else gets it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def black_hole() -> Iterator[int]:
    """Give a port that takes connections and bytes, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def url(server: ValkeyProc | int, db: int = 0) -> str:
    port = server if isinstance(server, int) else server.port
    return f"redis://127.0.0.1:{port}/{db}"


def app_at(broker_url: str, namespace: str = "darkroom") -> Celery:
    settings = Settings(broker=BrokerSettings(url=broker_url), redis=RedisSettings(namespace=namespace))
    return make_app(settings)


class Worker:
    """A `celery worker` process around the noting runtime."""

    def __init__(
        self, state: redis.Redis, state_url: str, broker_url: str, *options: str, **env: str
    ) -> None:
        self._state = state
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "tests.integration.fake_worker",
                "worker",
                "-l",
                "INFO",
                *options,
            ],
            env=os.environ
            | {"DARKROOM_REDIS__URL": state_url, "DARKROOM_BROKER__URL": broker_url}
            | {"DARKROOM_DEV_FILE": "/nonexistent"}
            | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def notes(self, kind: str) -> list[list[Any]]:
        raw: Any = self._state.lrange(NOTES, 0, -1)
        return [note for note in map(json.loads, raw) if note[0] == kind]

    def done(self, how: str = "") -> list[str]:
        """Give the ids worked on: in a Celery task (`run`), in place of a hint (`spawn`), or either."""
        found = [self.notes(kind) for kind in ("run", "spawn") if how in ("", kind)]
        return sorted(job_id for notes in found for note in notes for job_id in note[3])

    def started(self) -> None:
        until(lambda: self.notes("start") or self.process.poll() is not None, "the worker's start")
        assert self.process.poll() is None, self.output()

    def enqueue(self, *ids: str, index: str = "store") -> None:
        self._state.zadd(KEYS.index(index), dict.fromkeys(ids, 1))

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def worker_at(state: redis.Redis, server: ValkeyProc, broker_url: str, *options: str) -> Iterator[Worker]:
    worker = Worker(state, url(server), broker_url, *options)
    try:
        worker.started()
        yield worker
    finally:
        worker.kill()


def test_a_plain_worker_serves_stops_at_sigterm_and_leaves_nothing_behind(
    state: redis.Redis, valkey: ValkeyProc
) -> None:
    """Without -P: hints arrive as tasks on pool threads, claims stop before the drain, exit code 0."""
    with worker_at(state, valkey, url(valkey, 1)) as worker:
        worker.enqueue("job_a")
        until(worker.done, "the first job")
        state.zadd(KEYS.index("poll:default/m"), {"job_b": 1})
        until(lambda: len(worker.done()) == 2, "the second job")
        assert worker.done("run") == ["job_a", "job_b"]
        assert {note[4].split("_")[0] for note in worker.notes("run")} == {"ThreadPoolExecutor-0"}
        assert worker.terminate() == 0
        assert worker.notes("close") == [["close", True]]
        output = worker.output()
        assert "concurrency: 16 (thread)" in output
        assert "Traceback" not in output
    with redis.Redis.from_url(url(valkey, 1)) as broker_client:
        left: Any = broker_client.keys("*")
        lists = [key for key in left if broker_client.type(key) == b"list"]
    assert lists == []
    assert all(key.startswith(b"darkroom.broker.") for key in left)


def test_work_goes_on_while_the_broker_is_dead_and_sigterm_still_ends_the_worker(
    state: redis.Redis, valkey: ValkeyProc, broker: ValkeyProc
) -> None:
    """The pacemaker is not Celery's timer: it goes on, and runs the stages here."""
    with worker_at(state, valkey, url(broker)) as worker:
        worker.enqueue("job_a")
        until(worker.done, "a job by way of the broker")
        broker.kill()
        worker.enqueue("job_b")
        until(lambda: "job_b" in worker.done("spawn"), "a job without a broker")
        assert worker.terminate() == 0
        assert worker.notes("close") == [["close", True]]


def test_work_goes_on_while_the_broker_hangs_and_sigterm_still_ends_the_worker(
    state: redis.Redis, valkey: ValkeyProc, broker: ValkeyProc
) -> None:
    """Connections stay up and nothing answers: each publish would cost 10 s."""
    with worker_at(state, valkey, url(broker)) as worker, redis.Redis.from_url(url(broker)) as client:
        worker.enqueue("job_a")
        until(lambda: worker.done("run"), "a job by way of the broker")
        pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for job_id in ("job_b", "job_c", "job_d"):
                worker.enqueue(job_id)
                time.sleep(0.5)
            until(lambda: set(worker.done("spawn")) >= {"job_b", "job_c", "job_d"}, "jobs without a broker")
            assert worker.terminate() == 0
            assert worker.notes("close") == [["close", True]]
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_broker_that_comes_back_is_used_again(
    state: redis.Redis, valkey: ValkeyProc, broker: ValkeyProc
) -> None:
    """Killed under the worker and started again, empty: the worker lives and takes hints."""
    with worker_at(state, valkey, url(broker)) as worker:
        worker.enqueue("job_a")
        until(lambda: worker.done("run"), "a hint before")
        broker.kill()
        worker.enqueue("job_b")
        until(lambda: "job_b" in worker.done("spawn"), "a job without a broker")
        broker.start()

        def hinted_again() -> bool:
            worker.enqueue("job_c")
            return "job_c" in worker.done("run")

        until(hinted_again, "a hint after", timeout_s=60)
        assert worker.terminate() == 0


def test_a_worker_starts_and_works_without_any_broker(
    state: redis.Redis, valkey: ValkeyProc, closed_port: int
) -> None:
    """The consumer may wait for its broker for ever; the jobs do not."""
    with worker_at(state, valkey, url(closed_port)) as worker:
        worker.enqueue("job_a")
        until(lambda: worker.done("spawn") == ["job_a"], "a job without a broker")
        assert worker.terminate() == 0
        assert worker.notes("close") == [["close", True]]


def test_a_broker_that_is_flushed_all_the_time_loses_no_job(
    state: redis.Redis, valkey: ValkeyProc, broker: ValkeyProc
) -> None:
    """Messages and bindings vanish under everybody's hands."""
    stop = threading.Event()

    def flush() -> None:
        with redis.Redis.from_url(url(broker)) as client:
            while not stop.wait(0.005):
                client.flushall()

    ids = [f"job_{at:03}" for at in range(40)]
    with worker_at(state, valkey, url(broker)) as worker:
        flushing = threading.Thread(target=flush)
        flushing.start()
        try:
            for job_id in ids:
                worker.enqueue(job_id)
                time.sleep(0.02)
            until(lambda: worker.done() == ids, "all jobs")
        finally:
            stop.set()
            flushing.join()
        assert worker.process.poll() is None


def test_two_workers_share_a_backlog_by_hints(state: redis.Redis, valkey: ValkeyProc) -> None:
    """One look publishes as many hints as there are workers to take them."""
    with (
        worker_at(state, valkey, url(valkey, 1), "-n", "one@%h"),
        worker_at(state, valkey, url(valkey, 1), "-n", "two@%h") as worker,
    ):
        until(lambda: state.zcard(KEYS.workers) == 2, "both workers' signs of life")
        worker.enqueue(*(f"job_{at:04}" for at in range(500)))
        until(lambda: len(worker.done()) == 500, "all jobs")
        assert len(set(worker.done())) == 500


def answer(app: Celery, command: str, **arguments: str) -> list[dict[str, Any]]:
    """Give the one worker's answer to a remote control command."""
    found: Any = app.control.broadcast(command, arguments=arguments, reply=True, limit=1, timeout=30)
    return list(found)


def test_flowers_revoke_and_terminate_cancel_a_job(state: redis.Redis, valkey: ValkeyProc) -> None:
    """The broadcast that Flower's buttons send, answered at once; other ids stay Celery's."""
    app = app_at(url(valkey, 1))
    with worker_at(state, valkey, url(valkey, 1)) as worker:
        until(lambda: app.control.ping(timeout=1), "the worker's remote control")
        replies = answer(app, "revoke", task_id=JOB)
        assert [next(iter(reply.values())) for reply in replies] == [{"ok": f"cancelling {JOB}"}]
        app.control.terminate("job_other", signal="SIGTERM")
        until(lambda: len(worker.notes("cancel")) == 2, "both cancellations")
        assert worker.notes("cancel") == [["cancel", [JOB]], ["cancel", ["job_other"]]]
        assert "flagged as revoked" in str(answer(app, "revoke", task_id="5f0dcafe"))
        revoked = answer(app, "revoked")
        assert [next(iter(reply.values())) for reply in revoked] == [["5f0dcafe"]]
        assert len(worker.notes("cancel")) == 2


def configure(server: ValkeyProc, **config: str) -> None:
    """Set the server's configuration while it runs."""
    with redis.Redis.from_url(url(server)) as client:
        for name, value in config.items():
            client.config_set(name.replace("_", "-"), value)


def test_neither_settings_nor_logs_of_a_worker_show_the_passwords(broker: ValkeyProc) -> None:
    """What Flower can ask for, and what the process prints."""
    configure(broker, requirepass="pwd-canary")
    state_url = f"redis://:pwd-canary@127.0.0.1:{broker.port}"
    with redis.Redis.from_url(f"{state_url}/0") as client:
        worker = Worker(client, f"{state_url}/0", f"{state_url}/1")
        try:
            worker.started()
            app = app_at(f"{state_url}/1")
            until(lambda: app.control.ping(timeout=1), "the worker's remote control")
            told = str(answer(app, "conf")) + str(answer(app, "stats"))
            assert "darkroom.submit" in told
            assert worker.terminate() == 0
            assert "pwd-canary" not in told + worker.output()
        finally:
            worker.kill()


REFUSALS: dict[str, tuple[dict[str, str], str, str]] = {
    "no server": ({}, "redis://127.0.0.1:{closed}/0", "Start it"),
    "wrong password": (
        {"requirepass": "right"},
        "redis://:pwd-canary@127.0.0.1:{port}/0",
        "DARKROOM_REDIS__URL",
    ),
    "evicting": (
        {"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"},
        "redis://127.0.0.1:{port}/0",
        "noeviction",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_unfit_state_server_ends_the_worker_with_one_line_and_exit_code_2(
    case: str, closed_port: int, tmp_path: Path
) -> None:
    """What to do is said, the password is not."""
    config, pattern, advice = REFUSALS[case]
    with ValkeyProc(tmp_path / "state") as server:
        configure(server, **config)
        state_url = pattern.format(port=server.port, closed=closed_port)
        told = refused(DARKROOM_REDIS__URL=state_url, DARKROOM_BROKER__URL=url(closed_port))
    assert advice in told
    assert "canary" not in told


def refused(*options: str, **env: str) -> str:
    """Start the real worker, which must refuse; give the one line that it says."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "workers.app", "worker", *options],
        env=os.environ | {"DARKROOM_DEV_FILE": "/nonexistent"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout.strip() == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("options", "env", "advice"),
    [
        ((), {"DARKROOM_WORKER__CLAIM_SIZE": "many"}, "DARKROOM_WORKER__CLAIM_SIZE"),
        ((), {"DARKROOM_BROKER__URL": "nonsense://"}, "DARKROOM_BROKER__URL"),
        (("-P", "solo"), {}, "-P threads"),
    ],
)
def test_wrong_settings_and_pools_are_refused_the_same_way(
    options: tuple[str, ...], env: dict[str, str], advice: str
) -> None:
    """One line, exit code 2."""
    assert advice in refused(*options, **env)


def test_a_hint_is_a_small_json_message_with_a_lane_at_most(state: redis.Redis, valkey: ValkeyProc) -> None:
    """Read from the queue as it lies there."""
    app = app_at(url(valkey, 1))
    publish_hint(app, "submit", "default/m")
    with redis.Redis.from_url(url(valkey, 1)) as client:
        raw: Any = client.lrange(f"darkroom.broker.{task_name('submit')}", 0, -1)
    assert len(raw) == 1
    message = json.loads(raw[0])
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "darkroom.submit"
    assert message["headers"]["argsrepr"] == "('default/m',)"
    assert message["headers"]["eta"] is None
    assert message["headers"]["ignore_result"] is True
    assert len(raw[0]) < 1500
    assert unread_hints(app, "submit") == 1
    assert unread_hints(app, "poll") == 0
    assert state.keys("*") == []


def test_stacks_in_two_namespaces_do_not_take_each_others_hints(
    state: redis.Redis, valkey: ValkeyProc
) -> None:
    """Same server, same database."""
    one, other = app_at(url(valkey, 1), "one"), app_at(url(valkey, 1), "other")
    publish_hint(one, "poll", "default/m")
    assert unread_hints(one, "poll") == 1
    assert unread_hints(other, "poll") == 0
    assert state.keys("*") == []


def test_publishing_to_a_dead_broker_raises_instead_of_waiting_for_it(closed_port: int) -> None:
    """With kombu's defaults this call would not return before the broker does."""
    with pytest.raises(OperationalError):
        publish_hint(app_at(url(closed_port)), "submit", "default/m")


def test_a_broker_that_dies_between_two_hints_raises_and_is_found_again(broker: ValkeyProc) -> None:
    """A pooled connection that broke is not a pool that is broken."""
    app = app_at(url(broker))
    publish_hint(app, "submit", "default/m")
    broker.kill()
    with pytest.raises(OperationalError):
        publish_hint(app, "submit", "default/m")
    broker.start()
    publish_hint(app, "submit", "default/m")
    assert unread_hints(app, "submit") == 1


@pytest.mark.parametrize("trouble", ["closed_port", "black_hole"])
def test_a_producers_hint_never_waits_for_the_broker(trouble: str, request: pytest.FixtureRequest) -> None:
    """A publish into the hole takes seconds; a hundred thousand hints into it would take days if they waited."""
    hints = HintPublisher(app_at(url(request.getfixturevalue(trouble))))
    for _ in range(100_000):
        hints.hint("submit", "default/m")
    hints.close(timeout_s=0.1)
    assert hints.published == 0


def test_a_publisher_delivers_what_was_hinted_before_close(state: redis.Redis, valkey: ValkeyProc) -> None:
    """By way of a real broker."""
    app = app_at(url(valkey, 1))
    hints = HintPublisher(app)
    hints.hint("submit", "default/m", 2)
    hints.hint("notify", "")
    hints.close(timeout_s=30)
    assert (unread_hints(app, "submit"), unread_hints(app, "notify")) == (2, 1)
    assert state.keys("*") == []


@contextmanager
def listening(app: Celery, server: ValkeyProc) -> Iterator[tuple[Any, list[bytes]]]:
    """Be Flower: give Celery's event state as it grows, and, when the block is left, the raw payloads."""
    seen: Any = State()
    raw: list[bytes] = []
    receivers: list[Any] = []

    def capture() -> None:
        with app.connection_for_read() as connection:
            receivers.append(app.events.Receiver(connection, handlers={"*": seen.event}))
            receivers[0].capture(limit=None, timeout=None, wakeup=False)

    with redis.Redis.from_url(url(server)) as client, client.pubsub() as wire:
        wire.psubscribe("*celeryev*")
        assert wire.get_message(timeout=20) is not None
        before = client.pubsub_numpat()
        thread = threading.Thread(target=capture)
        thread.start()
        try:
            until(lambda: client.pubsub_numpat() > before, "the receiver's subscription")
            yield seen, raw
        finally:
            receivers[0].should_stop = True
            thread.join()
            while (message := wire.get_message(timeout=0.2)) is not None:
                raw += [message["data"]] if message["type"] == "pmessage" else []


@pytest.mark.parametrize(
    ("end", "fields", "shown"),
    [
        ("succeeded", {"images": 4, "cost_micros": 800_000, "currency": "CNY"}, "SUCCESS"),
        ("failed", {"code": "refused"}, "FAILURE"),
        ("revoked", {}, "REVOKED"),
    ],
)
def test_flower_sees_a_job_to_its_end_and_nothing_that_is_secret(
    valkey: ValkeyProc, end: str, fields: dict[str, Any], shown: str
) -> None:
    """Over a real broker, in batches, with the times at which things happened and the node's own name."""
    app = app_at(url(valkey, 1))
    events = JobEvents(app, "celery@here", max_per_s=2000)
    before = time.time()
    with listening(app, valkey) as (seen, raw):
        events.start()
        events.emit("received", JOB, model="wan2.7-image")
        events.emit("started", JOB, model="wan2.7-image", size="2K", stage="submitting")
        events.emit("started", JOB, model="wan2.7-image", size="2K", stage="prompt-canary https://canary")
        events.emit(end, JOB, prompt="prompt-canary", **fields)
        after = time.time()
        until(lambda: JOB in seen.tasks and seen.tasks[JOB].state == shown, f"the row to show {shown}")
        events.close()
    task = seen.tasks[JOB]
    assert (task.name, task.worker.hostname) == ("generate_image", "celery@here")
    assert before - 1 <= task.started <= task.timestamp <= after + 1
    assert "'size': '2K'" in task.kwargs
    assert (events.sent, events.dropped) == (4, 0)
    assert len(raw) <= 2
    assert b"canary" not in b"".join(raw)


def test_thousands_of_events_arrive_in_few_messages_and_in_order(valkey: ValkeyProc) -> None:
    """A burst goes out at the bounded rate, and each row ends."""
    app = app_at(url(valkey, 1))
    events = JobEvents(app, "celery@here", max_per_s=4000)
    ids = [f"job_{at:04}" for at in range(500)]
    with listening(app, valkey) as (seen, raw):
        events.start()
        for kind in ("received", "started", "succeeded"):
            for job_id in ids:
                events.emit(kind, job_id)
        until(
            lambda: (
                len(seen.tasks) == 500 and all(task.state == "SUCCESS" for task in list(seen.tasks.values()))
            ),
            "all rows to end",
        )
        events.close()
    assert events.dropped == 0
    assert len(raw) <= 6


def test_events_are_dropped_while_the_broker_is_dead_and_flow_again_after(broker: ValkeyProc) -> None:
    """Nobody waits, nothing piles up, every loss is counted."""
    app = app_at(url(broker))
    events = JobEvents(app, "celery@here", max_per_s=100)
    events.start()
    events.emit("received", JOB)
    until(lambda: events.sent == 1, "the first event")
    broker.kill()
    for _ in range(10_000):
        events.emit("started", JOB)
    until(lambda: events.dropped > 9_925, "a failed flush")
    broker.start()
    with listening(app, broker) as (seen, _raw):

        def told_again() -> bool:
            events.emit("succeeded", JOB)
            return JOB in seen.tasks and seen.tasks[JOB].state == "SUCCESS"

        until(told_again, "an event after the outage")
        events.close()


def test_a_broker_that_hangs_holds_up_neither_emit_nor_the_end(black_hole: int) -> None:
    """The worker's exit does not wait for Flower."""
    events = JobEvents(app_at(url(black_hole)), "celery@here", max_per_s=100)
    events.start()
    for _ in range(100_000):
        events.emit("started", JOB)
    events.close(timeout_s=0.1)
    assert events.sent == 0
    assert events.dropped > 99_000


def test_the_events_of_one_stack_are_not_shown_by_anothers_flower(valkey: ValkeyProc) -> None:
    """Pub/sub ignores databases: only the prefix keeps two stacks on one server apart."""
    one, other = app_at(url(valkey, 1), "one"), app_at(url(valkey, 1), "other")
    mine, theirs = (JobEvents(app, "celery@here", max_per_s=100) for app in (one, other))
    with listening(one, valkey) as (seen, _raw):
        for events, job_id in ((theirs, "job_theirs"), (mine, "job_mine")):
            events.start()
            events.emit("received", job_id)
            events.close(timeout_s=20)
        until(lambda: "job_mine" in seen.tasks, "our own event")
    assert theirs.sent == 1
    assert list(seen.tasks) == ["job_mine"]


def test_a_running_worker_shows_cancelled_jobs_as_revoked_and_no_stage_tasks(
    state: redis.Redis, valkey: ValkeyProc
) -> None:
    """Flower switches task events on in every worker; only jobs may appear."""
    app = app_at(url(valkey, 1))
    with worker_at(state, valkey, url(valkey, 1)) as worker:
        until(lambda: app.control.ping(timeout=1), "the worker's remote control")
        with listening(app, valkey) as (seen, _raw):
            app.control.enable_events()
            worker.enqueue("job_a")
            until(worker.done, "a job done by a stage task")
            app.control.revoke(JOB, terminate=True, signal="SIGKILL")
            until(lambda: JOB in seen.tasks and seen.tasks[JOB].state == "REVOKED", "the row to show REVOKED")
        assert worker.process.poll() is None
    assert list(seen.tasks) == [JOB]
    assert seen.tasks[JOB].worker.hostname in seen.workers
