"""One line per attempt, with all that finds it again: in our log, in the record's timeline and at the provider."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.claims import Entry

# Which count of the record an attempt of a stage is the next of.
_COUNTED = {"submit": "attempts", "poll": "polls", "store": "tries", "notify": "attempts"}


def attempt(
    stage: str,
    entry: Entry,
    *,
    lane: str = "",
    outcome: str,
    cause: str = "",
    intent_id: str = "",
    generation_id: str = "",
    started_at: float | None = None,
) -> dict[str, Any]:
    """Give the fields of the line.

    outcome: a type or state; cause: a short stable word, empty if there is nothing to explain; attempt: 1 for the
    first; latency_ms: since `started_at` of the monotonic clock (by default since the claim), without recording
    it; ids are empty where there are none yet.
    """
    return {
        "lane": lane,
        "outcome": outcome,
        "cause": cause,
        "epoch": entry.epoch,
        "attempt": entry.number(_COUNTED[stage]) + 1,
        "latency_ms": round(
            1000 * (time.monotonic() - (entry.claimed_at if started_at is None else started_at))
        ),
        "intent_id": intent_id or entry.fields.get("intent_id", ""),
        "generation_id": generation_id or entry.fields.get("generation_id", ""),
    }
