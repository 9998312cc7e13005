"""Measuring two trees in turns: what is made of the rows, and what is said of a tree that cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import against

if TYPE_CHECKING:
    from pathlib import Path


def test_figures_of_both_are_compared_by_their_medians() -> None:
    """A figure that only one side has is left out, as are the sizes of the run."""
    here = [{"ms": 1.0, "per_s": 0, "new": 7, "jobs": 5}, {"ms": 9.0, "per_s": 2}, {"ms": 2.0, "per_s": 4}]
    there = [{"ms": 4.0, "per_s": 0, "jobs": 6}, {"ms": 4.0, "per_s": 0}, {"ms": 5.0, "per_s": 3}]
    assert against.compared(here, there) == {
        "ms": 2.0,
        "ms_there": 4.0,
        "ms_ratio": 0.5,
        "per_s": 2,
        "per_s_there": 0,
    }


def test_a_tree_without_an_environment_is_told_how_to_get_one(tmp_path: Path) -> None:
    """The error is the command to type."""
    with pytest.raises(FileNotFoundError, match=f"make -C {tmp_path} venv"):
        against.measure("drain", tmp_path, runs=1, jobs=1, say=print)
