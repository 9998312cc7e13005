"""Remote control: jobs are cancelled off the main thread, everything else goes to Celery's own command."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker.control import Panel

from workers import control
from workers.tasks import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.redis.looks import Look


class Jobs:
    """A runtime that can only cancel."""

    looks: tuple[Look, ...] = ()

    def __init__(self) -> None:
        self.cancelled: list[tuple[list[str], str]] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        self.go.wait(60)
        if self.error is not None:
            raise self.error
        self.cancelled.append((job_ids, threading.current_thread().name))
        return job_ids

    def run_stage(self, stage: str, lane: str) -> None: ...

    def spawn_stage(self, stage: str, lane: str) -> None: ...

    def stop_claims(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    runtime = Jobs()
    monkeypatch.setattr(serving, "runtime", runtime)
    monkeypatch.setattr(control, "cancellations", control.Cancellations())
    yield runtime
    runtime.go.set()
    control.cancellations.join()


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def revoke(state: Any, task_id: list[str], **kwargs: Any) -> dict[str, str]:
        calls.append((state, task_id, kwargs))
        return {"ok": "stock"}

    monkeypatch.setattr(control, "_stock_revoke", revoke)
    return calls


def test_our_commands_take_the_place_of_celerys() -> None:
    """Both: stock terminate calls stock revoke directly."""
    control.install()
    assert Panel.data["revoke"] is control.revoke
    assert Panel.data["terminate"] is control.terminate
    assert Panel.meta["revoke"].variadic == "task_id"


@pytest.mark.parametrize("asked", ["job_a1", ["job_a1"]])
def test_revoking_a_job_cancels_it_on_another_thread(jobs: Jobs, stock: list[Any], asked: Any) -> None:
    """The command runs in the main thread of every worker: it must answer at once."""
    assert control.revoke(None, asked) == {"ok": "cancelling job_a1"}
    control.cancellations.join()
    assert jobs.cancelled == [(["job_a1"], "darkroom-cancel")]
    assert stock == []


def test_terminate_does_the_same(jobs: Jobs, stock: list[Any]) -> None:
    """Flower's Terminate button shows on running jobs."""
    assert control.terminate(None, "SIGTERM", "job_a1") == {"ok": "cancelling job_a1"}
    control.cancellations.join()
    assert jobs.cancelled == [(["job_a1"], "darkroom-cancel")]
    assert stock == []


def test_ids_that_are_no_jobs_go_to_celery_as_they_came(jobs: Jobs, stock: list[Any]) -> None:
    """Mixed commands are split; odd ids that only begin like ours are not ours."""
    state = object()
    answer = control.revoke(state, ["job_a1", "5f0d", "job_x y", "job_"], terminate=True, signal="KILL")
    control.cancellations.join()
    assert answer == {"ok": "stock"}
    assert stock == [(state, ["5f0d", "job_x y", "job_"], {"terminate": True, "signal": "KILL"})]
    assert [ids for ids, _ in jobs.cancelled] == [["job_a1"]]


def test_a_failed_cancellation_does_not_end_the_next_ones(jobs: Jobs, stock: list[Any]) -> None:
    """The state server may be away just now."""
    jobs.error = OSError("away")
    control.revoke(None, ["job_a1"])
    control.cancellations.join()
    jobs.error = None
    control.revoke(None, ["job_b2"])
    control.cancellations.join()
    assert [ids for ids, _ in jobs.cancelled] == [["job_b2"]]
    assert stock == []


def test_a_flood_of_commands_is_refused_not_stored(jobs: Jobs, stock: list[Any]) -> None:
    """Commands wait within a bound, and the caller hears of it."""
    jobs.go.clear()
    answers = [control.revoke(None, ["job_a1"]) for _ in range(control.PENDING_MAX + 2)]
    assert "too many" in answers[-1]["error"]
    assert stock == []


def test_without_a_runtime_nothing_happens(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command may come while the worker starts or stops."""
    monkeypatch.setattr(serving, "runtime", None)
    assert control.revoke(None, ["job_a1"]) == {"ok": "cancelling job_a1"}
    control.cancellations.join()
    assert jobs.cancelled == []
