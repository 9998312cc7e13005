"""Transitions as values: what is expected, what becomes of it. Built here, applied by `apply_transitions.lua`.

A transition is guarded by the epoch of the claim (or by the intent of the POST) and has one or more changes; the
first whose `before` is the record's present state is applied, whole, or none is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from shared.jobs.lifecycle import TERMINAL, DeliveryState, JobState, check, check_redrive
from shared.jobs.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.settings import LimitSettings

IMAGE_EVENTS: Final = {
    JobState.COMPLETED: "image.completed",
    JobState.FAILED: "image.failed",
    JobState.CANCELLED: "image.cancelled",
    JobState.UNKNOWN: "image.unknown",
}
# What a record has of its present claim; `redriven` lasts until the first outcome, so that Flower is told once.
LEASE_FIELDS: Final = ("leased", "suspect", "deaths", "redriven")


class Applied(IntEnum):
    """What became of a transition; a positive number is the place of the change that was applied."""

    GENERATION_TAKEN = -3
    ORPHAN = -2
    MISSING = -1
    FENCED = 0
    FIRST = 1
    SECOND = 2
    THIRD = 3
    FOURTH = 4


@dataclass(
    slots=True, kw_only=True
)  # not frozen: half a dozen are made per job, and that doubles what one costs
class Change:
    """One possible change of a job. Times are in ms; index names are those of `Keys.index`."""

    before: JobState
    after: JobState
    note: str = ""
    fields: Mapping[str, str | int] = field(default_factory=dict)
    detail: Mapping[str, str] = field(default_factory=dict)
    stamps: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    bump: Mapping[str, int] = field(default_factory=dict)
    leave: tuple[str, ...] = ()
    due_in: tuple[tuple[str, int], ...] = ()
    due_at: tuple[tuple[str, int], ...] = ()
    queue: bool = False
    unqueue: bool = False
    free_slot: str = ""
    keep_slot: tuple[str, int] | None = None
    intent: tuple[str, int] | None = None
    settle_micros: int | None = None
    release: bool = False
    doubt: bool = False
    generation_id: str = ""
    images: int = 0
    keep: bool = False  # accounting is open, or open again: no expiry yet
    if_open: bool = False  # only while its accounting is open
    close_accounting: bool = False  # of a job that has ended: its retention starts now
    redrive: bool = False  # an operator's way out of an end
    forget: tuple[str, ...] = ()  # fields of the detail to remove

    def encode(self, retain_ms: int) -> dict[str, Any]:
        """Give the change in the script's shape. Raises IllegalTransition if the lifecycle lacks it."""
        (check_redrive if self.redrive else check)(self.before, self.after)
        moved = self.before is not self.after
        ends = moved and self.after in TERMINAL
        stamps = (*self.stamps, "finished_at") if ends else self.stamps
        optional = {
            "s": self.fields,
            "x": self.detail,
            "ts": stamps,
            "u": self.clear,
            "xu": self.forget,
            "b": self.bump,
            "o": self.leave,
            "n": self._due() if self.due_in or self.due_at else None,
            "q": int(self.queue),
            "qr": int(self.unqueue),
            "slot": self._slot(),
            "intent": self.intent,
            "m": self._money(),
            "gen": self.generation_id,
            "ao": int(self.if_open),
            "im": self.images,
            "note": self.note,
        }
        out: dict[str, Any] = {name: value for name, value in optional.items() if value}
        out["f"] = (self.before,)
        if (ends and not self.keep) or self.close_accounting:
            out["ttl"] = retain_ms
        elif self.keep and not moved:
            out["ttl"] = 0
        if moved:
            out |= self._move(ends=ends)
        return out

    def _move(self, *, ends: bool) -> dict[str, Any]:
        """Give what only a change of state has: the new one, its end, its event, and who parks or comes back."""
        out: dict[str, Any] = {"t": self.after}
        if ends or self.redrive:
            out["fin"] = 1 if ends else -1
        if self.after in IMAGE_EVENTS:
            out["ev"] = IMAGE_EVENTS[self.after]
        if JobState.UNKNOWN in (self.before, self.after):
            out["p"] = 1 if self.after is JobState.UNKNOWN else -1
        return out

    def _due(self) -> list[tuple[str, str, int]]:
        return [(name, "in", ms) for name, ms in self.due_in] + [(name, "at", ms) for name, ms in self.due_at]

    def _slot(self) -> tuple[str, int] | None:
        return (self.free_slot, -1) if self.free_slot else self.keep_slot

    def _money(self) -> tuple[str, int] | None:
        if self.settle_micros is not None:
            return ("settle", self.settle_micros)
        if self.release:
            return ("release", 0)
        return ("doubt", 0) if self.doubt else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A guarded transition of one job. Exactly one of epoch and intent guards a worker's; an operator's has neither.

    `without_intent` lets it pass only if the job has no intent; a `sole_intent` also if it is that one.

    Its notes, of the lane and of the object store (lane.lua, store_note.lua), are taken whether it is applied or not.
    """

    job_id: str
    changes: tuple[Change, ...]
    epoch: int | None = None
    intent_id: str | None = None
    without_intent: bool = False
    sole_intent: str = ""
    held: str = ""
    lane_note: tuple[str | int, ...] = ()
    store_note: tuple[str | int, ...] = ()

    def encode(self, retain_ms: int) -> dict[str, Any]:
        out: dict[str, Any] = {
            "k": "j",
            "id": self.job_id,
            "v": [change.encode(retain_ms) for change in self.changes],
        }
        if self.intent_id is not None:
            out["i"] = self.intent_id
        elif self.epoch is not None:
            out["e"] = self.epoch
        if self.without_intent or self.sole_intent:
            out["ni"] = self.sole_intent or 1
        if self.held:
            out["h"] = self.held
        if self.lane_note:
            out["lane"] = list(self.lane_note)
        if self.store_note:
            out["st"] = list(self.store_note)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTransition:
    """A guarded transition of one delivery; `retry_in_ms` keeps it pending and due again.

    `host` is the endpoint's, "" if it is not known; `waited_at` the host that the record says it waits at, `failed`
    whether a try failed before this one, `created_at` (unix ms) the event's.
    """

    event_id: str
    epoch: int
    after: DeliveryState
    retry_in_ms: int | None = None
    counted: bool = True
    status: str = ""
    host: str = ""
    waited_at: str = ""
    failed: bool = False
    created_at: int = 0

    def encode(self, retain_ms: int) -> dict[str, Any]:
        ended = self.after is not DeliveryState.PENDING
        change: dict[str, Any] = {
            "f": [DeliveryState.PENDING],
            "s": {"last_status": self.status},
            "ts": ["ended_at" if ended else "tried_at"],
            "u": list(LEASE_FIELDS),
        }
        if self.counted:
            change["b"] = {"attempts": 1}
        if ended:
            change |= {"t": self.after, "o": ["notify"], "ttl": retain_ms}
        else:
            change["n"] = [("notify", "in", self.retry_in_ms)]
        self._place(change, ended=ended)
        return {"k": "d", "id": self.event_id, "e": self.epoch, "h": "notify", "v": [change]}

    def _place(self, change: dict[str, Any], *, ended: bool) -> None:
        """Say where it waits from now on, if that changes: one that succeeds at once is entered nowhere."""
        host = self.host or self.waited_at
        if host and self.after is not DeliveryState.DELIVERED:
            change["s"]["host"] = host
        if ended:
            if self.waited_at:
                change["ep"] = (self.waited_at, "", 0, 0)
                change["u"].append("waits_at")
            return
        newly_failed = self.counted and not self.failed
        if host and (host != self.waited_at or newly_failed):
            change["s"]["waits_at"] = host
            change["ep"] = (self.waited_at, host, int(self.counted or self.failed), self.created_at)


AnyTransition = Transition | DeliveryTransition


@dataclass(frozen=True, slots=True)
class AuditNote:
    """What the audit keeps of a person's decision, beside the time and the number of jobs that it changed."""

    who: str
    what: str
    on: str
    why: str = ""


def context_json(limits: LimitSettings, note: AuditNote | None = None) -> bytes:
    """What scripts need to know of names and times (batch.lua), and what to note in the audit if anything changes."""
    audit = {} if note is None else {"audit": asdict(note)}
    return to_json(
        {
            **audit,
            "delivery": DeliveryState.PENDING,
            "backlog": JobState.QUEUED,
            "failed": JobState.FAILED,
            "completed": "batch.completed",
            "stalled": "batch.stalled",
            "retain_batch_ms": limits.retain_batches_s * 1000,
            "stalled_ms": limits.batch_stalled_s * 1000,
            "schema": SCHEMA,
        }
    )


def transitions_json(transitions: Sequence[AnyTransition], retain_ms: int) -> bytes:
    """Encode a run of transitions for one call."""
    return to_json([transition.encode(retain_ms) for transition in transitions])
