"""Trouble of the object store, as workers noted it: while it lasts no more images are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS: Final = (
    "store_stopped_at",
    "store_failing",
    "store_failing_at",
)  # of the control hash: store_note.lua
OVERDUE: Final = "overdue"
_SAID: Final = {
    "denied": "the object store refuses copies",
    "full": "the object store is full",
    "missing": "the object store's bucket or folder is missing",
    OVERDUE: "copies to the object store do not keep up",
}


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """Submits wait since `since_ms` (unix ms): `kind` is denied, full, missing, unavailable, or overdue."""

    kind: str
    since_ms: int

    @property
    def said(self) -> str:
        """Say it in words."""
        return _SAID.get(self.kind, "the object store does not answer")


def parse_store_trouble(
    noted: Sequence[bytes | None], first: Sequence[tuple[bytes, float]], now_ms: int, lag_ms: int
) -> StoreTrouble | None:
    """Give what `store_gate.lua` finds: in FIELDS of the control hash, or in the first entry of the store's index."""
    stopped_at, kind, failing_at = noted
    if stopped_at is not None:
        return StoreTrouble((kind or b"unavailable").decode(), int(failing_at or stopped_at))
    if first and now_ms - first[0][1] > lag_ms:
        return StoreTrouble(OVERDUE, int(first[0][1]))
    return None
