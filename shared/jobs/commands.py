"""What owners and operators do to a job, as transitions: pure plans, guarded by the state they were made for.

Each takes the job as read and gives the transition, or raises TransitionRefused with what to do instead. If the
record moves in between, the script refuses the plan and the caller reads and plans again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from shared.errors import TransitionRefused
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import LEASE_FIELDS, Change, Transition

if TYPE_CHECKING:
    from shared.jobs.job import Job

INTENT_FIELDS = ("intent_id", "intent_at", "generation_id", *LEASE_FIELDS)
# Index of jobs that ended where no worker saw it: the sweep tells Flower. Flower is only a view: no more than that.
TOLD = "told"
TELL = ((TOLD, 0),)
OWNER = "owner"  # who cancels without saying who it is: a program that takes its own job back
PAUSED = "paused"  # index of jobs that somebody paused one by one
PAUSE_FIELDS = ("paused_at", "paused_by", "paused_why")


def plan_cancel(job: Job, *, by: str = OWNER, tell: bool = True) -> Transition | None:
    """Cancel: free before the intent; after it for the owner at once, while accounting stays open. None if ended.

    `tell` has the next sweep show the end in Flower, for those that cannot tell it themselves.
    """
    told = TELL if tell else ()
    match job.state:
        case JobState.COMPLETED | JobState.FAILED | JobState.CANCELLED:
            return None
        case JobState.QUEUED:
            change = Change(
                before=JobState.QUEUED,
                after=JobState.CANCELLED,
                unqueue=True,
                leave=(f"later:{job.model}", "expiring", PAUSED),
                clear=PAUSE_FIELDS,
                due_in=told,
                note=f"cancelled by {by}, free",
            )
            return Transition(job_id=job.id, changes=(change,))
        case JobState.SUBMITTING if job.intent_id is None:
            return Transition(
                job_id=job.id, changes=(_cancel_before_intent(job, by, told),), without_intent=True
            )
        case JobState.SUBMITTING | JobState.GENERATING:
            return Transition(job_id=job.id, changes=(_cancel_paid(job, by),))
        case JobState.STORING:
            change = Change(
                before=JobState.STORING,
                after=JobState.CANCELLED,
                leave=("store",),
                due_in=told,
                bump={"epoch": 1},
                note=f"cancelled by {by}, billed",
            )
            return Transition(job_id=job.id, changes=(change,))
        case JobState.UNKNOWN:
            raise TransitionRefused(
                f"job {job.id} has an unknown outcome and may be billed. "
                "Use `darkroom unknown resolve`, `resubmit` or `release`."
            )
    assert_never(job.state)


def _cancel_before_intent(job: Job, by: str, told: tuple[tuple[str, int], ...]) -> Change:
    lane = job.lane or ""
    return Change(
        before=JobState.SUBMITTING,
        after=JobState.CANCELLED,
        leave=(f"submit:{lane}", "expiring"),
        due_in=told,
        free_slot=lane,
        release=True,
        bump={"epoch": 1},
        clear=LEASE_FIELDS,
        note=f"cancelled by {by} before the submit, free",
    )


def _cancel_paid(job: Job, by: str) -> Change:
    """Leave the holder's claim alone: what it learns still belongs to the job's accounting."""
    return Change(
        before=job.state,
        after=JobState.CANCELLED,
        fields={"accounting": "open"},
        leave=("expiring",),
        keep=True,
        note=f"cancelled by {by} after the submit, settled when the provider is done",
    )


def plan_expire(job: Job) -> Transition | None:
    """Fail a queued job whose own deadline passed; anything later finishes."""
    if job.state is not JobState.QUEUED:
        return None
    change = Change(
        before=JobState.QUEUED,
        after=JobState.FAILED,
        unqueue=True,
        leave=(f"later:{job.model}", "expiring", PAUSED),
        clear=PAUSE_FIELDS,
        fields={"error_code": "expired"},
        detail={"error_message": "the job's own deadline passed before it was submitted"},
        note="expired, free",
    )
    return Transition(job_id=job.id, changes=(change,))


def plan_resolve(job: Job, generation_id: str, *, by: str) -> Transition | None:
    """Attach the generation an operator found. None if it is attached already."""
    if job.generation_id == generation_id:
        return None
    _require_unknown(job, "resolved")
    states = (JobState.UNKNOWN,) if job.state is JobState.UNKNOWN else (job.state,)
    changes = tuple(attach(state, job.lane or "", generation_id, f"resolved by {by}") for state in states)
    return Transition(job_id=job.id, changes=changes)


def attach(
    state: JobState, lane: str, generation_id: str, note: str, *, first_poll_ms: int = 0, slot_ms: int = 0
) -> Change:
    """Record a generation id, late or not: a live job goes on to generating, an ended one only in its accounting."""
    live = state in (JobState.SUBMITTING, JobState.UNKNOWN)
    return Change(
        before=state,
        after=JobState.GENERATING if live else state,
        fields={"generation_id": generation_id} | ({} if live else {"accounting": "open"}),
        stamps=("submitted_at",),
        clear=(*LEASE_FIELDS, "unknown_cause"),
        leave=(f"submit:{lane}", "unknown", "resubmit", "expiring"),
        due_in=((f"poll:{lane}", first_poll_ms),),
        keep_slot=(lane, slot_ms) if slot_ms else None,
        intent=(lane, 0),
        generation_id=generation_id,
        keep=not live,
        note=note,
    )


def plan_resubmit(job: Job, *, by: str, now_ms: int, wait_ms: int) -> Transition:
    """Queue an unknown job again: a second POST, possibly a second charge. Refused until the first cannot be in flight."""
    if job.state is not JobState.UNKNOWN:
        _refuse(job, "resubmitted")
    ready_at = (job.intent_at or 0) + wait_ms
    if now_ms < ready_at:
        raise TransitionRefused(
            f"job {job.id}: its POST may still be in flight. Resubmit it in {(ready_at - now_ms + 999) // 1000} s."
        )
    change = Change(
        before=JobState.UNKNOWN,
        after=JobState.QUEUED,
        clear=(*INTENT_FIELDS, "unknown_cause"),
        leave=("unknown", "resubmit"),
        due_at=(("expiring", job.deadline_at),) if job.deadline_at else (),
        queue=True,
        free_slot=job.lane or "",
        doubt=True,
        bump={"resubmits": 1},
        fields={"possible_double_charge": 1},
        note=f"resubmitted by {by}: a second charge is possible",
    )
    return Transition(job_id=job.id, changes=(change,))


def plan_release(job: Job, *, by: str) -> Transition | None:
    """Give an unknown job up: it fails, its hold is released. A late generation id is still attached and charged."""
    if job.state is JobState.FAILED and job.error_code == "released":
        return None
    _require_unknown(job, "released")
    change = Change(
        before=job.state,
        after=JobState.FAILED if job.state is JobState.UNKNOWN else job.state,
        fields={"error_code": "released"} if job.state is JobState.UNKNOWN else {},
        clear=("accounting", "unknown_cause"),
        leave=("unknown", "resubmit"),
        due_in=TELL if job.state is JobState.UNKNOWN else (),
        free_slot=job.lane or "",
        release=True,
        close_accounting=True,
        note=f"released by {by}",
    )
    return Transition(job_id=job.id, changes=(change,))


def _require_unknown(job: Job, done: str) -> None:
    if job.state is not JobState.UNKNOWN and not (job.ended and job.unknown_cause):
        _refuse(job, done)


def _refuse(job: Job, done: str) -> None:
    raise TransitionRefused(
        f"job {job.id} is {job.state}, and only a job with an unknown outcome can be {done}. See `darkroom unknown list`."
    )
