"""Instants as callers give them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.instants import instant_ms

NOW_MS = 1_800_000_000_000


def read(value: object) -> int:
    return instant_ms("deadline", value, lambda: NOW_MS)


@pytest.mark.parametrize(
    ("value", "at_ms"),
    [
        (1_900_000_000, 1_900_000_000_000),
        (1_900_000_000.5, 1_900_000_000_500),
        ("1900000000", 1_900_000_000_000),
        (datetime(2030, 1, 31, 12, tzinfo=UTC), 1_896_091_200_000),
        (datetime(2030, 1, 31, 14, tzinfo=timezone(timedelta(hours=2))), 1_896_091_200_000),
        ("2030-01-31T12:00:00Z", 1_896_091_200_000),
        ("2030-01-31T14:00+02:00", 1_896_091_200_000),
        (timedelta(0), NOW_MS),
        (timedelta(minutes=1, milliseconds=5), NOW_MS + 60_005),
        ("90s", NOW_MS + 90_000),
        ("+15m", NOW_MS + 900_000),
        (" 2h ", NOW_MS + 7_200_000),
        ("1 d", NOW_MS + 86_400_000),
    ],
)
def test_reads_every_notation(value: object, at_ms: int) -> None:
    """Unix seconds, aware datetimes, durations from now, and text for each."""
    assert read(value) == at_ms


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (datetime(2030, 1, 1), "timezone"),  # noqa: DTZ001 - the point
        ("2030-01-31T12:00:00", "timezone"),
        (timedelta(seconds=-1), "range"),
        (timedelta.max, "range"),
        ("999999999d", "range"),
        (0, "range"),
        (-5.0, "range"),
        (float("nan"), "range"),
        (float("inf"), "range"),
        (NOW_MS, "range"),
        (True, "type"),
        ([], "type"),
        ("", "format"),
        ("tomorrow", "format"),
        ("5 weeks", "format"),
    ],
)
def test_names_the_rule_of_a_bad_one(value: object, rule: str) -> None:
    """Also milliseconds taken for seconds are caught."""
    with pytest.raises(InvalidRequest, match=r"^deadline: ") as caught:
        read(value)
    assert caught.value.issues[0].rule == rule


@given(st.text(max_size=20) | st.floats() | st.integers())
def test_never_raises_anything_else(value: Any) -> None:
    """Whatever is given is an instant (and not 0, which means none) or an InvalidRequest."""
    with contextlib.suppress(InvalidRequest):
        assert read(value) > 0
