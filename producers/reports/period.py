"""Periods as people give them: days (UTC), instants, or how long ago."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_AGO: Final = re.compile(r"([0-9]{1,6}) ?([smhd])")
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Period:
    """From `since_ms` to before `until_ms`, unix ms; None is open."""

    since_ms: int | None = None
    until_ms: int | None = None

    def holds(self, at_ms: int) -> bool:
        return (self.since_ms is None or at_ms >= self.since_ms) and (
            self.until_ms is None or at_ms < self.until_ms
        )

    def touches(self, day: date) -> bool:
        """Say whether a part of the day (UTC) is in the period."""
        start_ms = _start_ms(day)
        after_start = self.until_ms is None or start_ms < self.until_ms
        return after_start and (self.since_ms is None or start_ms + _UNITS_MS["d"] > self.since_ms)

    @property
    def since_text(self) -> str | None:
        return _text(self.since_ms)

    @property
    def until_text(self) -> str | None:
        return _text(self.until_ms)


def parse_period(since: str | None, until: str | None, now_ms: Callable[[], int]) -> Period:
    """Read `2026-01-31` (UTC; as an end the day is included), ISO 8601 with a zone, or `7d` (ago).

    `now_ms` is asked only for what counts from now. Raises ConfigurationError.
    """
    since_ms = _instant_ms("--since", since, now_ms, whole_day=False) if since is not None else None
    until_ms = _instant_ms("--until", until, now_ms, whole_day=True) if until is not None else None
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise ConfigurationError("--since is not before --until. Give an earlier one.")
    # An entry has neither an instant before 1970 nor one that cannot be written.
    return Period(
        None if since_ms is None else min(max(since_ms, 0), _LAST_MS),
        None if until_ms is None else min(max(until_ms, 1), _LAST_MS),
    )


def _instant_ms(option: str, text: str, now_ms: Callable[[], int], *, whole_day: bool) -> int:
    if ago := _AGO.fullmatch(text.strip()):
        return now_ms() - int(ago[1]) * _UNITS_MS[ago[2]]
    try:
        if _DAY.fullmatch(text.strip()):
            return _start_ms(date.fromisoformat(text.strip()) + timedelta(days=int(whole_day)))
        given = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option} must be a day such as 2026-01-31, ISO 8601 with a zone, or such as 7d or 12h (ago)."
        ) from None
    if given.tzinfo is None:
        raise ConfigurationError(f"{option} needs a time zone, such as 2026-01-31T12:00:00Z. Add it.")
    return round(given.timestamp() * 1000)


def _start_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _text(at_ms: int | None) -> str | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
