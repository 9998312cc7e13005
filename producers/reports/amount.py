"""Amounts as exact decimal text, to the micro-unit and back. Never a float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

from shared.money.price import MICROS

_MAX_DIGITS: Final = 24  # far beyond any bill; a longer text is not an amount
_EXPONENTS: Final = range(-6, 16)  # of the first digit: neither finer than a micro-unit nor beyond any bill


def decimal_text(micros: int) -> str:
    """Write micros as a decimal with at least two places, at most six: `12.40`, `-0.005`."""
    whole, fraction = divmod(abs(micros), MICROS)
    places = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{places}"


def parse_micros(text: str) -> int:
    """Read a decimal amount. Raises ValueError for what is none, or is finer than a micro-unit."""
    plain = text.strip()
    try:
        amount = Decimal(plain) if len(plain) <= _MAX_DIGITS else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount.adjusted() >= _EXPONENTS.stop:
        raise ValueError("is not an amount")
    if amount and amount.adjusted() < _EXPONENTS.start:
        raise ValueError("is finer than a millionth")
    micros = amount * MICROS
    if micros != micros.to_integral_value():
        raise ValueError("is finer than a millionth")
    return int(micros)
