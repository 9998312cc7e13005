"""Closing days of the ledger: into the object store first, out of the state server then.

1. The oldest day's entries are written to a file, which is put create-only under a name that has its content's hash.
2. The object is read back: every line, their hash, their number and their sums.
3. One script takes the entries out of the stream, adds their sums to the opening balances and notes the day.

A day of many entries is closed in parts, so that the server stands still for an instant only.

Killed before 3, nothing has happened that counts: the next run makes the same file. Two at once make the same file,
and the script lets one of them close the day.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from producers.reports.exports import MEDIA_TYPE, add_to, read_export, write_export
from shared.errors import ConfigurationError, StateUnavailable, StorageConflict, StorageError
from shared.money.closed import MOVING, read_closed
from shared.money.entry import parse_entry
from shared.money.ledger import read_entries
from shared.redis.scripts import run
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from producers.reports.exports import Export
    from producers.reports.journal import Books
    from shared.money.closed import ClosedDay
    from shared.money.entry import Entry
    from shared.settings import Settings
    from shared.storage import ObjectStore

PART_ENTRIES: Final = 200_000  # the server stands still while they leave: about 60 ms
REST_H: Final = 24  # a day rests so long after its end: clocks of servers are set right within it
_TRIES: Final = 3
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Closing:
    """One day or part of it: what its export holds, and how large that is; 0 bytes in a rehearsal."""

    day: ClosedDay
    size_bytes: int


def open_books_store(settings: Settings) -> ObjectStore:
    """Open the store of exports. Raises ConfigurationError where there is none that lasts."""
    if not settings.storage.enabled or settings.storage.url.startswith("memory:"):
        raise ConfigurationError(
            "closed days are kept in the object store, and there is none that lasts. Set DARKROOM_STORAGE__URL."
        )
    return open_store(settings.storage)


def latest_before(books: Books) -> date:
    """Give the day up to which (not included) days may be closed now."""
    return datetime.fromtimestamp((books.now_ms() - REST_H * _HOUR_MS) / 1000, UTC).date()


def check_before(before: date | None, latest: date) -> date:
    """Give the day up to which to close. Raises ConfigurationError for one that is too young."""
    if before is not None and before > latest:
        raise ConfigurationError(
            f"a day may be closed {REST_H} h after its end (UTC), so not all before {before}. "
            f"Give --before {latest} or an earlier day."
        )
    return before or latest


def oldest_entry(books: Books, start: str = "-") -> Entry | None:
    """Give the first entry of the stream."""
    rows: Any = books.client.xrange(books.keys.ledger, start, count=1)
    return parse_entry(*rows[0]) if rows else None


async def close_days(
    books: Books, store: ObjectStore, before: date, *, who: str, on_closed: Callable[[Closing], object]
) -> None:
    """Close every day before `before`, oldest first. What was closed stays closed if a later day fails.

    Raises StorageError, StorageConflict (an object that is there and is not what its name says), StateUnavailable.
    """
    tries = 0
    with _folder(books.settings) as folder:
        while (oldest := _oldest_before(books, before)) is not None:
            closed = await _export_and_close(books, store, oldest, folder / "day.jsonl.gz", who)
            if closed is not None:
                on_closed(closed)
            elif tries == _TRIES:
                raise StateUnavailable(MOVING)
            tries = 0 if closed else tries + 1


async def _export_and_close(
    books: Books, store: ObjectStore, oldest: Entry, path: Path, who: str
) -> Closing | None:
    """Close a day, or a part of it; None if somebody else did meanwhile."""
    part = 1 + sum(each.day == oldest.day for each in read_closed(books.client, books.keys))
    export = write_export(oldest.day, part, _part_of_day(books, oldest), path)
    if export is None:
        return None
    await _put(store, export)
    return Closing(export.day, export.size_bytes) if _close(books, export, who) else None


def rehearse(books: Books, before: date) -> Iterator[Closing]:
    """Give what `close_days` would close, by reading all of it; changes nothing."""
    parts = Counter(each.day for each in read_closed(books.client, books.keys))
    start = "-"
    with _folder(books.settings) as folder:
        while (oldest := _oldest_before(books, before, start)) is not None:
            parts[oldest.day] += 1
            export = write_export(
                oldest.day, parts[oldest.day], _part_of_day(books, oldest), folder / "rehearsal"
            )
            if export is None:
                return
            yield Closing(export.day, 0)
            start = f"({export.day.last_id}"


def _oldest_before(books: Books, before: date, start: str = "-") -> Entry | None:
    oldest = oldest_entry(books, start)
    return oldest if oldest is not None and oldest.day < before else None


def _part_of_day(books: Books, oldest: Entry) -> Iterator[Entry]:
    end = str(_start_ms(oldest.day) + _DAY_MS - 1)
    return islice(read_entries(books.client, books.keys, oldest.id, end), PART_ENTRIES)


def _start_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    above = settings.storage.temp_dir
    if above is not None:
        above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="darkroom-", dir=above) as name:
        yield Path(name)


async def _put(store: ObjectStore, export: Export) -> None:
    """Put an export and prove what is stored, whoever put it: another gzip may pack the same lines otherwise."""
    day, size = export.day, export.size_bytes
    with suppress(StorageConflict):
        await store.put_file(
            day.key, export.path, sha256=export.sha256, media_type=MEDIA_TYPE, size_bytes=size
        )
    sums = Counter[str]()
    async for entry in read_export(store, export.day):
        add_to(sums, entry)
    if sums != export.sums:
        raise StorageError(
            f"{export.day.key} adds up to other sums than its day. Look at it.", key=export.day.key
        )


def _close(books: Books, export: Export, who: str) -> bool:
    """Close the day; False if somebody else did, or if the stream begins with another entry now."""
    day, at_ms = export.day, _start_ms(export.day.day)
    instant, _, number = day.last_id.partition("-")
    sums = [part for name, micros in sorted(export.sums.items()) if micros for part in (name, micros)]
    left = run(
        books.client, "close_day", books.keys.prefix, day.name, at_ms + _DAY_MS + REST_H * _HOUR_MS,
        day.first_id, day.last_id, f"{instant}-{int(number) + 1}", day.note(), who,
        f"{day.entries} entries, {day.key}", *sums,
    )  # fmt: skip
    return int(left) > 0
