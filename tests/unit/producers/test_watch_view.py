"""What `darkroom watch` says of a batch, without a server."""

from __future__ import annotations

from producers import BatchStatus
from producers.cli.watch_view import (
    Progress,
    Sample,
    exit_code,
    frame,
    of_all,
    of_batch,
    over,
    pace,
    rate,
    recent,
    remarks,
    summary,
)
from shared.jobs.lifecycle import JobState


def batch(*, sealed: bool = True, **counts: int) -> Progress:
    """Give a batch with so many jobs by state."""
    every: dict[str, int] = {state: counts.get(state.value, 0) for state in JobState}
    status = BatchStatus("foxes", "default", sum(counts.values()), every, sealed, 3, 600_000, "CNY")
    return of_batch(status)


def test_all_jobs_leave_out_those_that_had_ended() -> None:
    """The counts of ended states are of all time; those on their way are of now, whenever they came."""
    before = {state.value: 0 for state in JobState} | {"completed": 100, "queued": 7}
    now = before | {"completed": 104, "queued": 3, "failed": 1}
    found = of_all(now, before)
    assert summary(found) == "5 of 8 ended: 3 queued, 4 completed, 1 failed"
    assert not over(found)
    assert of_all(before, before).done == 0


def test_the_rate_is_of_the_window() -> None:
    """Old samples are forgotten; a clock that stood still gives no rate."""
    samples = recent([Sample(0, 0), Sample(80, 100), Sample(100, 140)], 100)
    assert samples == [Sample(80, 100), Sample(100, 140)]
    assert rate(samples) == 2.0
    assert rate([Sample(5, 1), Sample(5, 2)]) == 0
    assert rate(samples[:1]) == 0


def test_a_long_gap_still_gives_a_rate() -> None:
    """The last two samples are kept when all but one are old."""
    assert recent([Sample(0, 0), Sample(100, 50)], 100) == [Sample(0, 0), Sample(100, 50)]


def test_the_pace_leaves_out_unknown_jobs() -> None:
    """Nobody knows when those end; without a rate or a job left nothing is said."""
    assert pace(batch(queued=10, unknown=90), 2.0) == "2.0 jobs/s, about 5.0 s left"
    assert pace(batch(queued=10), 0) == ""
    assert pace(batch(completed=10), 2.0) == ""


def test_only_a_sealed_batch_is_over() -> None:
    """An open one may still take jobs."""
    assert over(batch(completed=2))
    assert not over(batch(completed=2, sealed=False))
    assert not over(batch(completed=2, unknown=1))


def test_exit_code_tells_trouble() -> None:
    """Cancelled jobs are no trouble; failed and unknown ones are."""
    assert exit_code(batch(completed=1, cancelled=1)) == 0
    assert exit_code(batch(completed=1, failed=1)) == exit_code(batch(unknown=1)) == 1


def test_the_summary_is_one_line() -> None:
    """Counts of states that have jobs, images and cost."""
    assert summary(batch(queued=1, completed=3)) == ("3 of 4 ended: 1 queued, 3 completed; 3 images, ¥0.60")
    assert [each.split(":")[0] for each in remarks(batch(sealed=False))] == [
        "not sealed, so it cannot complete"
    ]


def test_a_frame_fits_every_width() -> None:
    """No line is longer than the terminal, and an empty batch is no division by zero."""
    for columns in (1, 20, 40, 80, 300):
        lines = frame(batch(queued=1, completed=2, failed=1, unknown=1), 1.0, columns)
        assert max(map(len, lines)) <= columns
    assert frame(batch(), 0, 40)[0] == "░" * 20 + " 0 %"
