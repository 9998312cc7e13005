"""Which generation is whose, and what of two books agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from producers.reports.findings import OurJob, Table
from producers.reports.likeness import Suspect, likely
from producers.reports.reconcile import FORGOTTEN, NO_LEDGER, OPEN, REPEATED, RUNNING, Reconciliation
from producers.reports.usage import UsageRow

AT = 1_800_000_000_000
LOST = Suspect("job_1", AT, AT + 60_000, 2, model="wan", size="1k", prompt_sha256="aa")
ROW = UsageRow(2, "g1", AT + 5000, 1, 200_000, "completed", "wan", "1k")


@pytest.mark.parametrize(
    ("rows", "likelihood", "generation"),
    [
        ([replace(ROW, prompt_sha256="aa"), replace(ROW, generation_id="g2")], "high", "g1"),
        ([ROW], "medium", "g1"),
        ([ROW, replace(ROW, generation_id="g2")], "low", None),
        ([replace(ROW, prompt_sha256="bb")], "", None),
        ([replace(ROW, model="other")], "", None),
        ([replace(ROW, size="2k")], "", None),
        ([replace(ROW, size="1024x1024")], "medium", "g1"),
        ([replace(ROW, images=3)], "", None),
        ([replace(ROW, at_ms=AT - 1)], "", None),
        ([replace(ROW, at_ms=AT + 60_001)], "", None),
        ([replace(ROW, at_ms=None)], "", None),
    ],
)
def test_the_likely_generation_of_an_unknown(
    rows: list[UsageRow], likelihood: str, generation: str | None
) -> None:
    """By prompt; else by time, model, images and size, if it is the only one of both sides."""
    (guess,), _ = likely([LOST], rows, covered_until_ms=AT + 100_000)
    assert (guess.likelihood, guess.row and guess.row.generation_id) == (likelihood, generation)


def test_two_unknowns_of_one_time_are_not_told_apart() -> None:
    """One generation for two jobs is a guess: no command is offered, and the generation is nobody else's either."""
    guesses, left = likely([LOST, replace(LOST, job_id="job_2")], [ROW], covered_until_ms=AT + 100_000)
    assert [(each.likelihood, each.command, each.candidates) for each in guesses] == [
        ("low", "", ("g1",))
    ] * 2
    assert left == []


def test_an_export_that_may_end_too_early_releases_nothing() -> None:
    """Without a generation: the release is offered only if the export goes on after the submit."""
    (early,), _ = likely([LOST], [], covered_until_ms=AT + 1000)
    (late,), _ = likely([LOST], [], covered_until_ms=AT + 60_000)
    assert (early.command, late.command) == ("", "darkroom unknown release job_1")


def judged(row: UsageRow, job: OurJob | None) -> list[tuple[Table, str]]:
    both = Reconciliation("CNY", AT - 1000)
    both.match(row, job)
    return [(each.table, each.why) for each in both.report({}).findings]


DONE = OurJob("job_1", "completed", "", "CNY", 200_000, 1)


@pytest.mark.parametrize(
    ("row", "job", "table"),
    [
        (ROW, DONE, None),
        (ROW, replace(DONE, state="failed", why="copy_failed", delivered=0), Table.PAID_NOT_DELIVERED),
        (replace(ROW, images=2), DONE, Table.PAID_NOT_DELIVERED),
        (ROW, replace(DONE, missing=1), Table.PAID_NOT_DELIVERED),
        (ROW, None, Table.PAID_NOT_DELIVERED),
        (ROW, replace(DONE, delivered=2), Table.DELIVERED_NOT_BILLED),
        (replace(ROW, images=0, amount_micros=None), DONE, Table.DELIVERED_NOT_BILLED),
        (replace(ROW, amount_micros=100_000), DONE, Table.AMOUNTS_DIFFER),
        (replace(ROW, amount_micros=100_000), replace(DONE, currency="USD"), None),
        (replace(ROW, amount_micros=0, images=0), None, None),
    ],
)
def test_a_row_and_its_job(row: UsageRow, job: OurJob | None, table: Table | None) -> None:
    """What costs was delivered, what was delivered costs, and both say how much."""
    assert [each for each, _ in judged(row, job)] == ([table] if table else [])


def test_what_is_not_over_is_not_judged() -> None:
    """Running there, open here, or too old to know whose it was: counted with the reason, and no finding."""
    both = Reconciliation("CNY", AT)
    both.match(replace(ROW, status="processing"), DONE)
    both.match(replace(ROW, generation_id="g2"), replace(DONE, job_id="job_2", open=True, delivered=0))
    both.match(replace(ROW, generation_id="g3", at_ms=AT - 1), None)
    found = both.report({})
    assert (found.findings, dict(found.unjudged)) == ((), {RUNNING: 1, OPEN: 1, FORGOTTEN: 1})


def test_double_submits() -> None:
    """A generation billed twice, two of one job, one that came too late, and one with a matched job's prompt."""
    both = Reconciliation("CNY", AT)
    prompted = replace(ROW, prompt_sha256="cc")
    both.match(prompted, DONE)
    both.match(replace(prompted, line=3), DONE)
    both.match(replace(ROW, line=4, generation_id="g2"), DONE)
    both.match(replace(ROW, line=5, generation_id="g3"), None)
    both.match(replace(prompted, line=6, generation_id="g4"), None)
    found = both.report({"g3": "job_1"})
    assert [(each.table, each.line, each.job_id) for each in found.findings] == [
        (Table.DOUBLE_SUBMITS, line, "job_1") for line in (3, 4, 5, 6)
    ]


def test_what_costs_nothing_is_no_double_submit() -> None:
    """A line that repeats a free one, or says first that it runs and then what it cost, bills nobody twice."""
    both = Reconciliation("CNY", AT)
    free = replace(ROW, generation_id="g0", amount_micros=0, images=0, status="failed")
    for line in (2, 3):
        both.match(replace(free, line=line), None)
    running = replace(ROW, images=None, amount_micros=None, status="processing")
    for line, row in ((4, running), (5, ROW), (6, replace(ROW, amount_micros=0, images=0))):
        both.match(replace(row, line=line), DONE)
    found = both.report({})
    assert (found.findings, found.agree) == ((), 2)
    assert dict(found.unjudged) == {RUNNING: 1, REPEATED: 2}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("first_is_free", [True, False])
def test_a_redriven_job_is_compared_by_its_last_generation(gone: bool, first_is_free: bool) -> None:
    """The provider failed the first, free of charge: both sides agree, in whatever order their lines are."""
    both = Reconciliation("CNY", AT)
    free = replace(ROW, line=3, generation_id="g0", amount_micros=0, images=0, status="failed")
    job = OurJob("job_1", gone=True) if gone else replace(DONE, generation_id="g1")
    for row in (free, ROW) if first_is_free else (ROW, free):
        both.match(row, job)
    both.expect(replace(DONE, gone=gone), covered=True, generation_id="g1")
    found = both.report({})
    assert (found.findings, found.agree) == ((), 2)


def test_a_job_that_was_paid_twice() -> None:
    """It is compared by its last generation, and the one before is a double submit, whichever comes first."""
    for rows in (
        (ROW, replace(ROW, line=3, generation_id="g2")),
        (replace(ROW, line=1, generation_id="g2"), ROW),
    ):
        both = Reconciliation("CNY", AT)
        for row in rows:
            both.match(row, replace(DONE, cost_micros=400_000, generation_id="g2"))
        assert [(each.table, each.generation_id) for each in both.report({}).findings] == [
            (Table.DOUBLE_SUBMITS, "g1"), (Table.AMOUNTS_DIFFER, "g2"),
        ]  # fmt: skip


def test_a_record_that_is_gone_and_a_ledger_that_has_nothing() -> None:
    """The export bills images without saying their amount: nothing of it agrees. Nor does it, if no ledger was read."""
    said = {True: {}, False: {NO_LEDGER: 1}}
    for read, unjudged in said.items():
        both = Reconciliation("CNY", AT)
        both.match(replace(ROW, amount_micros=None), OurJob("job_1", gone=True))
        found = both.report({}, ledger_read=read)
        assert (found.agree, dict(found.unjudged)) == (0, unjudged)
        assert [each.table for each in found.findings] == [Table.PAID_NOT_DELIVERED] * read


def test_a_command_is_one_command_whatever_the_export_has() -> None:
    """Somebody is going to paste it into a shell."""
    (guess,), _ = likely([LOST], [replace(ROW, generation_id="$(reboot); g1")], covered_until_ms=None)
    assert guess.command == "darkroom unknown resolve job_1 --generation-id '$(reboot); g1'"


def test_a_submit_that_was_sent_again_names_its_first_generation() -> None:
    """The first one, paid and nobody's, is a double submit; without one there is nothing to say."""
    both = Reconciliation("CNY", AT)
    both.match(ROW, None)
    both.suspect(replace(LOST, unknown=False))
    ((table, job_id),) = [(each.table, each.job_id) for each in both.report({}).findings]
    assert (table, job_id) == (Table.DOUBLE_SUBMITS, "job_1")
    without = Reconciliation("CNY", AT)
    without.suspect(replace(LOST, unknown=False))
    assert without.report({}).findings == ()


def test_what_our_books_billed_and_the_export_lacks() -> None:
    """A finding if its submit was in the period, none before or after it."""
    both = Reconciliation("CNY", AT)
    both.match(ROW, DONE)
    both.expect(DONE, covered=True, generation_id="g1")
    both.expect(replace(DONE, job_id="job_2"), covered=True, generation_id="g2")
    both.expect(replace(DONE, job_id="job_3"), covered=False)
    assert [(each.table, each.job_id) for each in both.report({}).findings] == [
        (Table.DELIVERED_NOT_BILLED, "job_2")
    ]


def test_jobs_whose_record_is_gone_are_judged_by_the_ledger() -> None:
    """Its cost and its objects decide; one that the ledger never billed costs nothing by our books."""
    both = Reconciliation("CNY", AT)
    for at in (1, 2, 3):
        both.match(replace(ROW, line=at, generation_id=f"g{at}"), OurJob(f"job_{at}", gone=True))
    assert both.is_gone("job_1")
    both.expect(replace(DONE, gone=True), covered=True)
    both.expect(replace(DONE, job_id="job_2", delivered=0, gone=True), covered=True)
    found = both.report({})
    assert [(each.table, each.job_id) for each in found.findings] == [
        (Table.PAID_NOT_DELIVERED, "job_2"), (Table.AMOUNTS_DIFFER, "job_3"),
    ]  # fmt: skip
    assert found.agree == 1
