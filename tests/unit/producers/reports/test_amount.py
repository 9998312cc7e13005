"""Amounts as text: exact in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.reports.amount import decimal_text, parse_micros


@given(st.integers(-(10**15), 10**15))
def test_text_reads_back(micros: int) -> None:
    """No digit is lost, whatever the amount."""
    assert parse_micros(decimal_text(micros)) == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.00"), (12_400_000, "12.40"), (-5000, "-0.005"), (1, "0.000001"), (1_000_000, "1.00")],
)
def test_as_people_write_it(micros: int, text: str) -> None:
    """Two decimals at least, six at most."""
    assert decimal_text(micros) == text


@pytest.mark.parametrize(
    ("text", "micros"), [(" 0.2 ", 200_000), ("1e-6", 1), ("3", 3_000_000), ("-1.5", -1_500_000)]
)
def test_other_notations(text: str, micros: int) -> None:
    """What programs write is read as well."""
    assert parse_micros(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "nan",
        "sNaN",
        "inf",
        "0.0000001",
        "1,5",
        "1" * 30,
        "1e99999",
        "-1e999999",
        "1e999999999",
        "1e-9999999",
    ],
)
def test_what_is_no_amount(text: str) -> None:
    """It is refused, never rounded."""
    with pytest.raises(ValueError, match="is"):
        parse_micros(text)
