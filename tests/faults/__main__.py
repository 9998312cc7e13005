"""Run the campaign: `python -m tests.faults [--json] [--shard K/N] [pytest options]`.

Progress goes to stderr as faults end; the last line on stdout is `N passed, M failed`. --shard runs the K-th of N
parts, which take about as long as each other. --json prints the table before the last line: a list of rows, whose
columns tests/faults/table.py names. FAULTS_SEED replays a run, FAULTS_JOBS is how many faults run at once. A few tests that
were late are tried a second time, alone, and named (tests/faults/second_try.py); a verdict of the judge never is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults import second_try
from tests.faults.shards import SHARD
from tests.faults.table import VARIABLE

OPTIONS: Final = ("-v", "-n", os.environ.get("FAULTS_JOBS", "3"), "-o", "addopts=-ra --import-mode=importlib")
HERE: Final = str(Path(__file__).parent)
# What pytest-xdist prints for each test: `[gw0] [ 12%] PASSED tests/faults/test_x.py::test_y[z]`.
_ENDED: Final = re.compile(
    r"^\[gw\d+\] \[ *(\d+)%\] (PASSED|FAILED|ERROR|XFAIL|XPASS) (?:tests/faults/)?(.+?)\s*$"
)


def main(arguments: list[str]) -> int:
    """Run every fault; give pytest's exit code, so that a campaign that could not start fails too."""
    as_json, shard, more = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.jsonl"
        command = [sys.executable, "-m", "pytest", *OPTIONS, HERE, *more]
        failed_file = Path(folder) / "failed.jsonl"
        code, output = _run(
            command, {VARIABLE: str(table), SHARD: shard, second_try.VARIABLE: str(failed_file)}
        )
        counted = _outcomes(output)
        late = second_try.late_ones(failed_file)
        if late and len(late) == counted[1]:  # else something failed that is no test
            code, again = _run([*command[:3], "-v", "-n", "1", *OPTIONS[3:], *late], {VARIABLE: str(table)})
            counted = _after_second_try(counted, _outcomes(again), late)
            output += again
        if as_json and table.exists():
            print("[\n" + ",\n".join(sorted(table.read_text().splitlines())) + "\n]")
    if code:
        print(output)
    print(f"{counted[0]} passed, {counted[1]} failed")
    return code


def _outcomes(output: str) -> tuple[int, int]:
    """Read how many passed, and how many failed, from pytest's last line."""
    summary = output.rpartition("\n=")[2] if "\n=" in output else output[-400:]
    return _count(summary, "passed"), _count(summary, "failed") + _count(summary, "error")


def _after_second_try(first: tuple[int, int], second: tuple[int, int], late: list[str]) -> tuple[int, int]:
    """Count each of the late ones as its second try ended, and say so."""
    for name in late:
        print(f"tried twice, as it was late: {name}")
    return first[0] + second[0], len(late) - second[0]


def _options(arguments: list[str]) -> tuple[bool, str, list[str]]:
    """Give --json, the shard ("": all) and what is pytest's."""
    more = [argument for argument in arguments if argument != "--json"]
    shard = ""
    if "--shard" in more:
        at = more.index("--shard")
        shard = more[at + 1]
        del more[at : at + 2]
    return "--json" in arguments, shard, more


def _run(command: list[str], more: dict[str, str]) -> tuple[int, str]:
    """Run pytest, tell of each fault as it ends; give exit code and output."""
    started, lines = time.monotonic(), list[str]()
    with subprocess.Popen(
        command, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            lines.append(line)
            if ended := _ENDED.match(line):
                percent, result, name = ended.groups()
                took_s = time.monotonic() - started
                print(
                    f"{took_s:5.0f} s {percent:>3} %  {result.lower()}  {name}", file=sys.stderr, flush=True
                )
    return run.returncode, "".join(lines)


def _count(summary: str, what: str) -> int:
    found = re.findall(rf"(\d+) {what}", summary)
    return int(found[-1]) if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
