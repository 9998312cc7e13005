"""What becomes of a job after its POST: the table of design §3 as transitions. Pure.

Every plan has a second change for a job that its owner cancelled while the POST was in flight: its state stays,
only its accounting moves on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.jobs.commands import INTENT_FIELDS, attach
from shared.jobs.lifecycle import TERMINAL, JobState
from shared.jobs.transition import LEASE_FIELDS, Change, Transition

if TYPE_CHECKING:
    from shared.settings import WorkerSettings
    from workers.claims import Entry
    from workers.lanes import Lane

SUBMITTING, CANCELLED, QUEUED = JobState.SUBMITTING, JobState.CANCELLED, JobState.QUEUED
GIVING_UP = (
    "giving_up"  # index of unknown jobs whose policy is `fail`: the sweep fails what their worker did not
)
GIVE_UP_MS = 2000  # the worker that recorded the outcome comes first
LATE_SLOT_MS = 25 * 3600 * 1000  # a generation attached late holds its slot until it is done; a day bounds it


def plan_intent(entry: Entry, lane: Lane, intent_id: str) -> Transition:
    """Write the durable note before the POST; refused unless this process still holds the claim.

    And if another intent is there, whose POST may be under way: after a failover two holders may have one epoch.
    """
    change = Change(
        before=SUBMITTING,
        after=SUBMITTING,
        fields={"intent_id": intent_id},
        stamps=("intent_at",),
        bump={"posts": 1},
        intent=(lane.name, 1),
    )
    return Transition(job_id=entry.id, epoch=entry.epoch, changes=(change,), sole_intent=intent_id)


def plan_accepted(
    entry: Entry, lane: Lane, intent_id: str, generation_id: str, *, first_poll_ms: int
) -> Transition:
    """Attach the generation to the job that is still submitting."""
    note = f"accepted as {generation_id}"
    change = attach(SUBMITTING, lane.name, generation_id, note, first_poll_ms=first_poll_ms)
    return Transition(job_id=entry.id, intent_id=intent_id, changes=(change,), lane_note=(lane.name, "ok"))


def plan_accepted_late(job_id: str, lane: str, intent_id: str, generation_id: str) -> Transition:
    """Attach the generation whatever became of the job meanwhile: guarded by the intent, not by the epoch."""
    note = f"accepted late as {generation_id}"
    states = (JobState.UNKNOWN, CANCELLED, JobState.FAILED, SUBMITTING)
    changes = tuple(
        attach(state, lane, generation_id, note, slot_ms=0 if state is SUBMITTING else LATE_SLOT_MS)
        for state in states
    )
    return Transition(job_id=job_id, intent_id=intent_id, changes=changes)


def plan_taken(job_id: str, lane: str, intent_id: str, generation_id: str, *, slot_ms: int) -> Transition:
    """Keep a job unknown whose generation id belongs to another job: never let two share one result."""
    cause = "generation id belongs to another job"
    changes = tuple(
        Change(
            before=state,
            after=JobState.UNKNOWN if state is SUBMITTING else state,
            fields={"unknown_cause": cause, "claimed_generation_id": generation_id},
            clear=LEASE_FIELDS,
            leave=(f"submit:{lane}", "expiring"),
            due_in=(("unknown", 0), (GIVING_UP, 0)) if state is SUBMITTING else (("unknown", 0),),
            keep_slot=(lane, slot_ms),
            intent=(lane, 0),
            keep=state in TERMINAL,
            note=f"outcome unknown: {cause}",
        )
        for state in (JobState.UNKNOWN, CANCELLED, JobState.FAILED, SUBMITTING)
    )
    return Transition(job_id=job_id, intent_id=intent_id, changes=changes)


def plan_requeue(
    entry: Entry,
    lane: Lane,
    intent_id: str | None,
    *,
    note: str,
    delay_ms: int = 0,
    counted: bool = False,
    lane_note: tuple[str | int, ...] = (),
) -> Transition:
    """Queue again, free: nothing was executed. With no delay the job keeps its place in the order."""
    later = ((f"later:{lane.model}", delay_ms),) if delay_ms else ()
    again = Change(
        before=SUBMITTING,
        after=QUEUED,
        clear=(*INTENT_FIELDS, "lane"),
        bump={"requeues": 1} | ({"attempts": 1} if counted else {}),
        leave=(f"submit:{lane.name}",),
        due_in=later,
        queue=not later,
        free_slot=lane.name,
        release=True,
        intent=(lane.name, 0),
        note=note,
    )
    return Transition(
        job_id=entry.id,
        intent_id=intent_id,
        epoch=entry.epoch,
        changes=(again, *_nothing_owed(lane), _found_out(again, entry.number("deadline_at"))),
        lane_note=lane_note,
    )


def plan_failed(
    entry: Entry, lane: Lane, intent_id: str | None, code: str, message: str, *, answered: bool = True
) -> Transition:
    """Fail: the provider refused it, or it cannot be sent (then not `answered`). The hold is released."""
    failed = Change(
        before=SUBMITTING,
        after=JobState.FAILED,
        fields={"error_code": code},
        detail={"error_message": message},
        clear=LEASE_FIELDS,
        leave=(f"submit:{lane.name}", "expiring"),
        free_slot=lane.name,
        release=True,
        intent=(lane.name, 0),
        note=f"{code}, free",
    )
    lane_note = (lane.name, "ok") if intent_id and answered else ()
    return Transition(
        job_id=entry.id,
        intent_id=intent_id,
        epoch=entry.epoch,
        changes=(failed, *_nothing_owed(lane), _found_out(failed)),
        lane_note=lane_note,
    )


def plan_unknown(
    entry: Entry,
    lane: Lane,
    settings: WorkerSettings,
    *,
    cause: str,
    intent_id: str | None,
    generation_id: str = "",
) -> Transition:
    """Keep hold and slot: the POST may have been accepted. The policy resubmit_once arms its one resubmission.

    The policy `fail` is the next step of whoever records this, and armed for the sweep should it not come to that.
    """
    due: tuple[tuple[str, int], ...] = (("unknown", 0),)
    if entry.fields.get("on_unknown") == "fail":
        due = (*due, (GIVING_UP, GIVE_UP_MS))
    if entry.fields.get("on_unknown") == "resubmit_once" and not entry.number("resubmits"):
        due = (*due, ("resubmit", resubmit_wait_ms(settings)))
    changes = tuple(
        Change(
            before=state,
            after=JobState.UNKNOWN if state is SUBMITTING else state,
            fields={"unknown_cause": cause}
            | ({"claimed_generation_id": generation_id} if generation_id else {}),
            clear=LEASE_FIELDS,
            leave=(f"submit:{lane.name}", "expiring"),
            due_in=due if state is SUBMITTING else due[:1],
            keep_slot=(lane.name, int(settings.generation_max_s * 1000)),
            intent=(lane.name, 0),
            note=f"outcome unknown: {cause}" + (f", {generation_id}"[:300] if generation_id else ""),
        )
        for state in (SUBMITTING, CANCELLED)
    )
    # A worker's death says nothing about the provider: only an answer, or its absence, counts for the breaker.
    probe_ms = int(settings.breaker_probe_s * 1000)
    note = (lane.name, "ambiguous", probe_ms, settings.breaker_ambiguous) if intent_id else ()
    return Transition(
        job_id=entry.id, intent_id=intent_id, epoch=entry.epoch, changes=changes, lane_note=note
    )


def plan_give_up_unknown(job_id: str) -> Transition:
    """Apply the policy `fail`: failed for its owner, while hold and listing stay until the outcome is known."""
    change = Change(
        before=JobState.UNKNOWN,
        after=JobState.FAILED,
        fields={"error_code": "unknown_outcome", "accounting": "open"},
        leave=("resubmit", GIVING_UP),
        keep=True,
        note="on_unknown = fail",
    )
    return Transition(job_id=job_id, changes=(change,))


def plan_orphaned(entry: Entry, lane: Lane, *, poison_deaths: int, wait_ms: int = 0) -> Transition:
    """Queue a job whose holder died before the intent: nothing was sent. It is a suspect now, claimed alone.

    After each death of its own it waits `wait_ms` longer: those who only shared its first claim go before it.
    """
    deaths = entry.number("deaths") + int(entry.suspect)
    if deaths >= poison_deaths:
        return plan_failed(entry, lane, None, "poison", f"its worker died {deaths} times while it ran alone")
    later = ((f"later:{lane.model}", deaths * wait_ms),) if deaths * wait_ms else ()
    again = Change(
        before=SUBMITTING,
        after=QUEUED,
        clear=("leased", "lane"),
        fields={"suspect": 1, "deaths": deaths},
        leave=(f"submit:{lane.name}",),
        due_in=later,
        queue=not later,
        free_slot=lane.name,
        release=True,
        note="its worker died before the submit",
    )
    return Transition(
        job_id=entry.id, epoch=entry.epoch, changes=(again, _nothing_owed(lane)[0]), without_intent=True
    )


def resubmit_wait_ms(settings: WorkerSettings) -> int:
    """Give how long after the intent its POST may still be in flight, with a margin."""
    return int((settings.submit_timeout_s + settings.resubmit_after_s) * 1000)


def _found_out(change: Change, deadline_at: int = 0) -> Change:
    """Make the same change of a job given up as unknown, once its holder turns out to know the answer.

    What became unknown had no deadline any more; what waits again, after all, has its own.
    """
    return replace(
        change,
        before=JobState.UNKNOWN,
        due_at=(("expiring", deadline_at),) if deadline_at else (),
        leave=(*change.leave, "unknown", "resubmit"),
        clear=(*change.clear, "unknown_cause"),
    )


def _nothing_owed(lane: Lane) -> tuple[Change, Change]:
    """Close the accounting of a job that was cancelled, or given up by its policy, during a POST that came to nothing."""
    cancelled = Change(
        before=CANCELLED,
        after=CANCELLED,
        clear=(*INTENT_FIELDS, "accounting", "unknown_cause"),
        leave=(f"submit:{lane.name}", f"poll:{lane.name}", "unknown"),
        bump={"epoch": 1},  # who polls a generation that was attached by mistake is not to bring it back
        free_slot=lane.name,
        release=True,
        intent=(lane.name, 0),
        close_accounting=True,
        note="nothing was executed, free",
    )
    failed = replace(cancelled, before=JobState.FAILED, after=JobState.FAILED, if_open=True)
    return cancelled, failed
