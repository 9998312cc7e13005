"""Periods: days in UTC, instants with a zone, and how long ago."""

from __future__ import annotations

from datetime import date
from typing import Final

import pytest

from producers.reports.period import Period, parse_period
from shared.errors import ConfigurationError

DAY_MS: Final = 86_400_000
NOW_MS: Final = 1_800_000_000_000


def never() -> int:
    raise AssertionError("the clock was asked")


def test_a_day_is_included_at_both_ends() -> None:
    """From its first millisecond to its last, by UTC, whatever the machine's zone."""
    period = parse_period("1970-01-02", "1970-01-02", never)
    assert (period.since_ms, period.until_ms) == (DAY_MS, 2 * DAY_MS)
    assert [period.holds(at) for at in (DAY_MS - 1, DAY_MS, 2 * DAY_MS - 1, 2 * DAY_MS)] == [
        False,
        True,
        True,
        False,
    ]
    assert [period.touches(date(1970, 1, day)) for day in (1, 2, 3)] == [False, True, False]


def test_instants_and_ago() -> None:
    """An instant needs its zone; what counts from now counts from the server's."""
    period = parse_period("7d", "2027-01-15T09:00:00+01:00", lambda: NOW_MS)
    assert (period.since_ms, period.until_ms) == (NOW_MS - 7 * DAY_MS, NOW_MS)
    assert period.until_text == "2027-01-15T08:00:00+00:00"
    assert period.touches(date(2027, 1, 15))


def test_an_open_period_holds_everything() -> None:
    """Nothing given, nothing left out."""
    period = parse_period(None, None, never)
    assert period == Period()
    assert (period.holds(0), period.touches(date(2000, 1, 1)), period.since_text) == (True, True, None)


@pytest.mark.parametrize(
    ("since", "until"),
    [("0001-01-01", None), ("999999d", None), (None, "1960-01-01"), (None, "999999d"),
     ("9999-12-31T23:00:00-14:00", None), ("0001-01-01T00:00:00+14:00", "0002-01-01")],
)  # fmt: skip
def test_instants_beyond_all_entries(since: str | None, until: str | None) -> None:
    """From the beginning or to the end of time: as far as entries can be, and it can be written."""
    period = parse_period(since, until, lambda: NOW_MS)
    for at_ms, text in ((period.since_ms, period.since_text), (period.until_ms, period.until_text)):
        assert at_ms is None or 0 <= at_ms < 10**15
        assert text is None or text.endswith("+00:00")
    assert period.until_ms is None or (period.until_ms >= 1 and not period.holds(1))


@pytest.mark.parametrize(
    ("since", "until", "says"),
    [("yesterday", None, "--since must be"), (None, "2026-13-01", "--until must be"),
     ("2026-01-01T00:00:00", None, "needs a time zone"), ("2026-01-02", "2026-01-01", "not before")],
)  # fmt: skip
def test_what_is_no_period(since: str | None, until: str | None, says: str) -> None:
    """The option is named, and what it takes."""
    with pytest.raises(ConfigurationError, match=says):
        parse_period(since, until, lambda: NOW_MS)
