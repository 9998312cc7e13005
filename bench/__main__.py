"""Run one measurement: medians of several runs, both sides in the same run, on this machine, on loopback."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import against, cli, drain, durability, enqueue, events, flower, top

BENCHES = {
    "cli": cli.measure,
    "enqueue": enqueue.measure,
    "drain": drain.measure,
    "durability": durability.measure,
    "events": events.measure,
    "flower": flower.measure,
    "top": top.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--runs", type=int, default=3, help="how many runs the medians are of")
    parser.add_argument(
        "--jobs", type=int, default=0, help="jobs per run; 0 takes the measurement's own number"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="TREE",
        help="measure that checkout, too, in turns, and give the ratios",
    )
    args = parser.parse_args()
    progress = Console(stderr=True)
    measured = partial(against.measure, args.name, args.against) if args.against else BENCHES[args.name]
    result = measured(runs=args.runs, jobs=args.jobs, say=progress.print)
    if args.json:
        print(json.dumps(result))
        return 0
    table = Table("measure", "value", title=args.name)
    for name, value in result.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
