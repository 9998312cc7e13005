"""Where money is counted: by what, when, and once."""

from __future__ import annotations

from typing import Final

import pytest

from producers.reports.spend import Spend, parse_by, totals
from shared.errors import ConfigurationError
from shared.money.entry import Entry

DAY_MS: Final = 86_400_000
_ACCOUNTS: Final = {
    "hold": ("budget", "held"), "settle": ("held", "spent"), "release": ("held", "budget"),
    "doubt": ("held", "doubt"), "charge": ("budget", "spent"),
}  # fmt: skip


def entry(
    kind: str, micros: int, job: str = "job_a", *, day: int = 0, tenant: str = "acme", batch: str = "b",
    lane: str = "main/wan2.7-image", currency: str = "CNY",
) -> Entry:  # fmt: skip
    debit, credit = (f"{each}:{tenant}" for each in _ACCOUNTS[kind])
    return Entry(f"{day * DAY_MS + 5}-0", job, kind, currency, debit, credit, micros, tenant, batch, lane, "")


def rows(by: str, *entries: Entry, tenant: str | None = None) -> list[tuple[object, ...]]:
    spend = Spend(parse_by(by), tenant)
    for each in entries:
        spend.add(each)
    return [
        (*row.group, row.currency, row.jobs, row.spent_micros, row.held_micros, row.doubt_micros)
        for row in spend.rows()
    ]


def test_what_is_held_is_not_yet_spent() -> None:
    """A hold counts until it is resolved, then what was billed of it."""
    held = entry("hold", 800)
    assert rows("tenant", held) == [("acme", "CNY", 0, 0, 800, 0)]
    settled = (held, entry("settle", 600), entry("release", 200))
    assert rows("tenant", *settled) == [("acme", "CNY", 1, 600, 0, 0)]
    assert rows("tenant", held, entry("release", 800)) == []


def test_doubt_stays_beside_what_the_second_submit_costs() -> None:
    """Money of an unknown submit that was sent again is in doubt."""
    found = rows("tenant", entry("hold", 800), entry("doubt", 800), entry("hold", 800), entry("settle", 800))
    assert found == [("acme", "CNY", 1, 800, 0, 800)]


def test_a_charge_beyond_the_hold_is_the_same_job() -> None:
    """Two entries of one bill are one job; of two jobs they are two."""
    one = (entry("hold", 800), entry("settle", 800), entry("charge", 100))
    assert rows("tenant", *one) == [("acme", "CNY", 1, 900, 0, 0)]
    assert rows("tenant", *one, entry("charge", 100, "job_b")) == [("acme", "CNY", 2, 1000, 0, 0)]


def test_each_dimension_and_their_product() -> None:
    """Groups are what an entry knows; a job without a batch or lane has a dash; currencies never mix."""
    entries = (
        entry("charge", 1), entry("charge", 2, "job_b", tenant="zoo", batch="", day=1),
        entry("charge", 4, "job_c", lane="spare/wan2.7-image-pro", currency="USD"), entry("charge", 8, "job_d", lane=""),
    )  # fmt: skip
    assert [row[:2] for row in rows("batch", *entries)] == [("-", "CNY"), ("b", "CNY"), ("b", "USD")]
    assert [row[0] for row in rows("model", *entries)] == ["-", "wan2.7-image", "wan2.7-image-pro"]
    assert [row[0] for row in rows("account", *entries)] == ["-", "main", "spare"]
    by_both = rows("day,tenant", *entries)
    assert [(*row[:3], row[4]) for row in by_both] == [
        ("1970-01-01", "acme", "CNY", 9), ("1970-01-01", "acme", "USD", 4), ("1970-01-02", "zoo", "CNY", 2),
    ]  # fmt: skip
    assert [row[:1] for row in rows("tenant", *entries, tenant="zoo")] == [("zoo",)]


def test_over_midnight() -> None:
    """A hold counts on the day it was taken, until it is resolved; the spending on the day it was posted."""
    late = entry("hold", 800)
    assert rows("day", late, entry("settle", 800, day=1)) == [("1970-01-02", "CNY", 1, 800, 0, 0)]
    assert rows("day", late) == [("1970-01-01", "CNY", 0, 0, 800, 0)]


def test_a_period_that_begins_after_the_hold() -> None:
    """What is resolved without its hold in the period leaves no negative hold behind."""
    assert rows("tenant", entry("settle", 600), entry("release", 200)) == [("acme", "CNY", 1, 600, 0, 0)]


def test_totals_and_exact_text() -> None:
    """Totals are per currency; amounts are decimals with every digit there is."""
    spend = Spend(parse_by("tenant"))
    for each in (
        entry("charge", 1_200_000),
        entry("charge", 5, "job_b", tenant="zoo"),
        entry("hold", 1, "job_c"),
    ):
        spend.add(each)
    (total,) = totals(spend.rows())
    assert total.figures() == {
        "currency": "CNY", "jobs": 2, "spent": "1.200005", "held": "0.000001", "in_doubt": "0.00",
        "spent_micros": 1_200_005, "held_micros": 1, "in_doubt_micros": 0,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "tenant,tenant", "week", "tenant,,colour"])
def test_by_what_it_does_not_know(text: str) -> None:
    """The error names what there is."""
    with pytest.raises(ConfigurationError, match="tenant, batch, model, account, day"):
        parse_by(text)
