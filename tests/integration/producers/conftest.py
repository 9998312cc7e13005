"""Producers against a real state server; the broker is a database of it that nobody reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_json

from producers import Darkroom
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition, context_json, transitions_json
from shared.redis.scripts import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import State

MODEL = "wan2.7-image"
LANE = f"default/{MODEL}"
FOX: dict[str, Any] = {"model": MODEL, "prompt": "a red fox"}


@pytest.fixture
def darkroom(state: State) -> Iterator[Darkroom]:
    """A client of the test's own namespace."""
    with Darkroom(state.settings) as client:
        yield client


def until(true: Callable[[], bool], within_s: float = 10) -> None:
    """Wait for something that another thread or process does."""
    give_up_at = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)


class FakeWorker:
    """Moves jobs as a worker would, through the same scripts, in a lane of its own."""

    def __init__(self, state: State) -> None:
        self._state = state

    def claim(self, k: int = 1) -> list[str]:
        question = {
            "lane": LANE, "model": MODEL, "account": "default", "worker": "w1", "k": k, "lease_ms": 60_000,
            "interval_us": 0, "burst": 1, "max_posts": 1000, "max_slots": 1000, "price_micros": 200_000,
            "currency": "CNY", "breaker": 5, "probe_ms": 5000, "stuck_ms": 10_000, "suspects": 1,
            "before": "queued", "after": "submitting", "fields": ["epoch"],
        }  # fmt: skip
        rows = run(self._state.client, "claim_submit", self._state.keys.prefix, to_json(question))[3:]
        return [row[0].decode() for row in rows]

    def intend(self, job_id: str) -> None:
        """Write the intent, as just before a POST."""
        submitting = JobState.SUBMITTING
        fields = {"intent_id": f"intent-{job_id}"}
        change = Change(
            before=submitting, after=submitting, fields=fields, stamps=("intent_at",), intent=(LANE, 1)
        )
        self._apply(Transition(job_id=job_id, epoch=1, changes=(change,)))

    def lose_answer(self, job_id: str) -> None:
        """Record that the outcome of the POST is not known."""
        change = Change(
            before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",),
            due_in=(("unknown", 0),), keep_slot=(LANE, 600_000), intent=(LANE, 0),
            fields={"unknown_cause": "timeout"}, note="timeout",
        )  # fmt: skip
        self._apply(Transition(job_id=job_id, intent_id=f"intent-{job_id}", changes=(change,)))

    def accept(self, job_id: str, generation_id: str) -> None:
        change = Change(
            before=JobState.SUBMITTING, after=JobState.GENERATING, leave=(f"submit:{LANE}",), intent=(LANE, 0),
            due_in=((f"poll:{LANE}", 60_000),), fields={"generation_id": generation_id},
            generation_id=generation_id, stamps=("submitted_at",), note="accepted",
        )  # fmt: skip
        self._apply(Transition(job_id=job_id, intent_id=f"intent-{job_id}", changes=(change,)))

    def deliver(self, job_id: str) -> None:
        change = Change(
            before=JobState.GENERATING, after=JobState.STORING, leave=(f"poll:{LANE}",), due_in=(("store", 60_000),),
            settle_micros=200_000, free_slot=LANE,
        )  # fmt: skip
        self._apply(Transition(job_id=job_id, changes=(change,)))

    def complete(self, job_id: str) -> None:
        change = Change(before=JobState.STORING, after=JobState.COMPLETED, leave=("store",), images=1)
        self._apply(Transition(job_id=job_id, changes=(change,)))

    def fail(self, job_id: str) -> None:
        change = Change(
            before=JobState.SUBMITTING, after=JobState.FAILED, leave=(f"submit:{LANE}",), release=True,
            free_slot=LANE, fields={"error_code": "refused"},
        )  # fmt: skip
        self._apply(Transition(job_id=job_id, changes=(change,)))

    def change(self, job_id: str, change: Change) -> None:
        """Make any other change."""
        self._apply(Transition(job_id=job_id, changes=(change,)))

    def make_unknown(self) -> str:
        """Take the next job and lose the answer to its POST."""
        (job_id,) = self.claim()
        self.intend(job_id)
        self.lose_answer(job_id)
        time.sleep(0.002)  # they are listed by the millisecond
        return job_id

    def _apply(self, transition: Transition) -> None:
        limits, keys = self._state.settings.limits, self._state.keys
        body = transitions_json([transition], limits.retain_jobs_s * 1000)
        assert run(self._state.client, "apply_transitions", keys.prefix, context_json(limits), body) == [
            Applied.FIRST
        ]


@pytest.fixture
def worker(state: State) -> FakeWorker:
    """What a worker does to jobs, step by step."""
    return FakeWorker(state)
