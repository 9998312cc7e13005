"""Entries of the ledger as lines of an exported day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.entry import (
    Entry,
    entry_line,
    entry_order,
    export_key,
    parse_entry,
    parse_line,
)

PLAIN = Entry(
    "1800000000000-3", "job_a", "hold", "CNY", "budget:a", "held:a", 800, "a", "b", "main/m/x", "i1"
)


@given(st.integers(0, 2**53), st.text(max_size=20))
def test_a_line_reads_back(micros: int, batch: str) -> None:
    """What is exported is what was posted."""
    given_entry = replace(PLAIN, micros=micros, batch=batch)
    line = entry_line(given_entry)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_line(line) == given_entry


def test_the_stream_gives_the_same_entry() -> None:
    """Fields of the stream are those of the line."""
    fields = {b"job": b"job_a", b"kind": b"hold", b"currency": b"CNY", b"debit": b"budget:a", b"credit": b"held:a",
              b"micros": b"800", b"tenant": b"a", b"batch": b"b", b"lane": b"main/m/x", b"intent": b"i1"}  # fmt: skip
    assert parse_entry(b"1800000000000-3", fields) == PLAIN


def test_what_an_id_and_a_lane_tell() -> None:
    """The day is that of the server's clock in UTC; the model is what follows the account."""
    assert (PLAIN.at_ms, PLAIN.day, PLAIN.model) == (1_800_000_000_000, date(2027, 1, 15), "m/x")
    assert entry_order("9-12") < entry_order("10-2") < entry_order("10-11")


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'"x"', b'{"id": "1-0"}'])
def test_a_line_that_is_no_entry(line: bytes) -> None:
    """It is refused, not guessed."""
    with pytest.raises((ValueError, KeyError)):
        parse_line(line)


def test_keys_of_closed_days() -> None:
    """A part of a day has one file, whose name tells its content."""
    assert export_key(date(2026, 3, 1), 2, "ab" * 32) == f"ledger/2026-03-01-2.{'ab' * 32}.jsonl.gz"
