"""Cancelling: what it costs, and what became of each of many."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from shared.errors import DarkroomError, JobNotFound
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.jobs.job import Job
    from shared.jobs.store import Changed

_NAMED: Final = 3  # ids in an entry of the audit


class CancelOutcome(StrEnum):
    """What a cancel costs."""

    FREE = "free"
    BILLED_LATER = "billed_later"
    BILLED = "billed"
    ALREADY_ENDED = "already_ended"


@dataclass(frozen=True, slots=True)
class CancelResult:
    """`billed_later`: the submit had begun; the job is cancelled and settled when the provider is done with it."""

    outcome: CancelOutcome
    job: Job


def cancel_outcome(before: Job) -> CancelOutcome:
    """Say what cancelling the job as it was read costs."""
    return outcome_of(before.state, intent=before.intent_id is not None) or CancelOutcome.ALREADY_ENDED


def outcome_of(state: JobState, *, intent: bool) -> CancelOutcome | None:
    """Say what cancelling a job costs by its state; None if its outcome is unknown, which refuses a cancel."""
    match state:
        case JobState.QUEUED:
            return CancelOutcome.FREE
        case JobState.SUBMITTING:
            return CancelOutcome.BILLED_LATER if intent else CancelOutcome.FREE
        case JobState.GENERATING:
            return CancelOutcome.BILLED_LATER
        case JobState.STORING:
            return CancelOutcome.BILLED
        case JobState.COMPLETED | JobState.FAILED | JobState.CANCELLED:
            return CancelOutcome.ALREADY_ENDED
        case JobState.UNKNOWN:
            return None
    assert_never(state)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """One of many: the job as it was before, with what its cancel costs; or the error that refused it."""

    job_id: str
    outcome: CancelOutcome | None = None
    before: Job | None = None
    error: DarkroomError | None = None


def cancelled(job_ids: Sequence[str], changed: Mapping[str, Changed]) -> list[Cancelled]:
    """Say what became of each, in the order given; an id that was given twice was cancelled once."""
    return [_one(job_id, changed[job_id]) for job_id in dict.fromkeys(job_ids)]


def _one(job_id: str, changed: Changed) -> Cancelled:
    before = changed.before
    if before is None:
        return Cancelled(job_id, error=JobNotFound(job_id))
    if changed.refused is not None:
        return Cancelled(job_id, before=before, error=changed.refused)
    return Cancelled(job_id, cancel_outcome(before), before)


def which_jobs(job_ids: Sequence[str], words: str = "") -> str:
    """Say for the audit which jobs: what they have in common, or the first of their ids."""
    if words:
        return f"jobs: {words}"
    more = f" and {len(job_ids) - _NAMED} more" if len(job_ids) > _NAMED else ""
    return f"job{'s' if len(job_ids) > 1 else ''} {', '.join(job_ids[:_NAMED])}{more}"
