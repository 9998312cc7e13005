"""Reading and verifying the ledger: a stream of postings in the state server (what one is: `entry.py`).

Closed days leave the stream: they are files in the object store, and their sums are the opening balances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.money.audit import Audit
from shared.money.closed import while_no_day_closes
from shared.money.entry import parse_entry
from shared.redis.together import read_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis import Redis

    from shared.money.audit import LedgerReport
    from shared.money.entry import Entry
    from shared.redis.keys import Keys
    from shared.redis.together import Read

PAGE_ENTRIES: Final = 1000


def read_entries(
    client: Redis, keys: Keys, start: str = "-", end: str = "+", *, page: int = PAGE_ENTRIES
) -> Iterator[Entry]:
    """Give the stream's entries from `start` to `end`, both inclusive (`(id` excludes it), a page at a time."""
    while True:
        rows: Any = client.xrange(keys.ledger, start, end, count=page)
        for entry_id, fields in rows:
            yield parse_entry(entry_id, fields)
        if len(rows) < page:
            return
        start = "(" + rows[-1][0].decode()


@dataclass(frozen=True, slots=True)
class Books:
    """Sums as they were at one instant, in micros by `currency|account`. `last_id` is "" for an empty stream."""

    balances: Mapping[str, int]
    opening: Mapping[str, int]
    last_id: str
    at_ms: int


def read_books(client: Redis, keys: Keys) -> Books:
    """Read running balances, opening balances and the last entry's id, all of the same instant."""
    reads: list[Read] = [("hash", keys.balances), ("hash", keys.opening), ("last", keys.ledger)]
    balances, opening, last = read_together(client, keys, reads)
    seconds, micros = client.time()
    last_id = last[0][0].decode() if last else ""
    return Books(_sums(balances), _sums(opening), last_id, int(seconds) * 1000 + int(micros) // 1000)


def _sums(found: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in found.items()}


def verify(client: Redis, keys: Keys, *, page: int = PAGE_ENTRIES) -> LedgerReport:
    """Compare opening balances and entries with the running balances, and look for holds resolved twice.

    Reads the stream up to an id that is of the same instant as the balances; what is written meanwhile is not judged.
    A page is in memory, and the holds that are open at one time; once days have been closed also the ids of the
    jobs that were resolved since. Raises StateUnavailable.
    """

    def read() -> LedgerReport:
        books = read_books(client, keys)
        audit = Audit(books.opening)
        if books.last_id:
            for entry in read_entries(client, keys, end=books.last_id, page=page):
                audit.add(entry)
        return audit.report(books.balances, through_id=books.last_id, at_ms=books.at_ms)

    return while_no_day_closes(client, keys, read)
