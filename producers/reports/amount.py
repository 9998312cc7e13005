"""Amounts as exact decimal text, to the micro-unit. Never a float."""

from __future__ import annotations

from shared.money.price import MICROS


def decimal_text(micros: int) -> str:
    """Write micros as a decimal with at least two places, at most six: `12.40`, `-0.005`."""
    whole, fraction = divmod(abs(micros), MICROS)
    places = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{places}"
