"""Run the campaign: `python -m tests.faults [--json] [pytest options]`; the last line is `N passed, M failed`.

--json prints the table (fault, seed, jobs, lost, double_charged, forgotten, duplicate_events, recovered_s) before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.faults.table import VARIABLE

OPTIONS: Final = ("-q", "-n", os.environ.get("FAULTS_JOBS", "3"), "-o", "addopts=-ra --import-mode=importlib")
HERE: Final = str(Path(__file__).parent)


def main(arguments: list[str]) -> int:
    """Run every fault; give pytest's exit code, so that a campaign that could not start fails too."""
    as_json = "--json" in arguments
    more = [argument for argument in arguments if argument != "--json"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.jsonl"
        command = [sys.executable, "-m", "pytest", *OPTIONS, HERE, *more]
        run = subprocess.run(
            command, env={**os.environ, VARIABLE: str(table)}, capture_output=True, text=True, check=False
        )
        if as_json and table.exists():
            print("[\n" + ",\n".join(sorted(table.read_text().splitlines())) + "\n]")
    if run.returncode or not as_json:
        print(run.stdout, run.stderr, sep="\n")
    summary = run.stdout.rpartition("\n=")[2] if "\n=" in run.stdout else run.stdout[-400:]
    failed = _count(summary, "failed") + _count(summary, "error")
    print(f"{_count(summary, 'passed')} passed, {failed} failed")
    return run.returncode


def _count(summary: str, what: str) -> int:
    found = re.findall(rf"(\d+) {what}", summary)
    return int(found[-1]) if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
