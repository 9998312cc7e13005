"""The same measurement of this tree and of another one, in turns, so that both meet the machine's good and bad minutes.

The other tree is a checkout with a virtual environment of its own, made there by `make venv`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.folders import memory_folder

if TYPE_CHECKING:
    from collections.abc import Callable

_ON_DISK: Final = frozenset({"durability"})  # its state servers must write to a real one
HERE: Final = Path(__file__).resolve().parents[1]


def measure(name: str, other: Path, *, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, float]:
    """Give for each figure the median here, the median there (`_there`), and here by there (`_ratio`).

    Raises FileNotFoundError if the other tree has no virtual environment, CalledProcessError if a run fails.
    """
    interpreter = other / ".venv/bin/python"
    if not interpreter.exists():
        raise FileNotFoundError(f"{interpreter} is not there. Make it: make -C {other} venv")
    sides = {"here": (HERE, Path(sys.executable)), "there": (other, interpreter)}
    rows: dict[str, list[dict[str, Any]]] = {"here": [], "there": []}
    for number in range(runs):
        for side in ("here", "there") if number % 2 else ("there", "here"):
            tree, python = sides[side]
            rows[side].append(_run(name, tree, python, jobs))
            figures = ", ".join(f"{key} {value:,.2f}" for key, value in rows[side][-1].items())
            say(f"run {number + 1}/{runs} {side}: {figures}")
    return compared(rows["here"], rows["there"]) | {"runs": runs}


def compared(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> dict[str, float]:
    """Give medians and ratios of the figures that both have."""
    out: dict[str, float] = {}
    for key in here[0].keys() & there[0].keys() - {"runs", "jobs"}:
        ours, theirs = (statistics.median(row[key] for row in rows) for rows in (here, there))
        out |= {key: round(ours, 3), f"{key}_there": round(theirs, 3)}
        if theirs:
            out[f"{key}_ratio"] = round(ours / theirs, 3)
    return dict(sorted(out.items()))


def _run(name: str, tree: Path, python: Path, jobs: int) -> dict[str, Any]:
    """Both sides keep their files in the same place: what a disk did before is nobody's merit."""
    command = [str(python), "-m", "bench", name, "--runs", "1", "--jobs", str(jobs), "--json"]
    folder = None if name in _ON_DISK else memory_folder()
    env = os.environ | ({"TMPDIR": folder} if folder else {})
    ran = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.stderr.write(ran.stderr)
        ran.check_returncode()
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return {key: value for key, value in figures.items() if isinstance(value, int | float)}
