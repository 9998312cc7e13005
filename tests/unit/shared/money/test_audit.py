"""What a verification of the ledger finds, and what it does not mistake for trouble."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.audit import Audit, LedgerReport
from shared.money.entry import Entry

_ACCOUNTS: Final = {
    "hold": ("budget", "held"), "settle": ("held", "spent"), "release": ("held", "budget"),
    "doubt": ("held", "doubt"), "charge": ("budget", "spent"),
}  # fmt: skip


def entry(
    kind: str, micros: int, job: str = "job_a", *, at_ms: int = 1, tenant: str = "acme", currency: str = "CNY"
) -> Entry:
    debit, credit = (f"{each}:{tenant}" for each in _ACCOUNTS[kind])
    return Entry(
        f"{at_ms}-0", job, kind, currency, debit, credit, micros, tenant, "", "main/wan2.7-image", ""
    )


def sums(*entries: Entry, opening: dict[str, int] | None = None) -> dict[str, int]:
    found = Counter(opening or {})
    for each in entries:
        found[f"{each.currency}|{each.debit}"] -= each.micros
        found[f"{each.currency}|{each.credit}"] += each.micros
    return dict(found)


def audited(
    *entries: Entry, balances: dict[str, int] | None = None, opening: dict[str, int] | None = None
) -> LedgerReport:
    audit = Audit(opening or {})
    for each in entries:
        audit.add(each)
    known = sums(*entries, opening=opening) if balances is None else balances
    return audit.report(known, through_id="9-0", at_ms=10)


def rules(report: LedgerReport) -> list[str]:
    return [each.rule for each in report.differences]


def test_an_empty_ledger_adds_up() -> None:
    """Nothing is equal to nothing."""
    report = audited()
    assert (report.adds_up, report.entries, report.lines) == (True, 0, ())


def test_a_table_per_currency_and_kind() -> None:
    """Tenants are added up; kinds come in the order in which money moves."""
    report = audited(
        entry("hold", 800), entry("settle", 600), entry("release", 200),
        entry("hold", 500, "job_b", tenant="zoo"), entry("hold", 7, "job_c", currency="USD"),
    )  # fmt: skip
    assert report.adds_up
    assert [(each.currency, each.kind, each.running) for each in report.lines] == [
        ("CNY", "budget", -1100), ("CNY", "held", 500), ("CNY", "spent", 600),
        ("USD", "budget", -7), ("USD", "held", 7),
    ]  # fmt: skip
    assert report.open_holds == 2


def test_a_balance_that_entries_do_not_make() -> None:
    """Each account that is off is named, with both amounts; so is a currency that does not sum to nothing."""
    wrong = sums(entry("hold", 800)) | {"CNY|held:acme": 801}
    report = audited(entry("hold", 800), balances=wrong)
    assert rules(report) == ["balance", "sum"]
    first = report.differences[0]
    assert (first.about, first.expected, first.found) == ("CNY|held:acme", 800, 801)
    assert [each.difference for each in report.lines if each.kind == "held"] == [1]


def test_a_lost_entry_is_seen_although_all_sums_to_nothing() -> None:
    """Entries and balances are compared account by account."""
    report = audited(balances={"CNY|budget:acme": -5, "CNY|spent:acme": 5})
    assert rules(report) == ["balance", "balance"]


@pytest.mark.parametrize("second", ["settle", "release", "doubt"])
def test_a_hold_resolved_twice(second: str) -> None:
    """Whatever resolves it again is found, although the balances agree with the entries."""
    report = audited(entry("hold", 800), entry("settle", 800), entry(second, 800, at_ms=5))
    assert rules(report) == ["resolved_twice"]
    assert (report.differences[0].about, report.differences[0].entry_id) == ("job_a", "5-0")


def test_more_resolved_than_held() -> None:
    """A settlement may not be larger than the hold: the rest would be a charge."""
    assert rules(audited(entry("hold", 800), entry("settle", 900))) == ["resolved_twice"]


def test_a_second_hold_beside_the_first() -> None:
    """A job's hold must be resolved before it holds again."""
    assert rules(audited(entry("hold", 800), entry("hold", 800))) == ["held_twice"]


def test_held_again_after_a_requeue() -> None:
    """Released and claimed again, put in doubt and submitted again: each hold has its own end."""
    report = audited(
        entry("hold", 800), entry("release", 800), entry("hold", 800), entry("doubt", 800),
        entry("hold", 800), entry("settle", 200), entry("release", 600), entry("charge", 100),
    )  # fmt: skip
    assert report.adds_up


def test_a_hold_of_a_closed_day_is_resolved_once() -> None:
    """Its hold is in the opening balances; settled in part and released is one resolution, a later one is a second."""
    opening = {"CNY|budget:acme": -800, "CNY|held:acme": 800}
    once = (entry("settle", 200, at_ms=3), entry("release", 600, at_ms=3))
    assert audited(*once, opening=opening).adds_up
    assert rules(audited(*once, entry("release", 1, at_ms=4), opening=opening)) == ["resolved_twice"]


def test_two_entries_of_one_script_may_be_of_two_moments() -> None:
    """Redis 7.0 reads its clock for each entry: a settlement and the release of the rest are told by their order."""
    opening = {"CNY|held:acme": 800, "CNY|budget:acme": -800}
    rest = (entry("settle", 200, at_ms=3), entry("release", 600, at_ms=4))
    assert audited(*rest, opening=opening).adds_up
    between = (
        entry("settle", 200, at_ms=3),
        entry("hold", 5, "job_b", at_ms=3),
        entry("release", 600, at_ms=3),
    )
    assert rules(audited(*between, opening=opening)) == ["resolved_twice"]


def test_a_second_resolution_is_no_older_one() -> None:
    """With days closed, a job whose hold is in the entries is still judged by it."""
    opening = {"CNY|budget:acme": -800, "CNY|held:acme": 800}
    entries = (entry("hold", 800), entry("settle", 800), entry("settle", 800, at_ms=5))
    assert rules(audited(*entries, opening=opening)) == ["resolved_twice"]


@pytest.mark.parametrize("kind", ["gift", "settle"])
def test_an_entry_that_is_no_posting_of_ours(kind: str) -> None:
    """Unknown kinds and accounts that do not belong to the kind are named by the entry's id."""
    odd = Entry("7-0", "job_a", kind, "CNY", "budget:acme", "held:acme", 5, "acme", "", "", "")
    report = audited(odd)
    assert [(each.rule, each.about) for each in report.differences] == [("posting", "7-0")]


def test_a_broken_ledger_does_not_fill_the_memory() -> None:
    """Only so many differences are kept; the rest is counted."""
    report = audited(*(entry("settle", 1, f"job_{at}") for at in range(1200)))
    assert (len(report.differences), report.unlisted) == (1000, 200)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 900), st.sampled_from(["settle", "doubt"]))))
def test_any_lawful_history_adds_up(history: list[tuple[str, int, str]]) -> None:
    """Hold, resolve in part or whole, again and again, over several jobs: no difference."""
    entries: list[Entry] = []
    for job, part, kind in history:
        resolved = [entry(kind, part, job)] if part else []
        rest = [entry("release", 900 - part, job)] if part < 900 else []
        entries += [entry("hold", 900, job), *resolved, *rest]
    assert audited(*entries).adds_up
