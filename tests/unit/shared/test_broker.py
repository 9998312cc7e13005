"""The Celery app as both sides get it, and the thread that publishes hints. No broker runs here."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from celery._state import get_current_app
from celery.backends.base import DisabledBackend

from shared.broker import DOWN_FOR_S, STAGES, UNREAD_MAX, HintPublisher, make_app, task_name
from shared.errors import ConfigurationError
from shared.settings import BrokerSettings, RedisSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

URL = "redis://127.0.0.1:1/3"


def settings(url: str = URL, namespace: str = "darkroom") -> Settings:
    return Settings(broker=BrokerSettings(url=url), redis=RedisSettings(namespace=namespace))


def test_publishing_is_set_to_fail_at_once_and_to_wait_for_nothing_for_ever() -> None:
    """Without these, `send_task(retry=False)` blocks while the broker is down, and half-open sockets hang."""
    options = make_app(settings()).conf.broker_transport_options
    assert {name: options[name] for name in options if name.startswith(("max_", "interval_"))} == {
        "max_retries": 0,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
    }
    assert options["socket_timeout"] == 10
    assert options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] == 10
    assert options["visibility_timeout"] == 300
    assert options["unacked_restore_interval"] == 5
    assert options["unacked_restore_throttle"] == 1


def test_stacks_that_share_a_server_have_keys_of_their_own() -> None:
    """The namespace of the state server is in the prefix of every key of the broker."""
    one, other = (
        make_app(settings(namespace=name)).conf.broker_transport_options for name in ("one", "other")
    )
    assert one["global_keyprefix"] == "one.broker."
    assert other["global_keyprefix"] == "other.broker."


def test_messages_are_json_and_results_are_not_kept() -> None:
    """The job record is the result; pickle never crosses the broker."""
    app = make_app(settings())
    conf = app.conf
    assert conf.accept_content == ["json"]
    assert {conf.task_serializer, conf.result_serializer, conf.event_serializer} == {"json"}
    assert conf.task_ignore_result is True
    assert conf.task_publish_retry is False
    assert conf.task_send_sent_event is False
    assert isinstance(app.backend, DisabledBackend)


def test_each_stage_has_a_queue_of_its_own() -> None:
    """A slow notify must not delay the hints of a submit."""
    app = make_app(settings())
    assert sorted(app.amqp.queues) == sorted(task_name(stage) for stage in STAGES)
    assert app.conf.task_create_missing_queues is False


def test_the_app_of_a_backend_that_uses_celery_itself_is_left_alone() -> None:
    """A producer's host process may have a Celery app, and must keep it."""
    before = get_current_app()
    assert make_app(settings()) is not get_current_app()
    assert get_current_app() is before


def test_environment_variables_of_another_celery_do_not_divert_our_hints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CELERY_BROKER_URL beats broker_url: a backend's own broker would fill with hints that nobody reads."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere:6379/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://elsewhere:6379/0")
    app = make_app(settings())
    for connection in (app.connection_for_write(), app.connection_for_read(), app.connection()):
        assert connection.as_uri().endswith("@127.0.0.1:1/3")
    assert isinstance(app.backend, DisabledBackend)


def test_the_password_of_the_broker_is_not_shown_to_flower() -> None:
    """`inspect conf` is what Flower's worker page displays."""
    app = make_app(settings("redis://:pwd-canary@127.0.0.1:1/0"))
    assert "pwd-canary" not in str(app.conf.table(with_defaults=False, censored=True))


@pytest.mark.parametrize("url", ["nonsense://host/0", "localhost:6379", ""])
def test_a_broker_url_of_no_known_kind_is_refused_with_what_to_set(url: str) -> None:
    """One sentence instead of a KeyError from within kombu."""
    with pytest.raises(ConfigurationError, match="DARKROOM_BROKER__URL"):
        make_app(settings(url))


def test_the_master_of_a_sentinel_is_passed_on() -> None:
    """The transport asks for its name in the options."""
    broker = BrokerSettings(url="sentinel://127.0.0.1:1", sentinel_master="main")
    assert make_app(Settings(broker=broker)).conf.broker_transport_options["master_name"] == "main"


class Wire:
    """Stands in for publishing: holds, fails, and remembers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.waiting = 0

    def publish(self, _app: Celery, stage: str, lane: str) -> None:
        self.asked.release()
        self.go.wait(60)
        if self.error is not None:
            raise self.error
        self.sent.append((stage, lane))

    def unread(self, _app: Celery, _stage: str) -> int:
        return self.waiting

    def publisher(
        self, clock: Callable[[], float] = time.monotonic, on_failed: Callable[[str, str], None] | None = None
    ) -> HintPublisher:
        return HintPublisher(
            make_app(settings()), on_failed=on_failed, publish=self.publish, unread=self.unread, clock=clock
        )


def test_hints_are_published_as_often_as_asked_and_close_waits_for_them() -> None:
    """A short-lived producer closes its client right after the enqueue."""
    wire = Wire()
    hints = wire.publisher()
    assert hints.hint("submit", "a/m", 3)
    assert hints.hint("notify", "")
    hints.close(timeout_s=20)
    assert sorted(wire.sent) == [("notify", ""), *[("submit", "a/m")] * 3]
    assert hints.published == 4
    assert hints.hint("submit", "a/m") is False


def test_the_same_place_waits_once_however_often_it_is_hinted() -> None:
    """A producer that enqueues a million jobs in chunks must not queue a million hints."""
    wire = Wire()
    wire.go.clear()
    hints = wire.publisher()
    hints.hint("poll", "a/m")
    assert wire.asked.acquire(timeout=20)
    for _ in range(1000):
        hints.hint("submit", "a/m")
    wire.go.set()
    hints.close(timeout_s=20)
    assert wire.sent == [("poll", "a/m"), ("submit", "a/m")]


def test_a_broker_that_hangs_delays_nobody_and_is_told_to_the_caller() -> None:
    """A blackholed broker costs 5 to 10 s per publish: on the publisher's thread only."""
    now = [0.0]
    wire = Wire()
    wire.go.clear()
    hints = wire.publisher(clock=lambda: now[0])
    assert hints.hint("submit", "a/m") is True
    assert wire.asked.acquire(timeout=20)
    now[0] = 0.3
    assert hints.hint("submit", "a/m") is False
    wire.go.set()
    hints.close(timeout_s=20)


def test_after_a_failure_the_broker_is_left_alone_for_a_second() -> None:
    """Each further try could cost a connect timeout; what waited is handed back at once."""
    now = [0.0]
    failed: list[tuple[str, str]] = []
    handed_back = threading.Semaphore(0)

    def on_failed(stage: str, lane: str) -> None:
        failed.append((stage, lane))
        handed_back.release()
        raise RuntimeError("whatever the other side does")

    wire = Wire()
    wire.go.clear()
    wire.error = OSError("down")
    hints = wire.publisher(clock=lambda: now[0], on_failed=on_failed)
    hints.hint("submit", "a/m")
    assert wire.asked.acquire(timeout=20)
    hints.hint("poll", "a/m")
    wire.go.set()
    assert handed_back.acquire(timeout=20)
    assert handed_back.acquire(timeout=20)
    assert failed == [("submit", "a/m"), ("poll", "a/m")]
    assert wire.asked.acquire(blocking=False) is False
    assert hints.hint("submit", "a/m") is False

    now[0] = DOWN_FOR_S + 0.1
    wire.error = None
    while not hints.hint("submit", "a/m"):
        time.sleep(0.001)
    hints.close(timeout_s=20)
    assert wire.sent == [("submit", "a/m")]


def test_hints_that_nobody_reads_are_not_piled_up() -> None:
    """Producers may go on for a night without a worker; the queue must not fill the server."""
    wire = Wire()
    wire.waiting = UNREAD_MAX + 1
    handed_back = threading.Event()
    hints = wire.publisher(on_failed=lambda _stage, _lane: handed_back.set())
    hints.hint("submit", "a/m")
    assert handed_back.wait(20)
    assert wire.sent == []


def test_a_forked_child_publishes_with_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-forking servers import the client before they fork; threads do not follow."""
    wire = Wire()
    hints = wire.publisher()
    hints.hint("submit", "a/m")
    hints._changed.acquire()  # as another thread may have held it at the moment of the fork
    monkeypatch.setattr("shared.broker.os.getpid", lambda: -1)
    assert hints.hint("poll", "a/m") is True
    hints.close(timeout_s=20)
    assert ("poll", "a/m") in wire.sent
