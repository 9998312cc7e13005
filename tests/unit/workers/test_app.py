"""The worker's app: every setting read back from it, and the shape of a worker process."""

from __future__ import annotations

import json
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from celery import signals
from celery.app.defaults import NAMESPACES, flatten
from celery.concurrency.thread import TaskPool
from structlog.testing import capture_logs

import workers.app
from shared.settings import RedisSettings, Settings, WorkerSettings
from shared.settings_surface import FlowerSettings, LogSettings
from workers import logs
from workers.app import Plan, Process, build_app
from workers.ending import CutOff, Ending
from workers.tasks import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Celery

    from shared.redis.looks import Look


@pytest.fixture(scope="module")
def app() -> Celery:
    return build_app(Settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_pool", "threads"),
        ("worker_concurrency", 16),
        ("worker_prefetch_multiplier", 1),
        ("worker_enable_prefetch_count_reduction", False),
        ("worker_disable_rate_limits", True),
        ("task_acks_late", False),
        ("task_reject_on_worker_lost", False),
        ("task_ignore_result", True),
        ("task_store_errors_even_if_ignored", False),
        ("broker_connection_retry", True),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("broker_channel_error_retry", True),
        ("worker_enable_remote_control", True),
        ("worker_send_task_events", False),
        ("task_send_sent_event", False),
        ("task_track_started", False),
        ("control_queue_expires", 10.0),
        ("event_queue_expires", 60.0),
        ("event_queue_ttl", 5.0),
        ("worker_hijack_root_logger", False),
        ("worker_redirect_stdouts", False),
        ("accept_content", ["json"]),
    ],
)
def test_the_app_has_the_settings_that_were_measured_to_matter(app: Celery, name: str, value: Any) -> None:
    """Read back from the app: a setting that Celery ignores or renames would show here."""
    assert app.conf[name] == value


def test_every_setting_of_celeryconfig_is_one_that_celery_knows() -> None:
    """A misspelt name would be taken without a word."""
    known = {setting[0] for setting in flatten(NAMESPACES)}
    ours = [name for name in vars(workers.celeryconfig) if workers.app._is_setting(name)]
    assert len(ours) >= 20
    assert [name for name in ours if name not in known] == []


class Worker:
    """What Celery's worker_init signal sends, as far as we look at it."""

    def __init__(self, app: object, pool: object = TaskPool) -> None:
        self.app, self.pool_cls = app, pool
        self.options: dict[str, Any] = {}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the state server for good."""
    monkeypatch.setattr(workers.app, "check_server", lambda _client, _settings: None)


@pytest.mark.usefixtures("unchecked")
def test_gossip_and_mingle_are_off_without_options(app: Celery) -> None:
    """They have no setting, and cost traffic that nobody reads."""
    worker = Worker(app)
    signals.worker_init.send(sender=worker)
    assert worker.options == {"without_gossip": True, "without_mingle": True}


@pytest.mark.usefixtures("unchecked")
def test_workers_of_other_apps_in_the_process_are_left_alone(app: Celery) -> None:
    """Celery's signals are global."""
    other = Worker(object())
    signals.worker_init.send(sender=other)
    assert other.options == {}
    assert app.conf.worker_pool == "threads"


@pytest.mark.usefixtures("unchecked")
def test_another_pool_is_refused(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """Prefork would fork clients and threads; solo would block remote control for seconds."""
    with pytest.raises(SystemExit) as ended:
        signals.worker_init.send(sender=Worker(app, pool="celery.concurrency.solo:TaskPool"))
    assert ended.value.code == 2
    assert "-P threads" in capsys.readouterr().err


def test_wrong_settings_end_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`app` is made when it is asked for; then, at the latest, the settings must be right."""
    monkeypatch.setenv("DARKROOM_WORKER__CLAIM_SIZE", "many")
    workers.app._process_app.cache_clear()
    with pytest.raises(SystemExit) as ended:
        workers.app.app  # noqa: B018 - asking for it is the point
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "DARKROOM_WORKER__CLAIM_SIZE" in told


def test_the_app_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from workers.app import app` gives the same everywhere."""
    monkeypatch.setenv("DARKROOM_DEV_FILE", "/nonexistent")
    workers.app._process_app.cache_clear()
    assert workers.app.app is workers.app.app
    with pytest.raises(AttributeError):
        _ = workers.app.nothing


def stumble(prompt: str) -> None:
    """Fail with a secret in a local variable, as Python's own message would not show it."""
    held = prompt.upper()
    raise ValueError(len(held))


@pytest.mark.usefixtures("app", "logging_restored")
def test_logs_are_json_lines_and_tracebacks_show_no_locals(tmp_path: Path) -> None:
    """A receiver of setup_logging keeps Celery from handlers of its own; locals would show prompts."""
    file = tmp_path / "log"
    signals.setup_logging.send(sender=None, loglevel=logging.INFO, logfile=str(file))
    try:
        stumble("prompt-canary")
    except ValueError:
        structlog.get_logger("ours").exception("stage_fault", job_id="job_1")
    logging.getLogger("celery.worker").warning("theirs %s", 1)
    logging.getLogger("celery.worker.strategy").info("a line per hint")
    structlog.get_logger("ours").debug("below_the_level")
    ours, theirs = (json.loads(line) for line in file.read_text().splitlines())
    assert (ours["event"], ours["job_id"], ours["level"], ours["logger"]) == (
        "stage_fault",
        "job_1",
        "error",
        "ours",
    )
    assert "ValueError: 13" in ours["exception"]
    assert "PROMPT-CANARY" not in file.read_text()
    assert (theirs["event"], theirs["logger"]) == ("theirs 1", "celery.worker")


@pytest.mark.usefixtures("logging_restored")
def test_a_terminal_gets_lines_without_locals(tmp_path: Path) -> None:
    """log.format = console: no JSON, a plain traceback, and log.level counts where the command line names none."""
    file = tmp_path / "log"
    logs.set_up(Settings(log=LogSettings(format="console", level="INFO")), logging.ERROR, str(file))
    try:
        stumble("prompt-canary")
    except ValueError:
        structlog.get_logger("ours").exception("stage_fault", job_id="job_1")
    structlog.get_logger("ours").info("worker_started")
    structlog.get_logger("ours").debug("below_the_level")
    text = file.read_text()
    assert "stage_fault" in text
    assert "job_id=job_1" in text
    assert "ValueError: 13" in text
    assert "worker_started" in text
    assert "PROMPT-CANARY" not in text
    assert "below_the_level" not in text
    assert not text.startswith("{")


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize(
    "words", [["--loglevel", "ERROR"], ["--loglevel=ERROR"], ["-lERROR"], ["-l", "ERROR"]]
)
def test_the_command_line_s_level_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Whatever log.level says."""
    monkeypatch.setattr("sys.argv", ["celery", "worker", *words])
    logs.set_up(Settings(log=LogSettings(level="DEBUG")), "ERROR", str(tmp_path / "log"))
    structlog.get_logger("ours").warning("below_the_level")
    structlog.get_logger("ours").error("counted")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["event"] == "counted"


class Drained:
    """A runtime that notes the calls of its life, and whose drain may be held or fail."""

    looks: tuple[Look, ...] = ()

    def __init__(self) -> None:
        self.life: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def start(self, *_: object) -> Drained:
        self.life.append("start")
        return self

    def stop_claims(self) -> None:
        self.life.append("stop_claims")

    def close(self) -> None:
        self.go.wait(60)
        self.life.append("close")
        if self.error is not None:
            raise self.error

    def run_stage(self, stage: str, lane: str) -> None: ...

    def spawn_stage(self, stage: str, lane: str) -> None: ...

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        return job_ids


@pytest.fixture
def drained(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drained]:
    runtime = Drained()
    monkeypatch.setattr(workers.app, "LINGER_S", 0.0)
    monkeypatch.setattr(workers.app, "LAST_RESORT_S", 3600.0)
    yield runtime
    runtime.go.set()


def process_of(app: Celery, runtime: Drained) -> tuple[Process, SimpleQueue[int]]:
    """Give a started process, with nothing at its state server's address, and the exit codes that it would give."""
    redis_settings = RedisSettings(url="redis://127.0.0.1:1/0")
    worker = WorkerSettings(submit_timeout_s=0.01, shutdown_s=0.01)
    settings = Settings(redis=redis_settings, worker=worker, flower=FlowerSettings(events=False))
    codes: SimpleQueue[int] = SimpleQueue()
    process = Process(Plan(settings, runtime.start, Ending(codes.put)), app, "celery@here")
    process.start()
    return process, codes


def ask() -> None:
    """Ask as Celery's handler of SIGTERM does."""
    signals.worker_shutting_down.send(sender="celery@here", sig="SIGTERM", how="Warm", exitcode=0)


def test_a_process_serves_between_start_and_stop(app: Celery, drained: Drained) -> None:
    """The tasks find the runtime while it serves; claims stop before the drain; all that was opened is closed."""
    process, codes = process_of(app, drained)
    assert serving.runtime is drained
    ask()
    process.stop()
    assert serving.runtime is None
    assert drained.life == ["start", "stop_claims", "close"]
    assert process.loop.is_stuck(1e9)
    assert process.hints.hint("submit", "a/m") is False
    assert codes.get(timeout=20) == 0


def test_a_signal_drains_without_celerys_help(app: Celery, drained: Drained) -> None:
    """Celery's consumer may hang on a silent broker before it ever comes to the bootsteps."""
    process, codes = process_of(app, drained)
    ask()
    assert codes.get(timeout=20) == 0
    process.stop()
    assert drained.life == ["start", "stop_claims", "close"]


def test_an_end_that_nobody_asked_for_is_a_failure(app: Celery, drained: Drained) -> None:
    """A fault of Celery's consumer: everything is drained, but a supervisor must start the worker again."""
    process, codes = process_of(app, drained)
    process.stop()
    assert codes.get(timeout=20) == 1
    assert drained.life == ["start", "stop_claims", "close"]


def test_work_that_was_cut_off_is_told(app: Celery, drained: Drained) -> None:
    """By the exit code, and by a line that counts it."""
    process, codes = process_of(app, drained)
    drained.error = CutOff(members=2, transitions=3)
    ask()
    with capture_logs() as logged:
        process.stop()
    assert codes.get(timeout=20) == 1
    told = [entry for entry in logged if entry["event"] == "work_left_behind"]
    assert [(entry["members"], entry["transitions"]) for entry in told] == [(2, 3)]


def test_a_drain_that_outlasts_every_bound_is_given_up(
    app: Celery, drained: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases end by themselves, as after a kill; a process that never exits helps nobody."""
    monkeypatch.setattr(workers.app, "LAST_RESORT_S", 0.05)
    process, codes = process_of(app, drained)
    drained.go.clear()
    ask()
    assert codes.get(timeout=20) == 1
    assert "close" not in drained.life
    drained.go.set()
    process.stop()


def test_a_fault_while_closing_does_not_keep_the_process(app: Celery, drained: Drained) -> None:
    """What else was opened is still closed, and the fault is told."""
    process, codes = process_of(app, drained)
    drained.error = ValueError("a bug")
    ask()
    with capture_logs() as logged:
        process.stop()
    assert codes.get(timeout=20) == 1
    assert serving.runtime is None
    assert "shutdown_fault" in [entry["event"] for entry in logged]
    assert process.loop.is_stuck(1e9)
