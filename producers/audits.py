"""What people decided, as the scripts noted it down with the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE: Final = 1000  # entries read at once


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision: at `at_ms` of the state server (unix ms), by `who`, `what` (freeze, cancel, purge, ...) `on` which part.

    `jobs` is how many it concerned; None if it was not of jobs.
    """

    at_ms: int
    who: str
    what: str
    on: str
    why: str
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries: since an instant (unix ms), of one kind, by one person. None: any."""

    since_ms: int | None = None
    what: str | None = None
    by: str | None = None

    @property
    def start(self) -> str:
        """The least id of the stream that can hold it: ids are the server's time."""
        return "-" if self.since_ms is None else str(max(0, self.since_ms))

    def holds(self, entry: AuditEntry) -> bool:
        return self.what in (None, entry.what) and self.by in (None, entry.who)


def parse_audit(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[AuditEntry]:
    """Read entries of the stream, in the order given."""

    def entry(fields: Mapping[bytes, bytes]) -> AuditEntry:
        texts: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
        jobs = int(texts["jobs"]) if "jobs" in texts else None
        return AuditEntry(int(texts["at"]), texts["who"], texts["what"], texts["on"], texts["why"], jobs)

    return [entry(fields) for _, fields in rows]


def next_page(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> str:
    """Give where the next page of a reverse read begins; "" if that was the last."""
    return "(" + rows[-1][0].decode() if len(rows) == PAGE else ""
