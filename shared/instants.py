"""Instants as callers give them: aware datetimes, unix seconds, durations from now, or text that means one of these."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.errors import InvalidRequest, Issue

if TYPE_CHECKING:
    from collections.abc import Callable

Instant = datetime | timedelta | float | str
_DURATION: Final = re.compile(r"\+?([0-9]{1,9}) ?([smhd])")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_S: Final = 10**11  # beyond it the value is in milliseconds, or nonsense


def instant_ms(field: str, value: object, now_ms: Callable[[], int]) -> int:
    """Give unix ms. `now_ms` (the state server's clock) is asked only for durations. Raises InvalidRequest."""
    if isinstance(value, str):
        value = _read(field, value.strip())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _issue(field, "timezone", "needs a time zone, such as 2030-01-31T12:00:00+00:00 or ...Z")
        value = value.timestamp()
    if isinstance(value, timedelta):
        if not 0 <= value.total_seconds() < _MAX_S:
            raise _issue(field, "range", "must not be a negative duration, nor one of millennia")
        return now_ms() + round(value.total_seconds() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _issue(field, "type", "must be an aware datetime, a timedelta, or unix seconds")
    if not 1 <= value < _MAX_S:
        raise _issue(field, "range", f"must be unix seconds between 1 and {_MAX_S}")
    return round(value * 1000)


def _read(field: str, text: str) -> datetime | timedelta | float:
    """Read ISO 8601, a duration (`90s`, `15m`, `2h`, `1d`) or unix seconds."""
    if duration := _DURATION.fullmatch(text):
        return timedelta(seconds=int(duration[1]) * _UNITS_S[duration[2]])
    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise _issue(
            field, "format", "must be ISO 8601 with a zone, a duration such as 15m, or unix seconds"
        ) from None


def _issue(field: str, rule: str, sentence: str) -> InvalidRequest:
    return InvalidRequest((Issue(field, rule, f"{field}: {sentence}"),))


def running_clock(now_ms: int) -> Callable[[], int]:
    """Give the server's clock from one reading on."""
    started_at = time.monotonic()
    return lambda: now_ms + int((time.monotonic() - started_at) * 1000)
