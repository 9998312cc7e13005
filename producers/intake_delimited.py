"""Records of CSV and TSV.

Python's csv module is not used: it drops plain quotes (`"G I G" in paint` becomes `G I G in paint`), its limit on the
size of a cell is one for the whole process, and it cannot say on which line a record began.

1. A cell that begins with `"` and whose closing `"` is followed by a delimiter or the end is quoted: it may hold
   delimiters, line ends and doubled quotes. Any `"` further on in a cell is a plain character.
2. CSV (RFC 4180): text after the closing quote, or no closing quote, breaks the record. Only its first line is given
   up; but the lines read in search of the end may belong to it, so each must have exactly the header's cells (and
   more than one). Guessing otherwise could enqueue, and bill, what nobody wrote.
3. TSV often has no quoting at all. So a cell that begins with `"` but does not end as 1. demands is taken as it
   stands. One that is closed on a later line counts as quoted only if the record then has exactly the header's cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.intake_lines import Line, Lines

Delimiter = Literal[",", "\t"]

MAX_RECORD_LINES = 500  # an opening quote that is never closed must not swallow the file


@dataclass(frozen=True, slots=True)
class Record:
    """Cells of one record; `number` is its first line."""

    number: int
    cells: list[str]
    raw: str


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be read: rule and sentence. The lines up to `doubtful_to` may belong to it."""

    number: int
    rule: str
    sentence: str
    raw: str
    doubtful_to: int = 0


class _Quote(Enum):
    """Why a record's cells cannot be told."""

    UNCLOSED = "a cell's quote is not closed"
    STRAY = "text follows a cell's closing quote; double the quotes inside a quoted cell"


def read_records(
    lines: Lines, delimiter: Delimiter, *, width: int | None = None
) -> Iterator[Record | BrokenRecord]:
    """Give all records but blank ones. `width`, the header's number of cells, also bounds each record's."""
    doubtful_to = 0
    while first := lines.take_filled():
        if first.flaw:
            yield BrokenRecord(first.number, first.rule, first.flaw, first.text)
            continue
        record = _record(lines, first, delimiter, width)
        if isinstance(record, Record):
            record = _of_width(record, width, exact=record.number <= doubtful_to)
        if isinstance(record, BrokenRecord):
            doubtful_to = max(doubtful_to, record.doubtful_to)
            yield record
        elif any(map(str.strip, record.cells)):
            yield record


def _of_width(record: Record, width: int | None, *, exact: bool) -> Record | BrokenRecord:
    """Break a record with more cells than the header; a doubtful one also with fewer."""
    cells = record.cells
    if exact and (len(cells) != width or width == 1):
        sentence = "follows a quote that is not closed, and may belong to that cell"
        return BrokenRecord(record.number, "quoting", sentence, record.raw)
    if width is not None and len(cells) > width and any(map(str.strip, cells[width:])):
        sentence = f"has {len(cells)} cells, the header has {width}"
        return BrokenRecord(record.number, "columns", sentence, record.raw)
    return record


def _record(lines: Lines, first: Line, delimiter: Delimiter, width: int | None) -> Record | BrokenRecord:
    if '"' not in first.text:
        return Record(first.number, first.text.split(delimiter), first.text)
    lenient = delimiter == "\t"
    cells = split_cells(first.text, delimiter, lenient=lenient)
    if isinstance(cells, list):
        return Record(first.number, cells, first.text)
    if cells is _Quote.STRAY:
        return BrokenRecord(first.number, "quoting", cells.value, first.text)
    return _over_lines(lines, first, delimiter, width)


def _over_lines(lines: Lines, first: Line, delimiter: Delimiter, width: int | None) -> Record | BrokenRecord:
    """Read on for the closing quote of a cell; in TSV, give up and take the first line as it stands."""
    lenient = delimiter == "\t"
    taken: list[Line] = []
    cells: list[str] | _Quote = _Quote.UNCLOSED
    while cells is _Quote.UNCLOSED and len(taken) < MAX_RECORD_LINES - 1 and (line := lines.take()):
        taken.append(line)
        if '"' in line.text:
            cells = split_cells(_joined(first, taken), delimiter, lenient=lenient)
    if isinstance(cells, list) and not (lenient and width not in (None, len(cells))):
        return _whole(first, taken, cells)
    lines.put_back(taken)
    if lenient:
        return Record(first.number, _plain_cells(first.text, delimiter), first.text)
    reason = cells if isinstance(cells, _Quote) else _Quote.UNCLOSED
    return BrokenRecord(first.number, "quoting", reason.value, first.text, first.number + len(taken))


def _whole(first: Line, more: list[Line], cells: list[str]) -> Record | BrokenRecord:
    """Give the record of several lines, unless one of them cannot be read."""
    raw = _joined(first, more)
    for line in more:
        if line.flaw:
            return BrokenRecord(
                first.number, line.rule, f"goes on in line {line.number}, which {line.flaw}", raw
            )
    return Record(first.number, cells, raw)


def _joined(first: Line, more: list[Line]) -> str:
    return "\n".join((first.text, *(line.text for line in more)))


def split_cells(text: str, delimiter: Delimiter, *, lenient: bool) -> list[str] | _Quote:
    """Split one record. `lenient` takes a cell with text after its closing quote as it stands, on one line."""
    cells: list[str] = []
    start = 0
    while start <= len(text):
        if text.startswith('"', start):
            close = _closing_quote(text, start + 1)
            if close == -1:
                return _Quote.UNCLOSED
            end = close + 1
            if text[end : end + 1] in ("", delimiter):
                cells.append(text[start + 1 : close].replace('""', '"'))
                start = end + 1
                continue
            if not lenient:
                return _Quote.STRAY
        cell = text[start : _end_of_cell(text, start, delimiter)]
        if "\n" in cell:
            return _Quote.STRAY
        cells.append(cell)
        start += len(cell) + 1
    return cells


def _plain_cells(text: str, delimiter: Delimiter) -> list[str]:
    """Split one line whose quotes do not pair up: cells that are quoted within themselves lose their quotes."""
    cells = []
    for cell in text.split(delimiter):
        alone = split_cells(cell, delimiter, lenient=True) if cell.startswith('"') else [cell]
        cells.append(alone[0] if isinstance(alone, list) else cell)
    return cells


def _closing_quote(text: str, start: int) -> int:
    """Find the quote that is not doubled; -1 if there is none."""
    while (position := text.find('"', start)) != -1:
        if not text.startswith('"', position + 1):
            return position
        start = position + 2
    return -1


def _end_of_cell(text: str, start: int, delimiter: Delimiter) -> int:
    end = text.find(delimiter, start)
    return len(text) if end == -1 else end
