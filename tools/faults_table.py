"""The table of docs/reliability.md from a campaign: `python -m tests.faults --json >rows.json; python -m tools.faults_table rows.json`.

Rows of a kind are summed; a fault of no known kind has a line of its own, so that nothing is left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, Any]

# What a line is called, and which faults are summed in it; the first that matches takes the fault.
KINDS: Final = (
    ("state server full", "state server full"),
    ("state server emptied (FLUSHALL)", ".*(FLUSHALL|emptied)"),
    ("power loss, `always`", "power loss, appendfsync always"),
    ("power loss, `everysec`, and a torn AOF", "power loss|.*torn"),
    (
        "failover to a replica that has everything; a primary without its replica (-NOREPLICAS)",
        ".*(replica that has everything|NOREPLICAS|repeated after a failover)",
    ),
    ("failover to a replica that lacks writes; two primaries at once", ".*(replica|failover|promoted)"),
    ("clocks of the state server and of workers step", ".*clock"),
    ("file descriptors and clients run out", ".*(descriptors|maxclients|clients)"),
    ("generation id kept on disk: server lost, server and worker lost", "server (and worker )?lost between"),
    ("enqueue during an outage, repeated after it", "enqueue while"),
    (
        "network to the state server: lost each way, held, reset, cut, 2 s of latency",
        "connections to the state server|answers of the state server|network to the state server|.*latency",
    ),
    ("broker: flushed, killed, down, silent, hints a hundred times", ".*(broker|each hint)"),
    (
        "state server: killed, paused, loading, read-only, connections and scripts killed, disk full, away",
        "state server|disk of the state server|connections killed|scripts flushed",
    ),
    ("SIGTERM in mid-load", "rolling restart|.*SIGTERM"),
    ("worker killed at default settings", "worker killed, default"),
    ("workers killed, paused or exited at every step boundary", r"(submit|poll|store|notify)\.\w+"),
    (
        "scenarios of the broken builds, by the true build",
        "answer of the state server to|answers (of the provider )?lost|first try of each|worker paused before|two workers share",
    ),
    ("429, four kinds of Retry-After, and a lane with a rate", "submit: 429"),
    ("5xx storm with 200 queued", "submit: storm"),
    ("account invalid, broke, forbidden", "submit: the account"),
    ("one generation id for two submits", "submit: .*(one id|same id|one generation)"),
    ("submits answered badly, late or never", "submit: "),
    ("polls answered badly, late or never", "poll: "),
    ("generations that fail, never end, or give fewer images", "generation: "),
    ("result URLs that fail or lie", "result URL: "),
    ("object store killed, paused, refusing, full, away", "store"),
    ("webhooks that fail or hang", "webhook|endpoint"),
    ("poison, 1 of 200 jobs after 200 without, in submit and in store", "poison"),
    ("soak, random faults under load", "soak"),
    ("two versions at once", "two versions"),
)
SUMS: Final = {
    "jobs": "jobs",
    "unknown": "unknown",
    "lost": "lost",
    "charged twice": "double_charged",
    "forgotten": "forgotten",
    "events under two ids": "duplicate_events",
    "wrong bills": "wrong_bill",
    "wrong ends": "wrong_terminal",
    "limits passed": "over_limit",
}
LONGEST: Final = {"settled": "recovered_s", "resumed": "resumed_s"}


def table(rows: list[Row]) -> str:
    """Give the table in Markdown: a line per kind in the order of KINDS, then the faults of no kind, then the sum."""
    kinds: dict[str, list[Row]] = {label: [] for label, _ in KINDS}
    for row in rows:
        kinds.setdefault(kind_of(row["fault"]), []).append(row)
    heads = ("fault", "cases", *SUMS, *LONGEST)
    lines = [_line(heads), _line(["---"] * len(heads))]
    lines += [_line(_cells(label, found)) for label, found in kinds.items() if found]
    return "\n".join([*lines, _line(_cells("**all**", rows))]) + "\n"


def kind_of(fault: str) -> str:
    """Give the label of the first kind that takes this fault; its own name if none does."""
    return next((label for label, pattern in KINDS if re.match(pattern, fault)), fault)


def _cells(label: str, rows: list[Row]) -> list[str]:
    sums = [str(sum(row[key] for row in rows)) for key in SUMS.values()]
    longest = [
        max((row[key] for row in rows if row[key] is not None), default=None) for key in LONGEST.values()
    ]
    return [label, str(len(rows)), *sums, *("" if s is None else f"{s:.1f} s" for s in longest)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    rows: list[Row] = json.loads(text[text.index("[") : text.rindex("]") + 1])
    sys.stdout.write(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
