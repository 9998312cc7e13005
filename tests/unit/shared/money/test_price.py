"""Prices: integers, refused when unknown, written exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DarkroomError, UnknownPrice
from shared.money.price import cost_micros, format_money, price_micros

PRICES = {"wan2.7-image": 200_000, "wan2.7-image-pro": 500_000, "free": 0}


def test_the_hold_is_the_price_of_all_images() -> None:
    """The vendor pre-charges on n."""
    assert price_micros(PRICES, "wan2.7-image-pro", 12) == 6_000_000


def test_the_cost_is_the_price_of_what_came() -> None:
    """Billing is by delivered image; none delivered costs nothing."""
    assert cost_micros(PRICES, "wan2.7-image", 3) == 600_000
    assert cost_micros(PRICES, "wan2.7-image", 0) == 0


def test_an_unknown_price_is_refused() -> None:
    """A model without a price must never look free, not even when nothing was delivered."""
    with pytest.raises(UnknownPrice, match="no price is known for model 'other'") as caught:
        price_micros(PRICES, "other", 1)
    assert caught.value.model == "other"
    assert isinstance(caught.value, DarkroomError)
    with pytest.raises(UnknownPrice):
        cost_micros(PRICES, "other", 0)


def test_a_known_price_of_zero_is_a_price() -> None:
    """Somebody set it, so it is not unknown."""
    assert price_micros(PRICES, "free", 4) == 0


def test_impossible_counts_are_refused() -> None:
    """A negative count would pay us."""
    with pytest.raises(ValueError, match="n must be at least 1"):
        price_micros(PRICES, "wan2.7-image", 0)
    with pytest.raises(ValueError, match="delivered must be at least 0"):
        cost_micros(PRICES, "wan2.7-image", -1)


@pytest.mark.parametrize(
    ("micros", "currency", "text"),
    [
        (12_400_000, "CNY", "¥12.40"),
        (0, "CNY", "¥0.00"),
        (200_000, "USD", "$0.20"),
        (5_000, "USD", "$0.005"),
        (1, "EUR", "0.000001 EUR"),
        (12_400_000, "EUR", "12.40 EUR"),
        (-1_500_000, "CNY", "-¥1.50"),
        (-1, "JPY", "-0.000001 JPY"),
        (10**15, "CNY", "¥1000000000.00"),
    ],
)
def test_money_is_written_exactly(micros: int, currency: str, text: str) -> None:
    """Two decimals at least, more only if they are not zero."""
    assert format_money(micros, currency) == text


@given(st.integers())
def test_nothing_is_lost_in_writing(micros: int) -> None:
    """The written amount is the amount: nothing is rounded."""
    number = format_money(micros, "EUR").removesuffix(" EUR")
    whole, _, fraction = number.lstrip("-").partition(".")
    assert int(whole) * 10**6 + int(fraction.ljust(6, "0")) == abs(micros)
    assert number.startswith("-") == (micros < 0)
