"""What every stage works with: the process's recorder, claims, job events, and the pacemaker's ear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.claims import Claims, Entry
    from workers.recorder import Recorder


class Events(Protocol):
    """Flower's view of jobs (workers/flower.py)."""

    def emit(self, kind: str, job_id: str, **fields: str | int) -> None: ...


@dataclass(frozen=True, slots=True)
class Shop:
    """Shared by the stages of one process. arm(stage, lane, in_ms) says when work is due there."""

    recorder: Recorder
    claims: Claims
    events: Events
    arm: Callable[[str, str, int], None]


def tell_redriven(events: Events, entry: Entry, model: str) -> None:
    """Tell Flower first that an operator put the job back, if so: else its row stays at the old end."""
    if entry.fields.get("redriven"):
        events.emit("retried", entry.id, code="redriven", **shown(entry, model))


def shown(entry: Entry, model: str, **stage: str) -> dict[str, str | int]:
    """Give what Flower shows of a job on its way."""
    asked = entry.request
    return {"model": model, "size": str(asked.get("size", "2K")), "n": int(asked.get("n", 1)), **stage}


def succeeded(
    entry: Entry, images: int, cost_micros: int, object_keys: Iterable[str] = ()
) -> dict[str, str | int]:
    """Give what Flower shows of a job that completed."""
    return {
        "object_keys": " ".join(object_keys),
        "images": images,
        "cost_micros": cost_micros,
        "currency": entry.fields.get("currency", ""),
        "runtime_ms": entry.now_ms - (entry.number("submitted_at") or entry.now_ms),
    }
