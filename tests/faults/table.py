"""The table of a campaign: one JSON line per fault, in the file that `python -m tests.faults` names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.faults.judge import Verdict

VARIABLE: Final = "FAULTS_TABLE"


def note_row(
    fault: str, seed: int, verdict: Verdict, recovered_s: float, *, resumed_s: float | None = None
) -> None:
    """Append a row, if a table is wanted. Both seconds count from the end of the fault (or the next worker's readiness).

    `recovered_s` is until the last job's end, `resumed_s` until the provider was asked again.
    """
    if not (path := os.environ.get(VARIABLE)):
        return
    row = {
        "fault": fault,
        "seed": seed,
        "jobs": verdict.jobs,
        "lost": verdict.lost,
        "double_charged": verdict.double_charged,
        "forgotten": verdict.forgotten,
        "duplicate_events": verdict.duplicate_events,
        "wrong_bill": verdict.wrong_bill,
        "wrong_terminal": verdict.wrong_terminal,
        "over_limit": verdict.over_limit,
        "damaged": verdict.damaged,
        "untold": verdict.untold,
        "unknown": verdict.unknown,
        "recovered_s": round(recovered_s, 1),
        "resumed_s": None if resumed_s is None else round(resumed_s, 1),
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")  # one short write: rows of parallel tests do not mix
