"""Days of the ledger that were closed: their entries are a file of the object store, their sums opening balances.

A file holds one entry per line, compressed by gzip. Its name has the day and the sha256 of the lines, so that anybody
can tell a damaged one: `zcat FILE | sha256sum`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from itertools import starmap
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from shared.errors import StateUnavailable
from shared.money.entry import export_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from redis import Redis

    from shared.redis.keys import Keys

    T = TypeVar("T")

_TRIES = 3
MOVING = "days of the ledger are being closed. Try again when that is done."


@dataclass(frozen=True, slots=True)
class ClosedDay:
    """A day (UTC) as the state server notes it, or a part of a large one, counted from 1.

    Its export holds `entries`, from `first_id` to `last_id`.
    """

    day: date
    part: int
    sha256: str
    entries: int
    first_id: str
    last_id: str

    @property
    def key(self) -> str:
        """The object key of its export."""
        return export_key(self.day, self.part, self.sha256)

    @property
    def name(self) -> str:
        """Under which the state server notes it: `2026-01-31-1`."""
        return f"{self.day.isoformat()}-{self.part}"

    def note(self) -> bytes:
        """Write what the state server keeps under the name."""
        return to_json({name: value for name, value in asdict(self).items() if name not in ("day", "part")})


def read_closed(client: Redis, keys: Keys) -> list[ClosedDay]:
    """Read which days are closed, oldest first."""
    found: Any = client.hgetall(keys.closed)
    return sorted(starmap(_parse, found.items()), key=lambda each: (each.day, each.part))


def _parse(name: bytes, note: bytes) -> ClosedDay:
    day, _, part = name.decode().rpartition("-")
    return ClosedDay(date.fromisoformat(day), int(part), **from_json(note))


def while_no_day_closes(client: Redis, keys: Keys, read: Callable[[], T]) -> T:
    """Give what `read` gives; again, if days of the ledger were closed meanwhile (it may have missed entries).

    Raises StateUnavailable if that goes on.
    """
    for _ in range(_TRIES):
        before = client.hlen(keys.closed)
        found = read()
        if client.hlen(keys.closed) == before:
            return found
    raise StateUnavailable(MOVING)
