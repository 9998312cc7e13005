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
from producers.intake_lines import Lines
from producers.reports.amount import parse_micros
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from producers.intake_delimited import Delimiter

    Columns = Mapping[str, str]

# What a row may say, and under which name if no other is given. Only the generation is needed.
FIELDS: Final = (
    "generation", "at", "images", "amount", "micros", "status", "model", "size", "prompt", "prompt_sha256",
)  # fmt: skip
# Words of providers for what is not over yet, and for what is over and costs nothing. Others mean: billed.
RUNNING_WORDS: Final = frozenset({"pending", "queued", "processing", "running", "submitted", "in_progress"})
FREE_WORDS: Final = frozenset({"failed", "cancelled", "canceled", "error", "rejected", "refunded", "free"})
MAX_ROW_BYTES: Final = 1024 * 1024
_DELIMITERS: Final[Mapping[str, Delimiter]] = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_SUFFIXES: Final = (".jsonl", ".ndjson")
_MS_FROM: Final = 10**11  # a larger number is in milliseconds: as seconds it would be after the year 5000
_SINCE_MS: Final = 946_684_800_000  # 2000-01-01
_UNTIL_MS: Final = 7_258_118_400_000  # 2200-01-01
_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One generation as the provider has it. `at_ms` unix ms; None is not said. A prompt is kept as its hash only."""

    line: int
    generation_id: str
    at_ms: int | None = None
    images: int | None = None
    amount_micros: int | None = None
    status: str = ""
    model: str = ""
    size: str = ""
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

    @property
    def costs(self) -> bool:
        """Say whether it moves money already: what is given back does, what is still running does not."""
        return (self.amount_micros or 0) < 0 or (self.billed and not self.running)


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    line: int
    why: str


def check_columns(columns: Columns) -> Columns:
    """Give FIELD -> COLUMN as it is. Raises ConfigurationError for a field that there is not."""
    if wrong := sorted(set(columns) - set(FIELDS)):
        raise ConfigurationError(f"--column knows no field {wrong[0]!r}; it takes {', '.join(FIELDS)}.")
    return columns


def read_usage(
    stream: BinaryIO, name: str, columns: Columns, given_format: str | None = None
) -> Iterator[UsageRow | BrokenRow]:
    """Read an export as a stream. Raises ConfigurationError for an unknown format or a missing column."""
    lines, suffix = Lines(stream, MAX_ROW_BYTES), Path(name).suffix.lower()
    kind = f".{given_format}" if given_format else suffix
    if kind in _JSON_SUFFIXES:
        return _json_rows(lines, {field: field for field in FIELDS} | dict(columns))
    if kind in _DELIMITERS:
        return _table_rows(lines, _DELIMITERS[kind], columns)
    raise ConfigurationError(f"cannot tell the format of {name}. Give --format csv, tsv or jsonl.")


def _json_rows(lines: Lines, columns: Columns) -> Iterator[UsageRow | BrokenRow]:
    while line := lines.take_filled():
        if line.flaw:
            yield BrokenRow(line.number, line.flaw)
            continue
        try:
            given = from_json(line.text)
        except ValueError:
            given = None
        if isinstance(given, dict):
            yield _row(line.number, given.get, columns)
        else:
            yield BrokenRow(line.number, "is not a JSON object")


def _table_rows(lines: Lines, delimiter: Delimiter, given: Columns) -> Iterator[UsageRow | BrokenRow]:
    header = next(read_records(lines, delimiter), None)
    if header is None:
        return
    if isinstance(header, BrokenRecord):
        raise ConfigurationError(f"the header (line {header.number}) {header.sentence}. Correct it.")
    places = {cell.strip(): at for at, cell in enumerate(header.cells)}
    columns = {field: field for field in FIELDS if field in places} | dict(given)
    missing = [
        name for name in (columns.get("generation", "generation"), *given.values()) if name not in places
    ]
    if missing:
        known = ", ".join(repr(name) for name in places)
        raise ConfigurationError(
            f"the export has no column {missing[0]!r}; columns are {known}. Give --column FIELD=COLUMN."
        )
    for record in read_records(lines, delimiter, width=len(header.cells)):
        if isinstance(record, BrokenRecord):
            yield BrokenRow(record.number, record.sentence)
        else:
            yield _row(record.number, _Cells(record.cells, places).get, columns)


@dataclass(frozen=True, slots=True)
class _Cells:
    cells: list[str]
    places: Mapping[str, int]

    def get(self, name: str) -> str:
        at = self.places[name]
        return self.cells[at] if at < len(self.cells) else ""


def _row(line: int, given: Callable[[str], Any], columns: Columns) -> UsageRow | BrokenRow:
    def text(field: str) -> str:
        value = given(columns[field]) if field in columns else None
        return "" if value is None else str(value).strip()

    generation_id = text("generation")
    if not generation_id:
        return BrokenRow(line, f"has no {columns.get('generation', 'generation')}")
    try:
        return UsageRow(
            line,
            generation_id,
            at_ms=_optional(text("at"), parse_instant_ms),
            images=_optional(text("images"), _images),
            amount_micros=_optional(text("micros"), _micros)
            if text("micros")
            else _optional(text("amount"), parse_micros),
            status=text("status").lower(),
            model=text("model"),
            size=text("size").lower().replace("*", "x"),
            prompt_sha256=text("prompt_sha256").lower() or _hash_of(given, columns),
        )
    except ValueError as error:
        return BrokenRow(line, str(error))


def _hash_of(given: Callable[[str], Any], columns: Columns) -> str | None:
    """Give the hash of the prompt, which is taken as it stands: blanks at its ends count."""
    prompt = given(columns["prompt"]) if "prompt" in columns else None
    return prompt_hash(str(prompt)) if prompt else None


def prompt_hash(prompt: str) -> str:
    """Give the sha256 (hex) of a prompt's UTF-8."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def parse_instant_ms(text: str) -> int:
    """Read unix seconds, unix milliseconds or ISO 8601 (without a zone: UTC). Raises ValueError.

    An instant that cannot be a bill's is one read wrongly, such as a day without hyphens.
    """
    at_ms = _unix_ms(float(text)) if _NUMBER.fullmatch(text) else _iso_ms(text)
    if not _SINCE_MS <= at_ms < _UNTIL_MS:
        raise ValueError("has a time that is not of the years 2000 to 2199")
    return at_ms


def _unix_ms(number: float) -> int:
    return round(number if number >= _MS_FROM else number * 1000)


def _iso_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
        return round(
            (at if at.tzinfo else datetime.fromisoformat(f"{at.isoformat()}+00:00")).timestamp() * 1000
        )
    except (ValueError, OverflowError):
        raise ValueError("has a time that is neither unix time nor ISO 8601") from None


def _images(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError("has a number that is not whole, or too large")
    return int(text)


def _micros(text: str) -> int:
    """Read whole micros; less than 0 if they were given back."""
    return -_images(text[1:]) if text.startswith("-") else _images(text)


def _optional(text: str, parse: Callable[[str], int]) -> int | None:
    return parse(text) if text else None
