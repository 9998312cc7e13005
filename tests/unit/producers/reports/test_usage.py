"""Usage exports as they come: other names, other formats, rows that cannot be read."""

from __future__ import annotations

import io

import pytest

from producers.reports.usage import (
    BrokenRow,
    UsageRow,
    check_columns,
    parse_instant_ms,
    prompt_hash,
    read_usage,
)
from shared.errors import ConfigurationError

CSV = b"""\
request,when,count,price,state,model,size,text
g1,2026-01-31T10:00:00Z,2,0.40,Succeeded,wan2.7-image,1024*1024,a red fox
g2,1769853600,,0.2,FAILED,,,
,1769853600,1,0.2,,,,
g4,soon,1,0.2,,,,
g5,1769853600123,1,0.0000001,,,,
"""
NAMES = {
    "generation": "request", "at": "when", "images": "count", "amount": "price", "status": "state", "prompt": "text",
}  # fmt: skip


def rows(text: bytes, name: str, columns: dict[str, str]) -> list[UsageRow | BrokenRow]:
    return list(read_usage(io.BytesIO(text), name, columns))


def test_a_table_with_names_of_its_own() -> None:
    """Fields by the names given, or by their own; what cannot be read is told with its line, and nothing is guessed."""
    first, second, *broken = rows(CSV, "bill.csv", NAMES)
    assert first == UsageRow(
        2,
        "g1",
        1_769_853_600_000,
        2,
        400_000,
        "succeeded",
        "wan2.7-image",
        "1024x1024",
        prompt_hash("a red fox"),
    )
    assert isinstance(second, UsageRow)
    assert (second.at_ms, second.images, second.billed) == (1_769_853_600_000, None, True)
    assert broken == [
        BrokenRow(4, "has no request"),
        BrokenRow(5, "has a time that is neither unix time nor ISO 8601"),
        BrokenRow(6, "is finer than a millionth"),
    ]


def test_a_line_that_is_no_text_is_told_in_the_same_words_by_every_format() -> None:
    """Whoever prints it says which line it is."""
    for text, name in ((b'{"generation": "\xff"}\n', "bill.jsonl"), (b"generation\n\xff\n", "bill.csv")):
        (broken,) = rows(text, name, {})
        assert isinstance(broken, BrokenRow)
        assert broken.why.startswith("is not UTF-8")


def test_json_lines() -> None:
    """Own names need no option; numbers may be numbers; what is no object is told."""
    text = (
        b'{"generation": "g1", "at": 1769853600.5, "images": 1, "micros": 200000}\n[]\n{"generation": "g2"}\n'
    )
    assert rows(text, "bill.jsonl", {}) == [
        UsageRow(1, "g1", 1_769_853_600_500, 1, 200_000), BrokenRow(2, "is not a JSON object"), UsageRow(3, "g2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "billed"),
    [
        (UsageRow(1, "g", amount_micros=0, images=1), False),
        (UsageRow(1, "g", images=1, status="failed"), True),
        (UsageRow(1, "g", status="canceled"), False),
        (UsageRow(1, "g", status="done"), True),
    ],
)
def test_what_costs(row: UsageRow, billed: bool) -> None:
    """The amount says it first, then the images, then the status."""
    assert row.billed is billed


@pytest.mark.parametrize(
    ("text", "name", "columns", "says"),
    [
        (b"a,b\n1,2\n", "x.csv", {}, "no column 'generation'"),
        (b"generation\n1\n", "x.csv", {"at": "when"}, "no column 'when'"),
        (b"", "x.xlsx", {}, "--format"),
    ],
)
def test_a_file_that_cannot_be_read(text: bytes, name: str, columns: dict[str, str], says: str) -> None:
    """One sentence with what to do."""
    with pytest.raises(ConfigurationError, match=says):
        rows(text, name, columns)
    with pytest.raises(ConfigurationError, match="knows no field 'colour'"):
        check_columns({"colour": "x"})
    assert rows(b"", "x.csv", {}) == []


@pytest.mark.parametrize(
    "text", ["9999999999999999", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1960-01-01", "0", "20261128"]
)  # fmt: skip
def test_times_that_cannot_be(text: str) -> None:
    """No provider billed before the year 2000: the row is told, not counted in a year that there is not."""
    assert rows(f"generation,at\ng1,{text}\n".encode(), "x.csv", {}) == [
        BrokenRow(2, "has a time that is not of the years 2000 to 2199")
    ]


def test_whole_numbers() -> None:
    """Micros may be given back, images not; a number without end is told by a sentence of ours."""
    text = f"generation,micros,images\ng1,-200000,1\ng2,,-1\ng3,,{'9' * 5000}\ng4,{'9' * 40},\n".encode()
    first, *broken = rows(text, "x.csv", {})
    assert isinstance(first, UsageRow)
    assert (first.amount_micros, first.billed) == (-200_000, False)
    assert broken == [BrokenRow(line, "has a number that is not whole, or too large") for line in (3, 4, 5)]


def test_instants() -> None:
    """Seconds, milliseconds, ISO 8601; without a zone it is UTC."""
    same = ("1769853600", "1769853600000", "2026-01-31T10:00:00", "2026-01-31T11:00:00+01:00")
    assert {parse_instant_ms(text) for text in same} == {1_769_853_600_000}
