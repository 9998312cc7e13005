"""Who waits for which job."""

from __future__ import annotations

import threading

import pytest

from producers.waiters import Registry, Tally
from shared.errors import JobNotFound
from shared.jobs.job import Job
from shared.jobs.lifecycle import JobState


def job(job_id: str, state: JobState = JobState.COMPLETED) -> Job:
    return Job(id=job_id, state=state, tenant="acme", model="wan2.7-image", n=1, created_at=0)


def waiting(registry: Registry, *job_ids: str) -> Tally:
    tally = Tally(job_ids, threading.Event())
    registry.add(tally)
    return tally


def test_a_waiter_is_done_when_all_its_jobs_have_ended() -> None:
    """Jobs that have not ended, and others' jobs, do not count."""
    registry = Registry()
    tally = waiting(registry, "a", "b")
    registry.give(["a", "c"], [job("a"), job("c")])
    registry.give(["b"], [job("b", JobState.UNKNOWN)])
    assert not tally.done.is_set()
    with pytest.raises(TimeoutError, match="1 of 2 jobs have not ended yet: b"):
        tally.result()
    registry.give(["b"], [job("b", JobState.FAILED)])
    assert tally.done.is_set()
    assert [each.id for each in tally.result()] == ["a", "b"]


def test_a_missing_record_ends_the_wait() -> None:
    """It will never be announced."""
    registry = Registry()
    tally = waiting(registry, "a", "b")
    registry.give(["b"], [None])
    assert tally.done.is_set()
    with pytest.raises(JobNotFound, match="b"):
        tally.result()


def test_several_may_wait_for_one_job() -> None:
    """One that leaves takes nothing from the other."""
    registry = Registry()
    first, second = waiting(registry, "a", "b"), waiting(registry, "a")
    assert sorted(registry.waited()) == ["a", "b"]
    registry.remove(first)
    assert registry.waited(["a", "b", "c"]) == ["a"]
    registry.give(["a"], [job("a")])
    assert second.done.is_set()
    assert not first.done.is_set()
    registry.remove(second)
    assert registry.waited() == []


def test_release_ends_every_wait() -> None:
    """A client that closes leaves nobody waiting."""
    registry = Registry()
    tally = waiting(registry, "a")
    registry.release()
    assert tally.done.is_set()


def test_is_idle_only_some_time_after_the_last_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener stays for the next one."""
    now_s = 0.0
    monkeypatch.setattr("producers.waiters.time.monotonic", lambda: now_s)
    registry = Registry()
    now_s = 60.0
    tally = waiting(registry, "a")
    assert not registry.idle
    registry.remove(tally)
    assert not registry.idle
    now_s += 60
    assert registry.idle
