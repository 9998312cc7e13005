"""How the command line writes values."""

from __future__ import annotations

import pytest

from producers.cli import one_line
from producers.cli.terminal import money, prices, span


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0.0 s"),
        (440, "0.4 s"),
        (9_940, "9.9 s"),
        (12_000, "12 s"),
        (59_900, "60 s"),
        (60_000, "1 min"),
        (200_000, "3 min 20 s"),
        (7_500_000, "2 h 5 min"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(ms: int, words: str) -> None:
    """Tenths for short ones only."""
    assert span(ms) == words


def test_money_without_a_currency_stays_exact() -> None:
    """Several currencies are added up for nobody."""
    assert money(200_000, "CNY") == "¥0.20"
    assert money(5, "") == "5 micros"
    assert prices({"USD": 5_000, "CNY": 1_000_000}) == "¥1.00 + $0.005"
    assert prices({}) == "nothing"


def test_messages_keep_to_their_line() -> None:
    """Control characters of somebody's batch name do not reach the terminal."""
    assert one_line("a\nb\x1b[31mc\u202ed") == "a b [31mc d"
