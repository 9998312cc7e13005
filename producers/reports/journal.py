"""All of the ledger as one journal: closed days from the object store, then the stream of the state server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shared.errors import StateUnavailable, StorageError
from shared.money.entry import EXPORT_FOLDER, day_of_key, entry_order, parse_line
from shared.money.ledger import read_entries
from shared.redis.client import check_server, make_client, translated
from shared.redis.keys import Keys
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from redis import Redis

    from producers.reports.period import Period
    from shared.money.entry import Entry
    from shared.settings import Settings
    from shared.storage import ObjectStore

TRIES: Final = 3
NO_STORE: Final = (
    "days of the ledger have been closed, and storage is off: only what is after them is counted"
)


@dataclass(frozen=True, slots=True)
class Books:
    """A state server whose ledger is read."""

    client: Redis
    keys: Keys
    settings: Settings

    def now_ms(self) -> int:
        """Ask the server for its time (unix ms)."""
        reply: Any = self.client.time()
        return int(reply[0]) * 1000 + int(reply[1]) // 1000


@contextmanager
def opened_books(settings: Settings) -> Iterator[Books]:
    """Connect for reading. What follows may raise StateUnavailable, with what to do."""
    with make_client(settings.redis) as client:
        check_server(client, settings)
        with translated(settings.redis.url):
            yield Books(client, Keys.of(settings.redis.namespace), settings)


@dataclass(slots=True)
class Journal:
    """What was read: remarks for people, and how many closed days were in it."""

    notes: list[str] = field(default_factory=list)
    closed_days: int = 0


async def read_journal(
    books: Books, period: Period, start: Callable[[], Callable[[Entry], object]], *, tries: int = TRIES
) -> Journal:
    """Feed every entry of the period, oldest first, into what `start` gives.

    Begins anew (with a new `start()`) if days are closed meanwhile, `tries` times in all. A line of a file or a page of the stream is in
    memory. Raises StorageError (a closed day that cannot be read), StateUnavailable.
    """
    for _ in range(tries):
        journal, take = Journal(), start()
        opening = books.client.hgetall(books.keys.opening)
        store = _store(books, journal) if opening else None
        async for entry in _entries(books, store, period, journal):
            take(entry)
        if books.client.hgetall(books.keys.opening) == opening:
            return journal
    raise StateUnavailable("days of the ledger are being closed. Try again when that is done.")


def _store(books: Books, journal: Journal) -> ObjectStore | None:
    """Open the object store: not before it is needed, because a folder would be made."""
    if books.settings.storage.enabled:
        return open_store(books.settings.storage)
    journal.notes.append(NO_STORE)
    return None


async def _entries(
    books: Books, store: ObjectStore | None, period: Period, journal: Journal
) -> AsyncIterator[Entry]:
    last = ""
    if store is not None:
        async for entry in _closed(store, period, journal):
            last = entry.id
            if period.holds(entry.at_ms):
                yield entry
    # A day may be exported and not yet out of the stream: what the file gave is not given twice.
    since = str(period.since_ms) if period.since_ms is not None else "-"
    start = f"({last}" if last and (since == "-" or entry_order(last) > entry_order(since)) else since
    end = str(period.until_ms - 1) if period.until_ms is not None else "+"
    for entry in read_entries(books.client, books.keys, start, end):
        yield entry


async def _closed(store: ObjectStore, period: Period, journal: Journal) -> AsyncIterator[Entry]:
    """Give the entries of the exported days that touch the period."""
    keys = {day_of_key(key): key async for key in store.list_keys(EXPORT_FOLDER)}
    for day, key in sorted(
        (day, key) for day, key in keys.items() if day is not None and period.touches(day)
    ):
        journal.closed_days += 1
        async for number, line in _lines(store, key):
            try:
                yield parse_line(line)
            except (ValueError, KeyError):
                message = f"line {number} of {key} is no entry of the ledger ({day}). Restore the file."
                raise StorageError(message, kind="conflict", key=key) from None


async def _lines(store: ObjectStore, key: str) -> AsyncIterator[tuple[int, bytes]]:
    rest, number = b"", 0
    async for chunk in store.read_stream(key):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, line
    if rest:
        yield number + 1, rest
