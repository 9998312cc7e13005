"""The life of a job and of a delivery: both tables, in one place, pure.

House rules
    1. Every state change goes through `check`: what the table does not list raises and changes nothing.
    2. Lua compares and sets; it is told the states by its caller and knows none by name.
    3. State is final, accounting is not: a cancelled or failed job may still be polled until the provider is
       done, so that the bill is right. That never changes its state.
    4. Waiting for quota, a 429, a paused lane and "still generating" are snoozes: they stay in a state or return
       to `queued` without counting as an attempt.
    5. Nothing leaves an end by itself. A redrive by an operator does, by tables of its own (`check_redrive`), which
       no stage uses: it is a new beginning, told by events with new numbers.

The diagram in docs/lifecycle.md is drawn from these tables.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from shared.errors import IllegalTransition


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    SUBMITTING = "submitting"
    GENERATING = "generating"
    STORING = "storing"
    UNKNOWN = "unknown"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """Where the delivery of an event is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    DISABLED = "disabled"


TERMINAL: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})

JOB_STATES: Final[dict[JobState, str]] = {
    JobState.QUEUED: (
        "Durably accepted and waiting for a permit and a slot of a lane that serves its model, for its not_before, "
        "or for a backoff to pass. Producers put it here; a claim of the submit stage takes it out. No money is held. "
        "It may wait for as long as its lane is closed; its own deadline ends the wait as failed(expired)."
    ),
    JobState.SUBMITTING: (
        "Claimed by one worker under a lease; money is held and a slot taken. Just before the POST the worker writes "
        "an intent. Without an intent nothing can have been sent, and the job returns to the queue when the lease "
        "ends; with one, only a positive proof returns it there. Lasts seconds, at most the POST's timeout."
    ),
    JobState.GENERATING: (
        "The provider has accepted it: generation_id is recorded, and polls ask for it at scheduled times. It stays "
        "until the provider is done; past the poll deadline it is asked rarely, for 24 h, then failed(lost)."
    ),
    JobState.STORING: (
        "The provider delivered; the bill is settled at the images that came. Each image is copied to the object "
        "store, checked and recorded. Retried until the provider's URLs expire, then failed(copy_failed)."
    ),
    JobState.UNKNOWN: (
        "The outcome of the POST is not known: it may have been accepted and billed. Money stays held. Nothing "
        "re-sends it; a late generation id, `darkroom unknown resolve`, `resubmit` or `release` take it out, or the "
        "job's on_unknown policy. Never expires."
    ),
    JobState.COMPLETED: (
        "Every delivered image is stored and its checksum recorded (or, with storage off, the provider's URLs are). "
        "`partial` says that fewer came than were asked for. Kept for the retention time."
    ),
    JobState.FAILED: (
        "Ended without a usable result; error_code says why, and whether it was billed is in its cost. Kept for the "
        "retention time, longer while its accounting is open. An operator may redrive it."
    ),
    JobState.CANCELLED: (
        "Ended by its owner. Free before the intent; after it, the provider's work goes on and is settled."
    ),
}

JOB_TRANSITIONS: Final[dict[tuple[JobState, JobState], str]] = {
    (JobState.QUEUED, JobState.SUBMITTING): "claimed with a permit and a slot; hold written",
    (JobState.QUEUED, JobState.FAILED): "its own deadline passed (expired)",
    (JobState.QUEUED, JobState.CANCELLED): "cancelled, free",
    (
        JobState.SUBMITTING,
        JobState.QUEUED,
    ): "proved not sent, throttled, not executed, lane paused, or died before intent",
    (JobState.SUBMITTING, JobState.GENERATING): "the provider gave a generation id",
    (JobState.SUBMITTING, JobState.UNKNOWN): "ambiguous answer, or the worker died after the intent",
    (JobState.SUBMITTING, JobState.FAILED): "refused by the provider, poison, or input lost; hold released",
    (JobState.SUBMITTING, JobState.CANCELLED): "cancelled; free before the intent, settled later after it",
    (JobState.GENERATING, JobState.STORING): "the provider delivered images; settled",
    (JobState.GENERATING, JobState.COMPLETED): "the provider delivered images and storage is off; settled",
    (
        JobState.GENERATING,
        JobState.FAILED,
    ): "the provider failed it, delivered nothing, or lost it; or poison",
    (
        JobState.GENERATING,
        JobState.CANCELLED,
    ): "cancelled; polled on until the provider is done, then settled",
    (JobState.STORING, JobState.COMPLETED): "every object is stored and recorded",
    (JobState.STORING, JobState.FAILED): "images could not be copied before they expired; or poison",
    (JobState.STORING, JobState.CANCELLED): "cancelled; already settled",
    (JobState.UNKNOWN, JobState.GENERATING): "a generation id was attached, late or by an operator",
    (JobState.UNKNOWN, JobState.QUEUED): "resubmitted, by an operator or by policy, after the waiting time",
    (JobState.UNKNOWN, JobState.FAILED): "released by an operator, or by the policy `fail`",
}

JOB_REDRIVES: Final[dict[tuple[JobState, JobState], str]] = {
    (
        JobState.FAILED,
        JobState.QUEUED,
    ): "redriven by an operator: a new POST; only free, or with `--pay-again`",
    (
        JobState.FAILED,
        JobState.STORING,
    ): "redriven by an operator: its paid images are copied again, no new POST",
}

DELIVERY_STATES: Final[dict[DeliveryState, str]] = {
    DeliveryState.PENDING: "Not yet acknowledged by the endpoint; tried again on the schedule.",
    DeliveryState.DELIVERED: "The endpoint answered 2xx.",
    DeliveryState.EXHAUSTED: "The schedule's last try failed, or three workers died of it; an operator may redrive it.",
    DeliveryState.DISABLED: (
        "The endpoint answered 410 Gone or its address is forbidden; nothing more is sent, unless an operator redrives it."
    ),
}

DELIVERY_TRANSITIONS: Final[dict[tuple[DeliveryState, DeliveryState], str]] = {
    (DeliveryState.PENDING, DeliveryState.DELIVERED): "2xx",
    (DeliveryState.PENDING, DeliveryState.EXHAUSTED): "the last try of the schedule failed; or poison",
    (DeliveryState.PENDING, DeliveryState.DISABLED): "410 Gone, or a forbidden address",
}

DELIVERY_REDRIVES: Final[dict[tuple[DeliveryState, DeliveryState], str]] = {
    (
        DeliveryState.EXHAUSTED,
        DeliveryState.PENDING,
    ): "redriven by an operator: the schedule begins anew, under the same id",
    (
        DeliveryState.DISABLED,
        DeliveryState.PENDING,
    ): "redriven by an operator, once the endpoint is there again",
}


def check(before: JobState, after: JobState) -> None:
    """Raise IllegalTransition unless the table has this change; staying in a state is always legal."""
    if before is not after and (before, after) not in JOB_TRANSITIONS:
        raise IllegalTransition(f"no transition from {before} to {after}. See docs/lifecycle.md.")


def check_delivery(before: DeliveryState, after: DeliveryState) -> None:
    """Raise IllegalTransition unless the delivery table has this change."""
    if before is not after and (before, after) not in DELIVERY_TRANSITIONS:
        raise IllegalTransition(f"no delivery transition from {before} to {after}. See docs/lifecycle.md.")


def check_redrive(before: JobState, after: JobState) -> None:
    """Raise IllegalTransition unless an operator may put a job back so."""
    if (before, after) not in JOB_REDRIVES:
        raise IllegalTransition(f"no redrive from {before} to {after}. See docs/lifecycle.md.")
