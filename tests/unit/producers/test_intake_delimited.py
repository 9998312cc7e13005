"""Quoting in CSV and TSV: real quoting is undone, plain quotes stay, nothing is guessed."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.intake_delimited import MAX_RECORD_LINES, BrokenRecord, Record, read_records
from producers.intake_lines import Lines

if TYPE_CHECKING:
    from producers.intake_delimited import Delimiter


def records(content: str, delimiter: Delimiter, width: int | None = None) -> list[Record | BrokenRecord]:
    return list(read_records(Lines(io.BytesIO(content.encode()), 10**6), delimiter, width=width))


def cells(content: str, delimiter: Delimiter, width: int | None = None) -> list[list[str] | str]:
    """Give each record's cells, or why it is broken."""
    return [
        record.cells if isinstance(record, Record) else record.sentence
        for record in records(content, delimiter, width)
    ]


UNCLOSED = "a cell's quote is not closed"
STRAY = "text follows a cell's closing quote; double the quotes inside a quoted cell"
DOUBTFUL = "follows a quote that is not closed, and may belong to that cell"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a\tb", ["a", "b"]),
        ("a\t", ["a", ""]),
        # properly quoted, as spreadsheets and pandas write cells with tabs, quotes or line ends
        ('"a\tb"\tc', ["a\tb", "c"]),
        ('"a ""b"" c"\td', ['a "b" c', "d"]),
        ('""\td', ["", "d"]),
        ('"a"', ["a"]),
        ('"a\nb"\tc', ["a\nb", "c"]),
        # plain quotes, as files without quoting have them
        ('a "b" c\td', ['a "b" c', "d"]),
        ('"B I G" letters on a wall\td', ['"B I G" letters on a wall', "d"]),
        ('"a" and "b"\td', ['"a" and "b"', "d"]),
        ('a 12" pipe\td', ['a 12" pipe', "d"]),
        ('a "b"\td', ['a "b"', "d"]),
        ('"never closed\td', ['"never closed', "d"]),
        ('"never closed\t"d"', ['"never closed', "d"]),
        ('"', ['"']),
        ('"""', ['"""']),
    ],
)
def test_tsv_cells(line: str, expected: list[str]) -> None:
    """A cell of TSV is quoted only if it begins and properly ends so; otherwise it is as it stands."""
    assert cells(f"{line}\n", "\t") == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a,b", ["a", "b"]),
        ('"a, b",c', ["a, b", "c"]),
        ('"a ""b"" c",d', ['a "b" c', "d"]),
        ('"a\n\nb",c', ["a\n\nb", "c"]),
        ('a "b" c,d', ['a "b" c', "d"]),
        ('a, "b', ["a", ' "b']),
        ('"",', ["", ""]),
    ],
)
def test_csv_cells(line: str, expected: list[str]) -> None:
    """CSV is read as RFC 4180 has it, with plain quotes inside unquoted cells."""
    assert cells(f"x,y\n{line}\n", ",")[1:] == ([expected] if any(expected) else [])


def test_a_tsv_of_plain_quotes_loses_no_row() -> None:
    """Rows that begin with a quote do not swallow what follows them."""
    rows = [
        "Prompt\tCategory",
        'The words "Fly an airplane" on a wall\tScenes',
        '"B I G" painted on a wall\tSigns',
        '"Hello, said the cat\tAnimals',
        'Dogs playing poker\tDescription of "Dogs Playing Poker"',
        'a cat\t"',
    ]
    assert cells("\n".join(rows), "\t", 2) == [row.split("\t") for row in rows]


def test_a_quote_closed_on_a_later_line_counts_only_with_the_headers_cells() -> None:
    """In TSV a chance match must not glue two rows together."""
    assert cells('"one\ta\nb\ntwo"\tc\td\n', "\t", 2) == [
        ['"one', "a"],
        ["b"],
        "has 3 cells, the header has 2",
    ]
    assert cells('"one\nb\ntwo"\tc\n', "\t", 2) == [["one\nb\ntwo", "c"]]


def test_csv_text_after_a_closing_quote_breaks_the_line() -> None:
    """Where such a cell ends can only be guessed."""
    assert cells('"B I G" letters, on a wall,1\nb,2\n', ",", 2) == [STRAY, ["b", "2"]]


def test_a_quote_that_is_never_closed_costs_one_csv_line() -> None:
    """Only lines that have exactly the header's cells are taken from behind it."""
    found = records('a,1\n"b,2\nc,3\nfoo\nd,4\n', ",", 2)
    assert [record.number for record in found] == [1, 2, 3, 4, 5]
    assert cells('a,1\n"b,2\nc,3\nfoo\nd,4\n', ",", 2) == [
        ["a", "1"],
        UNCLOSED,
        ["c", "3"],
        DOUBTFUL,
        ["d", "4"],
    ]


def test_a_quote_closed_in_the_wrong_place_costs_one_csv_line() -> None:
    """The quote of a later row closes the stray one; that row is still read."""
    assert cells('"b,2\nc,3\n"d, e",4\n', ",", 2) == [STRAY, ["c", "3"], ["d, e", "4"]]


def test_with_one_column_lines_after_an_open_quote_are_not_taken() -> None:
    """Any text has one cell: whether it is a prompt or the rest of one cannot be told."""
    assert cells('a\n"b\nc\n', ",", 1) == [["a"], UNCLOSED, DOUBTFUL]


def test_an_open_quote_swallows_a_bounded_number_of_lines() -> None:
    """A stray quote in a long file does not read it all into memory."""
    content = '"open,1\n' + "a,1\n" * (2 * MAX_RECORD_LINES) + 'b,"2"\n'
    found = records(content, ",", 2)
    assert isinstance(found[0], BrokenRecord)
    assert found[0].doubtful_to == MAX_RECORD_LINES
    assert len([record for record in found if isinstance(record, Record)]) == 2 * MAX_RECORD_LINES + 1


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_cell_with_a_line_that_is_not_utf8_is_broken_as_a_whole(delimiter: Delimiter) -> None:
    """The rest of such a cell is no record of its own."""
    content = b'"a\n\xff\nb",1\nc,2\n'.replace(b",", delimiter.encode())
    broken, good = read_records(Lines(io.BytesIO(content), 100), delimiter, width=2)
    assert isinstance(broken, BrokenRecord)
    assert broken.sentence == "goes on in line 2, which is not UTF-8 (byte 1)"
    assert broken.raw == f'"a\n\\xff\nb"{delimiter}1'
    assert isinstance(good, Record)
    assert (good.number, good.cells) == (4, ["c", "2"])


def test_more_cells_than_the_header_break_a_record() -> None:
    """Cells too many mean that the line was cut in the wrong places; empty ones do no harm."""
    assert cells("a,b,c\na,b,,\na\n", ",", 2) == ["has 3 cells, the header has 2", ["a", "b", "", ""], ["a"]]


safe_text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=12)


@given(st.lists(st.lists(safe_text, min_size=2, max_size=2), max_size=5), st.sampled_from([",", "\t"]))
def test_what_another_library_quotes_is_read_back(rows: list[list[str]], delimiter: Delimiter) -> None:
    """Cells that Python's csv module quotes come back unchanged, in both formats."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    expected = [row for row in rows if any(map(str.strip, row))]
    assert cells(stream.getvalue(), delimiter, 2) == expected


@given(st.lists(st.lists(safe_text, min_size=2, max_size=2), max_size=5))
def test_minimal_quoting_is_read_back_too(rows: list[list[str]]) -> None:
    """So do cells of a file in which only those are quoted that need it."""
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    assert cells(stream.getvalue(), ",", 2) == [row for row in rows if any(map(str.strip, row))]
