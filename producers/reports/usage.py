"""A provider's usage export, row by row: CSV, TSV or JSONL, whatever its columns are called. Pure but for the stream."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from producers.intake_delimited import BrokenRecord, read_records
from producers.intake_lines import MAX_LINE_BYTES, Lines
from producers.reports.amount import parse_micros
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from producers.intake_delimited import Delimiter

# Words of providers for what is not over yet, and for what is over and costs nothing. Others mean: billed.
RUNNING_WORDS: Final = frozenset({"pending", "queued", "processing", "running", "submitted", "in_progress"})
FREE_WORDS: Final = frozenset({"failed", "cancelled", "canceled", "error", "rejected", "refunded", "free"})
_DELIMITERS: Final[Mapping[str, Delimiter]] = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_SUFFIXES: Final = (".jsonl", ".ndjson")
_MS_FROM: Final = 10**11  # a larger number is in milliseconds: as seconds it would be after the year 5000
_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Columns:
    """What the export calls things; None where it has no such column. `micros`: amounts are whole micro-units."""

    generation_id: str
    at: str | None = None
    images: str | None = None
    amount: str | None = None
    status: str | None = None
    prompt: str | None = None
    prompt_sha256: str | None = None
    micros: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        names = (
            self.generation_id,
            self.at,
            self.images,
            self.amount,
            self.status,
            self.prompt,
            self.prompt_sha256,
        )
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One generation as the provider has it. `at_ms` unix ms; None is not said. A prompt is kept as its hash only."""

    line: int
    generation_id: str
    at_ms: int | None = None
    images: int | None = None
    amount_micros: int | None = None
    status: str = ""
    prompt_sha256: str | None = None

    @property
    def running(self) -> bool:
        return self.status in RUNNING_WORDS

    @property
    def billed(self) -> bool:
        """Say whether it costs: by the amount, else by the images, else by the status."""
        if self.amount_micros is not None:
            return self.amount_micros > 0
        if self.images is not None:
            return self.images > 0
        return self.status not in FREE_WORDS


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    line: int
    why: str


def read_usage(
    stream: BinaryIO, name: str, columns: Columns, given_format: str | None = None
) -> Iterator[UsageRow | BrokenRow]:
    """Read an export as a stream. Raises ConfigurationError for an unknown format or a missing column."""
    lines, suffix = Lines(stream, MAX_LINE_BYTES), Path(name).suffix.lower()
    kind = f".{given_format}" if given_format else suffix
    if kind in _JSON_SUFFIXES:
        return _json_rows(lines, columns)
    if kind in _DELIMITERS:
        return _table_rows(lines, _DELIMITERS[kind], columns)
    raise ConfigurationError(f"cannot tell the format of {name}. Give --format csv, tsv or jsonl.")


def _json_rows(lines: Lines, columns: Columns) -> Iterator[UsageRow | BrokenRow]:
    while line := lines.take_filled():
        if line.flaw:
            yield BrokenRow(line.number, f"line {line.flaw}")
            continue
        try:
            given = from_json(line.text)
        except ValueError:
            given = None
        if isinstance(given, dict):
            yield _row(line.number, given.get, columns)
        else:
            yield BrokenRow(line.number, "is not a JSON object")


def _table_rows(lines: Lines, delimiter: Delimiter, columns: Columns) -> Iterator[UsageRow | BrokenRow]:
    header = next(read_records(lines, delimiter), None)
    if header is None:
        return
    if isinstance(header, BrokenRecord):
        raise ConfigurationError(f"the header (line {header.number}) {header.sentence}. Correct it.")
    places = {cell.strip(): at for at, cell in enumerate(header.cells)}
    if missing := [name for name in columns.named if name not in places]:
        known = ", ".join(repr(name) for name in places)
        raise ConfigurationError(
            f"the export has no column {missing[0]!r}; columns are {known}. Name another."
        )
    for record in read_records(lines, delimiter, width=len(header.cells)):
        if isinstance(record, BrokenRecord):
            yield BrokenRow(record.number, record.sentence)
        else:
            cells = record.cells
            yield _row(record.number, lambda name, cells=cells: _cell(cells, places[name]), columns)  # type: ignore[misc] # mypy cannot infer lambdas with defaults


def _cell(cells: list[str], at: int) -> str:
    return cells[at] if at < len(cells) else ""


def _row(line: int, given: Callable[[str], Any], columns: Columns) -> UsageRow | BrokenRow:
    def text(name: str | None) -> str:
        value = given(name) if name is not None else None
        return "" if value is None else str(value).strip()

    generation_id = text(columns.generation_id)
    if not generation_id:
        return BrokenRow(line, f"has no {columns.generation_id}")
    try:
        return UsageRow(
            line,
            generation_id,
            at_ms=_optional(text(columns.at), parse_instant_ms),
            images=_optional(text(columns.images), _whole),
            amount_micros=_optional(text(columns.amount), _whole if columns.micros else parse_micros),
            status=text(columns.status).lower(),
            prompt_sha256=_prompt_sha256(given, columns),
        )
    except ValueError as error:
        return BrokenRow(line, str(error))


def _prompt_sha256(given: Callable[[str], Any], columns: Columns) -> str | None:
    """Give the hash of the prompt, which is taken as it stands: blanks at its ends count."""
    if columns.prompt_sha256 is not None:
        return str(given(columns.prompt_sha256) or "").strip().lower() or None
    prompt = given(columns.prompt) if columns.prompt is not None else None
    return prompt_hash(str(prompt)) if prompt else None


def prompt_hash(prompt: str) -> str:
    """Give the sha256 (hex) of a prompt's UTF-8."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def parse_instant_ms(text: str) -> int:
    """Read unix seconds, unix milliseconds or ISO 8601 (without a zone: UTC). Raises ValueError."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        return round(number if number >= _MS_FROM else number * 1000)
    try:
        at = datetime.fromisoformat(text)
        return round(
            (at if at.tzinfo else datetime.fromisoformat(f"{at.isoformat()}+00:00")).timestamp() * 1000
        )
    except (ValueError, OverflowError):
        raise ValueError("has a time that is neither unix time nor ISO 8601") from None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("has a number that is not whole")
    return int(text)


def _optional(text: str, parse: Callable[[str], int]) -> int | None:
    return parse(text) if text else None
