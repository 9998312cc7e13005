"""Files of closed days: written once, read line by line, and proved to be what their names say."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from gzip import GzipFile
from typing import TYPE_CHECKING, Final

from shared.errors import StorageError
from shared.money.closed import ClosedDay
from shared.money.entry import entry_line, parse_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import date
    from pathlib import Path

    from shared.money.entry import Entry
    from shared.storage import ObjectStore

MEDIA_TYPE: Final = "application/gzip"
_GZIP: Final = zlib.MAX_WBITS | 16
_FAST_AND_SMALL: Final = 6


@dataclass(frozen=True, slots=True)
class Export:
    """A day's entries in a file. `sums`: micros by `currency|account`, what the entries add up to."""

    day: ClosedDay
    path: Path
    size_bytes: int
    sha256: str
    sums: Mapping[str, int]


def write_export(day: date, part: int, entries: Iterable[Entry], path: Path) -> Export | None:
    """Write entries as they come; None if there are none. The same entries make the same lines, whoever writes."""
    lines, sums = hashlib.sha256(), Counter[str]()
    count, first_id, last_id = 0, "", ""
    path.unlink(missing_ok=True)  # a new file each time: the one before may have become an object
    with path.open("wb") as raw, GzipFile("", "wb", _FAST_AND_SMALL, raw, mtime=0) as packed:
        for entry in entries:
            line = entry_line(entry)
            packed.write(line)
            lines.update(line)
            add_to(sums, entry)
            first_id, last_id, count = first_id or entry.id, entry.id, count + 1
    if not count:
        return None
    closed = ClosedDay(day, part, lines.hexdigest(), count, first_id, last_id)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Export(closed, path, path.stat().st_size, sha256, sums)


def add_to(sums: Counter[str], entry: Entry) -> None:
    """Add a posting to the sums of its accounts."""
    sums[f"{entry.currency}|{entry.debit}"] -= entry.micros
    sums[f"{entry.currency}|{entry.credit}"] += entry.micros


async def read_export(store: ObjectStore, day: ClosedDay) -> AsyncIterator[Entry]:
    """Give a closed day's entries, oldest first; a piece of the file is in memory.

    Raises StorageError for a file that is missing, damaged or another's: at the latest after its last line.
    """
    lines, number = hashlib.sha256(), 0
    async for line in _lines(store, day):
        lines.update(line)
        number += 1
        try:
            yield parse_line(line)
        except (ValueError, KeyError):
            raise _damaged(day, f"line {number} is no entry of the ledger") from None
    if number != day.entries:
        raise _damaged(day, f"it has {number} entries, not {day.entries}")
    if lines.hexdigest() != day.sha256:
        raise _damaged(day, "its lines are not those that its name says")


async def _lines(store: ObjectStore, day: ClosedDay) -> AsyncIterator[bytes]:
    unpacking, rest = zlib.decompressobj(_GZIP), b""
    async for chunk in store.read_stream(day.key):
        try:
            text = unpacking.decompress(chunk)
        except zlib.error:
            raise _damaged(day, "it is not gzip, or torn") from None
        *whole, rest = (rest + text).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if not unpacking.eof or unpacking.unused_data:
        raise _damaged(day, "it was cut, or something was added")
    if rest:
        yield rest


def _damaged(day: ClosedDay, why: str) -> StorageError:
    return StorageError(
        f"the export of the closed day {day.day} is damaged ({day.key}): {why}. Restore the file.",
        kind="conflict",
        key=day.key,
    )
