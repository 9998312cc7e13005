"""All of the ledger as one journal: closed days from the object store, then the stream of the state server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from producers.reports.exports import read_export
from shared.errors import StateUnavailable
from shared.money.audit import Audit
from shared.money.closed import MOVING, read_closed
from shared.money.ledger import read_books, read_entries
from shared.redis.client import check_server, make_client, translated
from shared.redis.keys import Keys
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from redis import Redis

    from producers.reports.period import Period
    from shared.money.audit import LedgerReport
    from shared.money.closed import ClosedDay
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

    Begins anew (with a new `start()`) if days are closed meanwhile, `tries` times in all. A piece of a file or a page
    of the stream is in memory. Raises StorageError (a closed day that cannot be read), StateUnavailable.
    """
    for _ in range(tries):
        journal, take = Journal(), start()
        closed = read_closed(books.client, books.keys)
        async for entry in _entries(books, closed, period, journal):
            take(entry)
        if read_closed(books.client, books.keys) == closed:
            return journal
    raise StateUnavailable(MOVING)


async def _entries(
    books: Books, closed: Sequence[ClosedDay], period: Period, journal: Journal
) -> AsyncIterator[Entry]:
    wanted = [day for day in closed if period.touches(day.day)]
    if wanted and not books.settings.storage.enabled:
        journal.notes.append(NO_STORE)
    elif wanted:  # not opened before it is needed: a folder would be made
        journal.closed_days = len({day.day for day in wanted})
        async for entry in _exported(open_store(books.settings.storage), wanted):
            if period.holds(entry.at_ms):
                yield entry
    start = str(period.since_ms) if period.since_ms is not None else "-"
    end = str(period.until_ms - 1) if period.until_ms is not None else "+"
    for entry in read_entries(books.client, books.keys, start, end):
        yield entry


async def _exported(store: ObjectStore, days: Iterable[ClosedDay]) -> AsyncIterator[Entry]:
    for day in days:
        async for entry in read_export(store, day):
            yield entry


async def verify_all(books: Books, store: ObjectStore, *, tries: int = TRIES) -> tuple[LedgerReport, int]:
    """Compare every entry there ever was, of closed days and of the stream, with the running balances.

    Gives also how many closed days were read again; each is what its name says, or this raises StorageError.
    """
    for _ in range(tries):
        closed, audit = read_closed(books.client, books.keys), Audit({})
        async for entry in _exported(store, closed):
            audit.add(entry)
        now = read_books(books.client, books.keys)
        for entry in read_entries(books.client, books.keys, end=now.last_id) if now.last_id else ():
            audit.add(entry)
        if read_closed(books.client, books.keys) == closed:
            return audit.report(now.balances, through_id=now.last_id, at_ms=now.at_ms), len(
                {day.day for day in closed}
            )
    raise StateUnavailable(MOVING)
