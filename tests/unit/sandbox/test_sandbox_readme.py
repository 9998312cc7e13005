"""The README names every option and every fault that there is."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.unit.sandbox.sandbox_process import ROOT, command

README = (ROOT / "sandbox" / "README.md").read_text()


def _output(*arguments: str) -> str:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout


def test_every_option_is_explained() -> None:
    """Each option of `python -m sandbox all` stands in the README, and none that does not exist."""
    real = set(re.findall(r"--[a-z-]+", _output(*command("all", "--help")))) - {"--help"}
    assert "--rate" in real
    assert set(re.findall(r"`(--[a-z-]+)", README)) == real


def test_every_fault_is_explained() -> None:
    """Each kind of fault stands in the first column of the table, and none that does not exist."""
    code = "from sandbox.faults import *; print(*WIRE, *OUTCOME)"
    real = set(_output(sys.executable, "-c", code).split())
    table = README.partition("| fault |")[2].partition("\n\n")[0]
    first_column = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    assert set(re.findall(r"`([a-z_]+)", first_column)) == real
