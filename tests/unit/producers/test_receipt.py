"""Receipts: compact, and read like a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from producers.cli.status import batch_facts
from producers.receipt import BatchReceipt, BatchStatus, Dispositions, ItemReceipt, cancel_outcome
from shared.errors import Issue
from shared.jobs.disposition import Disposition
from shared.jobs.enqueue import new_job_ids
from shared.jobs.job import Job
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

ISSUE = Issue("n", "maximum", "n: too many", "9")


def filled() -> tuple[Dispositions, Sequence[str]]:
    ids = list(new_job_ids(4))
    items = Dispositions()
    items.extend_enqueued(ids[:2])
    items.append(ItemReceipt(2, Disposition.REJECTED, None, (ISSUE,)))
    items.append(ItemReceipt(3, Disposition.DUPLICATE, ids[2], (), ("seed: ignored",)))
    items.extend_enqueued(ids[3:])
    return items, ids


def test_dispositions_are_a_sequence() -> None:
    """What was added in runs and one by one comes back item by item."""
    items, ids = filled()
    assert list(items) == [
        ItemReceipt(0, Disposition.ENQUEUED, ids[0]),
        ItemReceipt(1, Disposition.ENQUEUED, ids[1]),
        ItemReceipt(2, Disposition.REJECTED, None, (ISSUE,)),
        ItemReceipt(3, Disposition.DUPLICATE, ids[2], (), ("seed: ignored",)),
        ItemReceipt(4, Disposition.ENQUEUED, ids[3]),
    ]
    assert (len(items), items[-1].job_id, [item.index for item in items[1:3]]) == (5, ids[3], [1, 2])
    with pytest.raises(IndexError):
        items[5]


def test_dispositions_are_compact() -> None:
    """A million items fit in some thirty megabytes."""
    items = Dispositions()
    for _ in range(100):
        items.extend_enqueued(list(new_job_ids(100)))
    assert (len(items._codes) + len(items._ids)) / len(items) == 31


def test_a_receipt_lists_jobs_and_rejections() -> None:
    """Jobs are those that exist for the items; a conflict's owner is not one of them."""
    items, ids = filled()
    items.append(ItemReceipt(5, Disposition.REJECTED, ids[0], (ISSUE,)))
    receipt = BatchReceipt("b", "", enqueued=3, duplicates=1, rejected=2, items=items)
    assert receipt.job_ids == [ids[0], ids[1], ids[2], ids[3]]
    assert [item.index for item in receipt.rejections] == [2, 5]
    assert receipt.total == 6


def job(state: JobState, **more: Any) -> Job:
    return Job(id="job_1", state=state, tenant="acme", model="wan2.7-image", n=1, created_at=0, **more)


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        (job(JobState.QUEUED), "free"),
        (job(JobState.SUBMITTING), "free"),
        (job(JobState.SUBMITTING, intent_id="i"), "billed_later"),
        (job(JobState.GENERATING, intent_id="i"), "billed_later"),
        (job(JobState.STORING, intent_id="i"), "billed"),
        (job(JobState.COMPLETED), "already_ended"),
        (job(JobState.FAILED), "already_ended"),
        (job(JobState.CANCELLED), "already_ended"),
    ],
)
def test_cancel_outcome(before: Job, outcome: str) -> None:
    """The intent decides whether a cancel is free."""
    assert cancel_outcome(before) == outcome


def test_a_batch_that_was_never_counted_is_all_zero() -> None:
    """A fresh batch has no counts yet."""
    status = BatchStatus.parse("b", "acme", "CNY", {b"created_at": b"5"})
    assert (status.total, status.done, status.sealed, status.created_at) == (0, 0, False, 5)
    assert set(status.counts.values()) == {0}


@pytest.mark.parametrize(
    ("completed", "unknown", "settled"), [(3, 0, True), (2, 1, True), (2, 0, False), (0, 2, False)]
)
def test_a_batch_is_settled_when_nothing_moves(completed: int, unknown: int, settled: bool) -> None:
    """All ended, or only unknown jobs left."""
    record = {b"total": b"3", b"n:completed": b"%d" % completed, b"n:unknown": b"%d" % unknown}
    assert BatchStatus.parse("b", "acme", "CNY", record).settled is settled


def test_a_batch_says_what_stops_it_and_what_has() -> None:
    """Caps as they were given, and the one that was reached; none if it has none."""
    record = {
        b"max_cost": b"40000000",
        b"max_failed_ppm": b"25000",
        b"stopped": b"max_cost",
        b"stopped_at": b"7",
    }
    status = BatchStatus.parse("b", "acme", "CNY", record)
    assert (status.max_cost_micros, status.max_failed_percent) == (40_000_000, 2.5)
    assert (status.stopped, status.stopped_at) == ("max_cost", 7)
    bare = BatchStatus.parse("b", "acme", "CNY", {})
    assert (bare.max_cost_micros, bare.max_failed_percent, bare.stopped) == (None, None, None)
    told = dict(batch_facts(status))
    assert told["stops"] == "before it costs more than ¥40.00, or when more than 2.5 % failed"
    assert told["stopped"].endswith("by its cost; what was queued is cancelled, free")
    assert not {"stops", "stopped"} & dict(batch_facts(bare)).keys()
