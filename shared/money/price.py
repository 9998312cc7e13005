"""What images cost: integer micros (millionths of the account's currency unit), never floats, never a guess.

The vendor bills successfully generated images x unit price, whatever their size, and pre-charges on `n`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import UnknownPrice

if TYPE_CHECKING:
    from collections.abc import Mapping

MICROS = 1_000_000
_SYMBOLS = {"CNY": "¥", "USD": "$"}


def price_micros(prices: Mapping[str, int], model: str, n: int) -> int:
    """Give what `n` images are going to cost: the amount to hold. Raises UnknownPrice if the model has no price."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return _unit_micros(prices, model) * n


def cost_micros(prices: Mapping[str, int], model: str, delivered: int) -> int:
    """Give what `delivered` images cost: the amount to settle; none delivered, nothing to pay. Raises UnknownPrice."""
    if delivered < 0:
        raise ValueError(f"delivered must be at least 0, got {delivered}")
    return _unit_micros(prices, model) * delivered


def format_money(micros: int, currency: str) -> str:
    """Write an amount exactly: `¥12.40`, `$0.005`, `12.40 EUR`; at least two decimals, at most six."""
    sign, amount = ("-", -micros) if micros < 0 else ("", micros)
    whole, fraction = divmod(amount, MICROS)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    number = f"{whole}.{digits}"
    symbol = _SYMBOLS.get(currency)
    return f"{sign}{symbol}{number}" if symbol else f"{sign}{number} {currency}"


def _unit_micros(prices: Mapping[str, int], model: str) -> int:
    """Look the price of one image up. A configured price of 0 is a known price."""
    try:
        return prices[model]
    except KeyError:
        raise UnknownPrice(model) from None
