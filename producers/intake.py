"""Requests from files: JSONL, CSV and TSV, read as a stream. A bad line is an item like any other, never an exception.

JSONL: each line an object, with the request's fields and job parameters (idempotency_key, priority, not_before,
deadline, metadata, webhook, tenant, on_unknown) side by side, or the request under "request". An unknown key is left
in the request, whose validation names it. CSV and TSV: a header, then cells; columns whose header is no field are
ignored and noted once. Quoting: see `intake_delimited`.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TextIO, cast

from pydantic_core import from_json

from producers.intake_delimited import BrokenRecord, Record, read_records
from producers.intake_fields import PARAM_FIELDS, REQUEST_FIELDS, check_field, read_cell, split_defaults
from producers.intake_lines import MAX_LINE_BYTES, Lines
from shared.errors import ConfigurationError, Issue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from producers.intake_delimited import Delimiter

Format = Literal["jsonl", "csv", "tsv"]

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}
_DELIMITERS: dict[Format, Delimiter] = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """One readable line: fields of the request and parameters of the job, neither validated yet."""

    line_number: int
    data: dict[str, object] = field(repr=False)
    params: dict[str, object] = field(repr=False)
    raw: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Broken:
    """One line that cannot be read. `raw` is as it came (the beginning, if it is over the limit)."""

    line_number: int
    issue: Issue
    raw: str = field(repr=False)


Item = Parsed | Broken


def read_items(
    source: str | Path | BinaryIO,
    *,
    format: Format | None = None,  # noqa: A002 - the word of the option
    prompt_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    defaults: Mapping[str, object] | None = None,
    notes: list[str] | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Item]:
    """Read a file, stdin (`-`) or a binary stream, one item per line; memory does not grow with the input.

    `prompt_column` names the column (JSONL: key) that holds the prompt, `columns` does so for any field (field:
    column). `defaults` fill what is missing, null or an empty cell. `notes` receives remarks for the user. Raises
    ConfigurationError (unreadable file, unknown format, missing column), all of them when the first item is asked for.
    """
    named = {**(columns or {}), **({"prompt": prompt_column} if prompt_column is not None else {})}
    for name in named:
        check_field(name)
    settled = _Defaults(*split_defaults(defaults or {}))
    with _opened(source) as stream:
        lines = Lines(stream, max_line_bytes)
        known = format or _format_of(source) or _sniffed_format(lines)
        if known == "jsonl":
            yield from _json_items(lines, {column: name for name, column in named.items()}, settled)
        else:
            yield from _row_items(lines, _DELIMITERS[known], named, settled, notes)


@dataclass(frozen=True, slots=True)
class _Defaults:
    data: dict[str, object]
    params: dict[str, object]

    def parsed(self, number: int, data: dict[str, object], params: dict[str, object], raw: str) -> Parsed:
        return Parsed(number, _filled(self.data, data), _filled(self.params, params), raw)


def _filled(defaults: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    if None in given.values():
        given = {name: value for name, value in given.items() if value is not None}
    return {**defaults, **given}


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, str | Path):
        yield source
    elif source == "-":
        yield sys.stdin.buffer
    else:
        try:
            stream = Path(source).open("rb")  # noqa: SIM115 - closed below; only the opening may fail here
        except OSError as error:
            raise ConfigurationError(f"cannot read {source}: {error.strerror}. Check the path.") from None
        with stream:
            yield stream


def _format_of(source: str | Path | BinaryIO) -> Format | None:
    """Tell by the extension of a file's name."""
    name = source if isinstance(source, str | Path) else getattr(source, "name", "")
    return _FORMATS.get(Path(name).suffix.lower()) if isinstance(name, str | Path) else None


def _sniffed_format(lines: Lines) -> Format:
    """Tell JSONL by its first character; the others cannot be told from each other for certain."""
    first = lines.take_filled()
    if first is None:
        return "jsonl"
    lines.put_back([first])
    if first.text.lstrip().startswith("{"):
        return "jsonl"
    raise ConfigurationError("cannot tell the format of the input. Give --format jsonl, csv or tsv.")


def _json_items(lines: Lines, renamed: dict[str, str], defaults: _Defaults) -> Iterator[Item]:
    while line := lines.take_filled():
        if line.flaw:
            yield Broken(line.number, _line_issue(line.rule, line.flaw), line.text)
            continue
        split = _split_object(line.text, renamed)
        if isinstance(split, Issue):
            yield Broken(line.number, split, line.text)
        else:
            yield defaults.parsed(line.number, *split, line.text)


def _split_object(text: str, renamed: dict[str, str]) -> tuple[dict[str, object], dict[str, object]] | Issue:
    """Read one object and part it into (request, job parameters)."""
    try:
        given = from_json(text, allow_inf_nan=False)
    except ValueError as error:  # says where, never what
        return _line_issue("json", f"is not JSON: {error}")
    if not isinstance(given, dict):
        return _line_issue("type", "must be a JSON object")
    if "request" in given:
        return _split_nested(given, renamed)
    data = _renamed(given, renamed)
    if data.keys() <= REQUEST_FIELDS:
        return data, {}
    return (
        {name: value for name, value in data.items() if name not in PARAM_FIELDS},
        {name: value for name, value in data.items() if name in PARAM_FIELDS},
    )


def _split_nested(
    given: dict[str, object], renamed: dict[str, str]
) -> tuple[dict[str, object], dict[str, object]] | Issue:
    nested = given.pop("request")
    if not isinstance(nested, dict):
        return Issue("request", "type", "request: must be a JSON object")
    if unknown := sorted(given.keys() - PARAM_FIELDS):
        name, allowed = unknown[0][:64], ", ".join(sorted(PARAM_FIELDS))
        return Issue(name, "unknown_field", f"{name}: is not a field beside request; known are {allowed}")
    return _renamed(nested, renamed), given


def _renamed(given: dict[str, object], renamed: dict[str, str]) -> dict[str, object]:
    """Call keys by the field they were mapped to; a mapped key wins over one that has the name already."""
    if given.keys().isdisjoint(renamed):
        return given
    rest = {name: value for name, value in given.items() if name not in renamed}
    return {**rest, **{name: given[key] for key, name in renamed.items() if key in given}}


@dataclass(frozen=True, slots=True)
class _Column:
    index: int
    field: str
    of_request: bool


def _row_items(
    lines: Lines, delimiter: Delimiter, named: Mapping[str, str], defaults: _Defaults, notes: list[str] | None
) -> Iterator[Item]:
    header = next(read_records(lines, delimiter), None)
    if header is None:
        return
    if isinstance(header, BrokenRecord):
        raise ConfigurationError(f"the header (line {header.number}) {header.sentence}. Correct it.")
    names = [cell.strip() for cell in header.cells]
    plan = _planned(names, named, defaults)
    if notes is not None:
        notes.extend(_ignored(names, plan))
    for record in read_records(lines, delimiter, width=len(names)):
        yield _row_item(record, plan, defaults)


def _row_item(record: Record | BrokenRecord, plan: tuple[_Column, ...], defaults: _Defaults) -> Item:
    if isinstance(record, BrokenRecord):
        return Broken(record.number, _line_issue(record.rule, record.sentence), record.raw)
    data: dict[str, object] = {}
    params: dict[str, object] = {}
    for column in plan:
        text = record.cells[column.index] if column.index < len(record.cells) else ""
        if not text or text.isspace():
            continue
        value = read_cell(column.field, text)
        if isinstance(value, Issue):
            return Broken(record.number, value, record.raw)
        (data if column.of_request else params)[column.field] = value
    return defaults.parsed(record.number, data, params, record.raw)


def _planned(names: list[str], named: Mapping[str, str], defaults: _Defaults) -> tuple[_Column, ...]:
    """Decide which column feeds which field: those named by the caller first, then headers that are fields."""
    chosen = {name: _only_index(names, column, name) for name, column in named.items()}
    taken = set(chosen.values())
    for index, name in enumerate(names):
        if name in REQUEST_FIELDS | PARAM_FIELDS and name not in chosen and index not in taken:
            chosen[name] = _only_index(names, name, name)
    if "prompt" not in chosen and "image_urls" not in chosen and "prompt" not in defaults.data:
        raise ConfigurationError(f"there is no column prompt; {_existing(names)}. Give --prompt-column.")
    return tuple(_Column(index, name, name in REQUEST_FIELDS) for name, index in chosen.items())


def _only_index(names: list[str], column: str, name: str) -> int:
    """Find the one column of a name."""
    match names.count(column):
        case 1:
            return names.index(column)
        case 0:
            raise ConfigurationError(f"there is no column {column!r} for {name}; {_existing(names)}.")
        case count:
            raise ConfigurationError(f"column {column!r} exists {count} times. Rename all but one.")


def _existing(names: list[str]) -> str:
    return "columns are " + ", ".join(repr(name) for name in names)


def _ignored(names: list[str], plan: tuple[_Column, ...]) -> Iterator[str]:
    used = {column.index for column in plan}
    unused = [name for index, name in enumerate(names) if index not in used and name]
    if unused:
        yield f"ignored columns: {', '.join(unused)}"


def _line_issue(rule: str, sentence: str) -> Issue:
    return Issue("", rule, f"line {sentence}")


class RejectsWriter:
    """Writes what was rejected as JSON lines {line, field, rule, message, raw}; the file appears with the first one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._file: TextIO | None = None

    def write(self, line_number: int, issue: Issue, raw: str) -> None:
        """Add one rejected line. Raises ConfigurationError if the file cannot be written."""
        entry = {
            "line": line_number,
            "field": issue.field,
            "rule": issue.rule,
            "message": issue.message,
            "raw": raw,
        }
        try:
            self._file = self._file or self._open()
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {self.path}: {error.strerror}. Choose another rejects file."
            ) from None
        self.count += 1

    def _open(self) -> TextIO:
        """Open line-buffered, so that a killed run has written what it rejected."""
        stream = self.path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
        return cast("TextIO", stream)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
