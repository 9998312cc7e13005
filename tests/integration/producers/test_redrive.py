"""`darkroom redrive` against a real state server: what is put back, what is refused and why."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from producers.redrives import redrive
from producers.selection import CHUNK_JOBS, Selection
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Change
from shared.money.ledger import verify
from tests.integration.producers.conftest import FOX, LANE
from tests.integration.producers.test_cli import DARKROOM, Cli, cli

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]  # the fixture is used by name


def fail_all(darkroom: Darkroom, worker: FakeWorker, count: int, batch: str | None = None) -> list[str]:
    """Enqueue jobs and have the provider refuse them."""
    receipt = darkroom.enqueue_many([FOX] * count, batch=batch)
    ids = worker.claim(count)
    assert sorted(ids) == sorted(str(each.job_id) for each in receipt.items)
    for job_id in ids:
        worker.fail(job_id)
    return ids


def lose(worker: FakeWorker, state: State, job_id: str) -> None:
    """Have the provider accept the job and never finish it: settled in full."""
    worker.intend(job_id)
    worker.accept(job_id, f"task-{job_id}")
    change = Change(
        before=JobState.GENERATING, after=JobState.FAILED, fields={"error_code": "lost"}, leave=(f"poll:{LANE}",),
        settle_micros=200_000, free_slot=LANE,
    )  # fmt: skip
    worker.change(job_id, change)
    state.client.hset(state.keys.job(job_id), "intent_at", 1)  # long ago


def fail_copy(worker: FakeWorker, job_id: str) -> None:
    worker.intend(job_id)
    worker.accept(job_id, f"task-{job_id}")
    worker.deliver(job_id)
    change = Change(
        before=JobState.STORING, after=JobState.FAILED, fields={"error_code": "copy_failed"}, leave=("store",)
    )
    worker.change(job_id, change)


def test_a_batch_is_redriven_and_the_ledger_adds_up(
    cli: Cli, state: State, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """Refused, lost, failed copies and unknown ones in one batch: each goes its own way, and says so."""
    receipt = darkroom.enqueue_many([FOX] * 5, batch="b")
    refused, lost, copy, unknown, cancelled = worker.claim(5)
    worker.fail(refused)
    lose(worker, state, lost)
    fail_copy(worker, copy)
    worker.intend(unknown)
    worker.lose_answer(unknown)
    darkroom.cancel(cancelled)
    assert receipt.sealed
    dry = cli.json("redrive", "--batch", "b", "--dry-run", code=1)
    assert (dry["redriven"], dry["refused"], dry["at_most_micros"]) == (2, 2, {"CNY": 200_000})
    assert darkroom.get(refused).state == "failed"
    done = cli.run("redrive", "--batch", "b", "--why", "repaired", "--as", "anna")
    assert done.returncode == 1
    assert "2 redriven, 2 refused; new submits cost at most ¥0.20." in done.stdout
    assert f"{lost}: it was or may have been paid: add --pay-again" in done.stderr
    assert f"{unknown}: its outcome is unknown: use `darkroom unknown resolve`" in done.stderr
    assert (darkroom.get(refused).state, darkroom.get(copy).state) == ("queued", "storing")
    again = cli.json("redrive", lost, "--pay-again", "--yes", "--as", "anna", "--why", "wanted")
    assert (again["paid_again"], again["again_micros"]) == (1, {"CNY": 200_000})
    told = [
        (entry.who, entry.what, entry.on, entry.jobs, entry.why) for entry in darkroom.audit(what="redrive")
    ]
    assert told == [
        ("anna", "redrive", f"jobs: {lost}; 1 to be paid again (at most 200000 micros)", 1, "wanted"),
        ("anna", "redrive", "jobs: batch b; state failed/unknown", 2, "repaired"),
    ]
    worker.complete(copy)
    assert sorted(worker.claim(5)) == sorted([refused, lost])
    counts = {name: count for name, count in darkroom.batch("b").counts.items() if count}
    assert counts == {"submitting": 2, "completed": 1, "unknown": 1, "cancelled": 1}
    assert verify(state.client, state.keys).adds_up


def test_more_than_a_chunk_goes_back_at_once(state: State, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A walk over all records; each job once, and one audit entry for all of them, however many calls it took."""
    count = CHUNK_JOBS + 20
    for _ in range(2):
        fail_all(darkroom, worker, count // 2)
    seen: list[str] = []
    report = redrive(
        state.settings,
        Selection(codes=frozenset({"refused"})),
        by="anna",
        on_item=lambda item: seen.append(item.job_id),
    )
    assert (report.done, report.refused, len(set(seen))) == (count, 0, count)
    assert darkroom.overview().counts["queued"] == count
    told = [(entry.on, entry.jobs) for entry in darkroom.audit()]
    assert told == [("jobs: state failed/unknown; code refused", count)]


def test_what_is_not_failed_is_refused_by_its_id(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A queued job, one that is not there, and one that is put back twice."""
    queued = darkroom.enqueue(FOX, not_before="1h").job_id
    (failed,) = fail_all(darkroom, worker, 1)
    done = cli.json("redrive", failed, failed, queued, "job_none", code=1)
    outcomes = {each["job_id"]: each["outcome"] for each in done["jobs"]}
    assert outcomes == {failed: "submit", queued: "not_failed", "job_none": "missing"}
    assert cli.json("redrive", failed, code=1)["jobs"][0]["outcome"] == "not_failed"


def test_nothing_is_selected_by_accident(cli: Cli) -> None:
    """Without criteria it says what to give; a batch that is not there is named."""
    none = cli.run("redrive")
    assert none.returncode == 2
    assert "no job is selected. Give job ids, --batch" in none.stderr
    assert "no batch 'nowhere'" in cli.run("redrive", "--batch", "nowhere").stderr
    assert cli.run("redrive", "--why", "w" * 201, "--batch", "b").returncode == 2


@pytest.mark.parametrize("typed", ["1", "yes"])
def test_paying_again_is_asked_for(
    typed: str, cli: Cli, state: State, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """On a terminal the count is typed; anything else changes nothing. Without one, --yes is needed."""
    job_id = darkroom.enqueue(FOX).job_id
    worker.claim()
    lose(worker, state, job_id)
    silent = cli.run("redrive", job_id, "--pay-again")
    assert silent.returncode == 2
    assert "at most ¥0.20. Add --yes" in silent.stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [DARKROOM, "redrive", job_id, "--pay-again"], cwd=cli.folder, env={**os.environ, **cli.env}, stdin=theirs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        os.write(ours, f"{typed}\n".encode())
        out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "1 jobs that were or may have been paid are paid again, at most ¥0.20. Type 1 to go on" in err
    assert (process.returncode, darkroom.get(job_id).state) == (
        (0, "queued") if typed == "1" else (1, "failed")
    )
    assert ("1 redriven, 1 of them paid again" in out) is (typed == "1")
