"""Amounts as text: exact."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.reports.amount import decimal_text


@given(st.integers(-(10**15), 10**15))
def test_text_reads_back(micros: int) -> None:
    """No digit is lost, whatever the amount."""
    assert Decimal(decimal_text(micros)) * 1_000_000 == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.00"), (12_400_000, "12.40"), (-5000, "-0.005"), (1, "0.000001"), (1_000_000, "1.00")],
)
def test_as_people_write_it(micros: int, text: str) -> None:
    """Two decimals at least, six at most."""
    assert decimal_text(micros) == text
