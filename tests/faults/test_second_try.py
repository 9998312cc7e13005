"""A second try is for what was late, and never for what the judge held against a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.second_try import FEW, VARIABLE, late_ones, note_failure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "failed.jsonl"))
    return tmp_path / "failed.jsonl"


def test_the_late_are_tried_again(noted: Path) -> None:
    """Each once, though set-up and test failed."""
    assert late_ones(noted) == []
    for text in ("TimeoutError: not within 40 s", "ServerFailed"):
        note_failure("a", text)
    assert late_ones(noted) == ["a"]


def test_a_verdict_is_final(noted: Path) -> None:
    """Then nothing is tried again: the campaign has failed."""
    note_failure("a", "TimeoutError")
    note_failure("b", "AssertionError: Verdict(jobs=10, unknown=0, failed=0, lost=1")
    assert late_ones(noted) == []


def test_many_are_a_failure(noted: Path) -> None:
    """A machine on which everything is late shows nothing."""
    for nr in range(FEW + 1):
        note_failure(str(nr), "TimeoutError")
    assert late_ones(noted) == []
