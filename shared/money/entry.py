"""One posting of the ledger, in the state server's form and as a line of an exported day. Pure.

A posting moves `micros` of a currency from one account to another. Accounts are `KIND:TENANT`; the kinds:

    budget   what a tenant has been given to spend: starts at 0 and goes down
    held     reserved for generations that may still be billed
    spent    billed
    doubt    held for a submit of unknown outcome that was resubmitted: neither spent nor free

A job's money goes budget -> held (`hold`), then held -> spent (`settle`), held -> budget (`release`) or held -> doubt
(`doubt`). What turns up without a hold goes budget -> spent (`charge`). Instants are the state server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPORT_FOLDER: Final = "ledger"
_TEXT: Final = ("job", "kind", "currency", "debit", "credit", "tenant", "batch", "lane", "intent")


@dataclass(frozen=True, slots=True)
class Entry:
    """One posting. `id` is that of the stream (`ms-number`): unique, and in the order of time.

    `batch`, `lane` and `intent` are "" where there is none; a hold is older than its POST's intent.
    """

    id: str
    job: str
    kind: str
    currency: str
    debit: str
    credit: str
    micros: int
    tenant: str
    batch: str
    lane: str
    intent: str

    @property
    def at_ms(self) -> int:
        return int(self.id.partition("-")[0])

    @property
    def day(self) -> date:
        """The day of the posting, in UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).date()

    @property
    def order(self) -> tuple[int, int]:
        """Compares as the ids do."""
        return entry_order(self.id)

    @property
    def model(self) -> str:
        return self.lane.partition("/")[2]


def entry_order(entry_id: str) -> tuple[int, int]:
    """Give what compares as entry ids do (as text they do not)."""
    at_ms, _, number = entry_id.partition("-")
    return int(at_ms), int(number or 0)


def parse_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    """Read an entry as the stream gives it."""
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return _entry(entry_id.decode(), text)


def entry_line(entry: Entry) -> bytes:
    """Write an entry as one line of an exported day: a JSON object, its id first."""
    row = {"id": entry.id, "micros": entry.micros} | {name: getattr(entry, name) for name in _TEXT}
    return to_json(row) + b"\n"


def parse_line(line: bytes) -> Entry:
    """Read a line of an exported day. Raises ValueError for what is none."""
    row = from_json(line)
    if not isinstance(row, dict):
        raise ValueError("a line of an exported day must be a JSON object")  # noqa: TRY004 - it is text that is wrong
    return _entry(str(row["id"]), row)


def _entry(entry_id: str, row: Mapping[str, Any]) -> Entry:
    return Entry(id=entry_id, micros=int(row["micros"]), **{name: str(row[name]) for name in _TEXT})


def export_key(day: date, part: int, sha256: str) -> str:
    """Give the object key of a part of a closed day; `sha256` (hex) is that of its lines before compression."""
    return f"{EXPORT_FOLDER}/{day.isoformat()}-{part}.{sha256}.jsonl.gz"
