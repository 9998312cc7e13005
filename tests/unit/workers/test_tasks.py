"""The Celery tasks: thin, silent, and deaf to what is not theirs."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest
import redis

from shared.broker import STAGES, task_name
from shared.errors import StateUnavailable
from shared.redis.looks import Look
from shared.settings import Settings
from workers.app import build_app
from workers.tasks import run, serving

if TYPE_CHECKING:
    from celery import Celery


class Stages:
    """A runtime that remembers what ran."""

    looks = tuple(Look(stage, "a/m" if stage in ("submit", "poll") else "", "m") for stage in STAGES)

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.error: BaseException | None = None

    def run_stage(self, stage: str, lane: str) -> None:
        if self.error is not None:
            raise self.error
        self.ran.append((stage, lane))

    def spawn_stage(self, stage: str, lane: str) -> None: ...

    def stop_claims(self) -> None: ...

    def close(self) -> None: ...

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        return job_ids


@pytest.fixture(scope="module")
def app() -> Celery:
    return build_app(Settings())


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    runtime = Stages()
    monkeypatch.setattr(serving, "runtime", runtime)
    return runtime


def test_there_is_one_task_per_stage_and_no_other(app: Celery) -> None:
    """Whoever adds a task adds its reason here."""
    ours = sorted(name for name in app.tasks if not name.startswith("celery."))
    assert ours == sorted(task_name(stage) for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_task_sends_no_events_keeps_no_result_and_is_acknowledged_early(app: Celery, stage: str) -> None:
    """Flower turns events on in every worker: only this hides the plumbing from its list of jobs."""
    task = app.tasks[task_name(stage)]
    assert task.send_events is False
    assert task.ignore_result is True
    assert task.acks_late is False
    assert task.max_retries == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_hint_runs_its_stage_and_lane(app: Celery, stages: Stages, stage: str) -> None:
    """Parse, call, translate."""
    lane = "a/m" if stage in ("submit", "poll") else ""
    app.tasks[task_name(stage)](lane)
    assert stages.ran == [(stage, lane)]


@pytest.mark.parametrize("lane", ["other/m", "", "a/m; DROP", {"prompt": "x"}, None])
def test_a_hint_for_what_this_worker_does_not_serve_is_dropped(stages: Stages, lane: object) -> None:
    """A message may come from another version or configuration; it is only a hint."""
    run("submit", lane)  # type: ignore[arg-type]  # messages hold what they hold
    assert stages.ran == []


def test_a_hint_before_the_runtime_is_there_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one after it went."""
    monkeypatch.setattr(serving, "runtime", None)
    run("submit", "a/m")


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("x"), StateUnavailable("x"), OSError("x"), CancelledError()]
)
def test_an_outage_or_a_shutdown_during_a_drain_is_not_a_failed_task(
    stages: Stages, error: BaseException
) -> None:
    """The looks find the work again; Celery has nothing to report."""
    stages.error = error
    run("submit", "a/m")


def test_a_bug_is_left_to_celery_to_log(stages: Stages) -> None:
    """Only what is expected is translated."""
    stages.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        run("submit", "a/m")
