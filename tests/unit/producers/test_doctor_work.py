"""What doctor says of the work: what is stopped by hand."""

from __future__ import annotations

from producers.doctor.work import judge_work
from producers.overview import Overview
from producers.pauses import Pause


def overview(*paused: Pause, jobs: int = 0) -> Overview:
    return Overview(1000, {"queued": 1}, (), ("w1",), 0, 0, 0, 0, None, paused=paused, paused_jobs=jobs)


def told(seen: Overview) -> list[str]:
    return [finding.what for finding in judge_work(seen) if "paused" in finding.what]


def test_pauses_are_named_and_bounded() -> None:
    """The first three by name, the rest and single jobs by number; nothing if nothing is paused."""
    pauses = [Pause("acme", f"b{number}", "anna", number, "") for number in range(4)]
    (line,) = told(overview(Pause("acme", None, "anna", 0, ""), *pauses, jobs=2))
    assert line == "paused by hand: tenant acme, batch b0 of acme, batch b1 of acme, 2 more, 2 single jobs"
    assert told(overview(jobs=1)) == ["paused by hand: 1 single job"]
    assert told(overview()) == []
