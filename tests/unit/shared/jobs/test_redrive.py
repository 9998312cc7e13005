"""What a redrive would do to a job, by its record: never a POST where money may have gone, but on an explicit word."""

from __future__ import annotations

import pytest

from shared.errors import IllegalTransition
from shared.jobs.lifecycle import JOB_REDRIVES, TERMINAL, JobState, check, check_redrive
from shared.jobs.redrive import RESULTS, SAID, judge, plan_redrive
from shared.jobs.transition import LEASE_FIELDS

NOW_MS = 10_000_000
WAIT_MS = 120_000
EST = 400_000
FREE = {"state": "failed", "error_code": "refused:x", "finished_at": "1", "est": str(EST), "model": "m"}


@pytest.mark.parametrize(
    ("record", "word", "with_the_word"),
    [
        ({}, "submit", "submit"),
        ({"error_code": "expired"}, "submit", "submit"),
        ({"error_code": "provider_unavailable", "intent_at": str(NOW_MS - 1)}, "submit", "submit"),
        ({"error_code": "provider:x", "generation_id": "t1", "hold": "0"}, "submit", "submit"),
        ({"error_code": "no_images", "generation_id": "t1"}, "submit", "submit"),
        ({"error_code": "poison"}, "submit", "submit"),
        ({"error_code": "poison", "settled": "1", "cost_micros": "5", "generation_id": "t1"}, "pay_again", "submit"),
        ({"error_code": "lost", "settled": "1", "cost_micros": "5", "generation_id": "t1"}, "pay_again", "submit"),
        ({"error_code": "released", "intent_at": str(NOW_MS - WAIT_MS)}, "pay_again", "submit"),
        ({"error_code": "released", "intent_at": str(NOW_MS - WAIT_MS + 1)}, "in_flight", "in_flight"),
        ({"error_code": "unknown_outcome"}, "pay_again", "submit"),
        ({"error_code": "unknown_outcome", "accounting": "open", "hold": str(EST)}, "open", "open"),
        ({"error_code": "unknown_outcome", "hold": str(EST)}, "open", "open"),
        ({"possible_double_charge": "1"}, "pay_again", "submit"),
        ({"error_code": "copy_failed", "settled": "1", "generation_id": "t1", "cost_micros": "5"}, "copy", "copy"),
        ({"error_code": "released", "settled": "1", "generation_id": "t1", "delivered": "1", "cost_micros": "5"}, "copy", "copy"),
        ({"state": "unknown", "error_code": ""}, "unknown", "unknown"),
        ({"state": "completed"}, "not_failed", "not_failed"),
        ({"state": "cancelled"}, "not_failed", "not_failed"),
        ({"state": "generating"}, "not_failed", "not_failed"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_money(record: dict[str, str], word: str, with_the_word: str) -> None:
    """Free: submitted again. Paid with images: copied. Paid without: refused, unless told to pay again."""
    whole = FREE | record
    assert judge(whole, now_ms=NOW_MS, resubmit_wait_ms=WAIT_MS).word == word
    told = judge(whole, now_ms=NOW_MS, resubmit_wait_ms=WAIT_MS, pay_again=True)
    assert told.word == with_the_word
    assert told.pays_again == (word in ("pay_again", "in_flight"))
    assert told.again_micros == (EST if told.pays_again else 0)


def test_a_copy_never_goes_to_the_queue_and_keeps_what_was_paid_for() -> None:
    """Its plan leads to storing, and clears neither generation id nor URLs nor what was settled."""
    record = FREE | {"error_code": "copy_failed", "settled": "1", "generation_id": "t1", "cost_micros": "5"}
    verdict = judge(record, now_ms=NOW_MS, resubmit_wait_ms=WAIT_MS, pay_again=True)
    plan = plan_redrive("j", record, verdict, by="anna", now_ms=NOW_MS, retain_ms=1)
    (variant,) = plan["v"]
    assert (variant["f"], variant["t"], variant["fin"]) == (("failed",), "storing", -1)
    assert "q" not in variant
    assert {"generation_id", "settled", "cost_micros", "delivered"}.isdisjoint(variant["u"])
    assert "urls" not in variant["xu"]
    assert plan["was"]["generation_id"] == "t1"
    assert "again" not in plan


def test_a_new_attempt_begins_without_anything_of_the_old_one() -> None:
    """Settling must work again, counters begin at 0, and the mark for Flower is not among what is cleared."""
    verdict = judge(FREE, now_ms=NOW_MS, resubmit_wait_ms=WAIT_MS)
    (variant,) = plan_redrive("j", FREE, verdict, by="anna", now_ms=NOW_MS, retain_ms=1)["v"]
    gone = {"settled", "generation_id", "intent_id", "attempts", "polls", "error_code", "finished_at", "lane"}
    assert gone <= set(variant["u"])
    assert (set(LEASE_FIELDS) - {"redriven"}) <= set(variant["u"])
    assert "redriven" not in variant["u"]
    assert variant["s"] == {"redriven": 1, "redriven_code": "refused:x"}


def test_only_an_operator_leaves_an_end() -> None:
    """The redrives are a table of their own, out of ends into the living states; stages cannot use it."""
    for before, after in JOB_REDRIVES:
        assert before in TERMINAL
        assert after not in TERMINAL
        with pytest.raises(IllegalTransition):
            check(before, after)
    with pytest.raises(IllegalTransition, match="no redrive from completed to queued"):
        check_redrive(JobState.COMPLETED, JobState.QUEUED)


def test_every_refusal_has_its_sentence() -> None:
    """Also those that the state server gives."""
    assert set(RESULTS.values()) <= set(SAID)
