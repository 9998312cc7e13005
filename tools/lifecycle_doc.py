"""Draw docs/lifecycle.md from the tables of shared/jobs/lifecycle.py: `python -m tools.lifecycle_doc > docs/lifecycle.md`."""

from __future__ import annotations

import sys

from shared.jobs.lifecycle import (
    DELIVERY_REDRIVES,
    DELIVERY_STATES,
    DELIVERY_TRANSITIONS,
    JOB_REDRIVES,
    JOB_STATES,
    JOB_TRANSITIONS,
    TERMINAL,
    DeliveryState,
    JobState,
)

JOB_TABLE = JOB_TRANSITIONS | JOB_REDRIVES
DELIVERY_TABLE = DELIVERY_TRANSITIONS | DELIVERY_REDRIVES
HEAD = """# The life of a job

Generated from `shared/jobs/lifecycle.py` by `make docs`; a test keeps it current. A job's state is final once it is
`completed`, `failed` or `cancelled`; its accounting may go on (a generation that the provider still works on is
polled until its bill is known), and never changes the state. Only an operator puts a failed job back, by
`darkroom redrive`.
"""


def render() -> str:
    """Give the whole page."""
    ends = {str(state) for state in TERMINAL}
    delivery_ends = {str(state) for state in DeliveryState if state is not DeliveryState.PENDING}
    return "\n".join(
        [
            HEAD,
            *_diagram({(str(a), str(b)) for a, b in JOB_TABLE}, str(JobState.QUEUED), ends),
            *_paragraphs({str(state): text for state, text in JOB_STATES.items()}),
            *_table({(str(a), str(b)): why for (a, b), why in JOB_TABLE.items()}),
            "# The life of a delivery\n",
            "One delivery per event; it never moves a job.\n",
            *_diagram(
                {(str(a), str(b)) for a, b in DELIVERY_TABLE}, str(DeliveryState.PENDING), delivery_ends
            ),
            *_paragraphs({str(state): text for state, text in DELIVERY_STATES.items()}),
            *_table({(str(a), str(b)): why for (a, b), why in DELIVERY_TABLE.items()}),
        ]
    )


def _diagram(edges: set[tuple[str, str]], first: str, ends: set[str]) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {before} --> {after}" for before, after in sorted(edges)]
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return [*lines, "```", ""]


def _paragraphs(states: dict[str, str]) -> list[str]:
    return [f"**{state}**. {text}\n" for state, text in states.items()]


def _table(transitions: dict[tuple[str, str], str]) -> list[str]:
    rows = [f"| {before} | {after} | {why} |" for (before, after), why in transitions.items()]
    return ["| from | to | when |", "|---|---|---|", *rows, ""]


if __name__ == "__main__":
    sys.stdout.write(render())
