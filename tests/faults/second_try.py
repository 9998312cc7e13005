"""Which failures of a campaign are tried a second time, alone: those in which a machine may have been too slow.

Never a verdict: what the judge held against a run is a failure, whatever a second run does. And never many: a campaign
in which more than FEW tests are late is a failure as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "FAULTS_FAILED"  # names the file that failures are noted in
FEW: Final = 5
_JUDGED: Final = "Verdict("


def note_failure(name: str, text: str) -> None:
    """Note a failed test, and whether the judge spoke, if anybody wants to know."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "judged": _JUDGED in text}) + "\n")


def late_ones(path: Path) -> list[str]:
    """Give the tests to try again: none if the judge spoke in any of them, or if they are more than a few."""
    failures = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = sorted({str(each["name"]) for each in failures})
    if any(each["judged"] for each in failures) or len(names) > FEW:
        return []
    return names
