"""The table of a campaign: rows of a kind are summed, and no row is left out."""

from __future__ import annotations

from typing import Any

import pytest

from tools.faults_table import SUMS, kind_of, table


def row(fault: str, *, settled: float = 0.0, resumed: float | None = None, **counts: int) -> dict[str, Any]:
    return dict.fromkeys(SUMS.values(), 0) | counts | {
        "fault": fault, "recovered_s": settled, "resumed_s": resumed
    }  # fmt: skip


def test_rows_of_a_kind_are_summed_and_times_are_the_longest() -> None:
    """Two broker faults make one line; what has no time shows none."""
    rows = [
        row("broker down for good", jobs=40, unknown=1, settled=2.0, resumed=0.5),
        row("each hint a hundred times, again and again", jobs=2, settled=3.5),
        row("two versions at once", jobs=12, forgotten=6),
    ]
    lines = table(rows).splitlines()
    broker = "broker: flushed, killed, down, silent, hints a hundred times"
    assert lines[2:] == [
        f"| {broker} | 2 | 42 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 3.5 s | 0.5 s |",
        "| two versions at once | 1 | 12 | 0 | 0 | 0 | 6 | 0 | 0 | 0 | 0 | 0.0 s |  |",
        "| **all** | 3 | 54 | 1 | 0 | 0 | 6 | 0 | 0 | 0 | 0 | 3.5 s | 0.5 s |",
    ]


def test_a_fault_of_no_kind_has_a_line_of_its_own() -> None:
    """A new fault shows up under its name until somebody sorts it in."""
    assert "| moon falls | 1 | 3 |" in table([row("moon falls", jobs=3)])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("state server full (redis-server)", "state server full"),
        (
            "connections to the state server held for 6 s",
            "network to the state server: lost each way, held, reset, cut, 2 s of latency",
        ),
        ("submit: 429 halves the rate", "429, four kinds of Retry-After, and a lane with a rate"),
        ("store: answers 403", "object store killed, paused, refusing, full, away"),
        ("store.put:1:KILL", "workers killed, paused or exited at every step boundary"),
    ],
)
def test_faults_are_sorted_into_their_kinds(fault: str, kind: str) -> None:
    """The first kind that matches takes the fault."""
    assert kind_of(fault) == kind
