"""Which claim a log line is of: bound once per claim, and read only by the lines that are written."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_CLAIM: ContextVar[tuple[str, str, str, int] | None] = ContextVar("claim", default=None)


def working_on(stage: str, kind: str, entry_id: str, epoch: int) -> None:
    """Have every line of this task say what it works on; kind: j for a job, d for a delivery."""
    _CLAIM.set((stage, kind, entry_id, epoch))


def add_claim(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add it, as a processor of structlog; what the line says itself wins."""
    claim = _CLAIM.get()
    if claim is not None:
        stage, kind, entry_id, epoch = claim
        event.setdefault("stage", stage)
        event.setdefault("epoch", epoch)
        event.setdefault("event_id" if kind == "d" else "job_id", entry_id)
    return event
