"""What operators did to the whole, as the scripts noted it down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: at `at_ms` of the state server (unix ms), by `who`, `what` (freeze, pause, resume, redrive, purge) `on` what."""

    at_ms: int
    who: str
    what: str
    on: str
    why: str


def parse_audit(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[AuditEntry]:
    """Read entries of the stream, in the order given."""

    def entry(fields: Mapping[bytes, bytes]) -> AuditEntry:
        texts: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
        return AuditEntry(int(texts["at"]), texts["who"], texts["what"], texts["on"], texts["why"])

    return [entry(fields) for _, fields in rows]
