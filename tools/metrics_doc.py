"""Write docs/metrics.md from the tables of workers and exporter: `python -m tools.metrics_doc > docs/metrics.md`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from producers import store_metrics
from workers import metrics as worker_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.telemetry import Metric

HEAD: Final = """# Metrics

Generated from the tables in `workers/metrics.py` and `producers/store_metrics.py` by `make docs`; a test keeps it
current, another compares it with live pages. `deploy/prometheus` has a configuration and alert rules, and
`deploy/grafana/darkroom.json` a dashboard.

There are two kinds of pages, and no fact is on both:

- **Each worker** counts what it did itself: sum over workers. Set `DARKROOM_METRICS__WORKER_PORT` (off by default)
  and, in a container, `DARKROOM_METRICS__ADDRESS=0.0.0.0`. Workers that share a machine need a port each; one whose
  port is taken logs `metrics_not_served` and works on.
- **`darkroom exporter`** reads the state server and shows what it holds: run one, whatever the number of workers. A
  scrape costs some commands per lane and model, however many jobs there are.

Nobody is asked for a password: let only Prometheus reach these ports. Labels are names of accounts, models, stages,
states and outcomes, hosts of webhook endpoints that are late, and tenants that a cap of spending names; never a prompt,
a URL, a key or a job.
"""
_LANE: Final = "`lane` is `account/model`. Times are in seconds, money is in units of its currency.\n"


def declared() -> tuple[Metric, ...]:
    """Give every metric of ours."""
    return (*worker_metrics.TABLE, *worker_metrics.READ_WHEN_ASKED, *store_metrics.TABLE)


def render() -> str:
    """Give the whole page."""
    works = (*worker_metrics.TABLE, *worker_metrics.READ_WHEN_ASKED)
    return "\n".join(
        [
            HEAD,
            _LANE,
            "## Each worker\n",
            "Besides these, `process_*` and `python_info` of the process itself.\n",
            *_table(works),
            "## The exporter\n",
            *_table(store_metrics.TABLE),
        ]
    )


def _table(metrics: Iterable[Metric]) -> list[str]:
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.meaning} |"
        for each in metrics
    ]
    return ["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""]


if __name__ == "__main__":
    sys.stdout.write(render())
