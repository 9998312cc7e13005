"""What a redrive does to a job that failed: judged from its record, as a plan for `redrive_jobs.lua`. Pure.

1. Paid, and the provider said where the images are: they are copied again (`copy`). Never a new POST.
2. Nothing was paid and nothing can be: a new attempt of the same job, from the queue (`submit`).
3. It was paid, or may have been, and there is nothing to copy: only with an explicit word (`pay_again`).
4. Anything else is refused, each with what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from shared.jobs.commands import INTENT_FIELDS, TELL
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Change

if TYPE_CHECKING:
    from collections.abc import Mapping

# The record as the verdict needs it; GUARDED must still be so when the plan is applied.
GUARDED: Final = (
    "state", "error_code", "finished_at", "generation_id", "accounting", "hold", "settled", "cost_micros", "redrives",
)  # fmt: skip
REDRIVE_FIELDS: Final = (
    *GUARDED, "model", "delivered", "intent_at", "deadline_at", "est", "currency", "est_currency", "possible_double_charge",
)  # fmt: skip
# What belongs to the attempt that failed; `posts`, `resubmits` and the cost of what was paid stay.
_OF_THE_ATTEMPT: Final = (
    *INTENT_FIELDS, "lane", "hold", "held_day", "settled", "generation_id", "claimed_generation_id", "submitted_at",
    "generated_at", "stored_at", "delivered", "partial", "attempts", "requeues", "polls", "empty_polls", "tries",
    "unknown_cause", "flag",
)  # fmt: skip
_OF_THE_END: Final = ("error_code", "finished_at")
_IN_DOUBT: Final = frozenset({"released", "unknown_outcome", "lost"})

Way = Literal["submit", "copy"]
Refusal = Literal["not_failed", "unknown", "open", "in_flight", "pay_again"]

SAID: Final[Mapping[str, str]] = {
    "submit": "submit again",
    "copy": "copy again, no new POST",
    "not_failed": "only a failed job can be redriven",
    "unknown": "its outcome is unknown: use `darkroom unknown resolve`, `resubmit` or `release`",
    "open": "its bill is still open: wait, or use `darkroom unknown resolve` or `release`",
    "in_flight": "its POST may still be in flight: try again in a few minutes",
    "pay_again": "it was or may have been paid: add --pay-again to pay for it again",
    # what the state server says
    "changed": "it changed meanwhile",
    "missing": "no such job",
    "tenant_backlog": "the backlog of its tenant is full",
    "backlog": "the backlog is full",
    "batch_stopped": "its batch was stopped by a cap of its own",
    "over_cap": "its tenant has no room for it under its cap",
    "batch_gone": "the record of its batch is gone",
    "newer": "a later version of Darkroom wrote it: use that",
}
RESULTS: Final[Mapping[int, str]] = {
    0: "changed", -1: "missing", 3: "tenant_backlog", 4: "backlog", 5: "batch_stopped", 6: "over_cap", 7: "batch_gone",
    8: "newer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a redrive would do. `again_micros`: what may be paid a second time, 0 if nothing was paid before."""

    way: Way | None
    refusal: Refusal | None = None
    pays_again: bool = False
    again_micros: int = 0

    @property
    def word(self) -> str:
        return self.way or self.refusal or ""


def judge(
    record: Mapping[str, str], *, now_ms: int, resubmit_wait_ms: int, pay_again: bool = False
) -> Verdict:
    """Say what a redrive would do to a job with this record (REDRIVE_FIELDS)."""
    state = JobState(record["state"])
    if state is JobState.UNKNOWN:
        return Verdict(None, "unknown")
    if state is not JobState.FAILED:
        return Verdict(None, "not_failed")
    if record.get("accounting") == "open" or _number(record, "hold"):
        return Verdict(None, "open")
    if record.get("settled") == "1" and record.get("generation_id") and _may_be_copied(record):
        return Verdict("copy")
    if not _was_paid(record):
        return Verdict("submit")
    again = _number(record, "est")
    if now_ms < _number(record, "intent_at") + resubmit_wait_ms:
        return Verdict(None, "in_flight", pays_again=True, again_micros=again)
    if not pay_again:
        return Verdict(None, "pay_again", pays_again=True, again_micros=again)
    return Verdict("submit", pays_again=True, again_micros=again)


def _may_be_copied(record: Mapping[str, str]) -> bool:
    return record.get("error_code") == "copy_failed" or _number(record, "delivered") > 0


def _was_paid(record: Mapping[str, str]) -> bool:
    """Say whether money went, or may have gone, for this job; the doubt of an earlier submit counts."""
    paid = _number(record, "cost_micros") > 0 or record.get("settled") == "1"
    return paid or record.get("error_code") in _IN_DOUBT or _number(record, "possible_double_charge") > 0


def plan_redrive(
    job_id: str, record: Mapping[str, str], verdict: Verdict, *, by: str, now_ms: int, retain_ms: int
) -> dict[str, Any]:
    """Give the plan in the script's shape, for a verdict with a way."""
    change = _copy_again(record, by) if verdict.way == "copy" else _submit_again(record, verdict, by, now_ms)
    plan: dict[str, Any] = {
        "id": job_id,
        "was": {name: record.get(name, "") for name in GUARDED},
        "v": [change.encode(retain_ms)],
    }
    return plan | ({"again": verdict.again_micros} if verdict.pays_again else {})


def _marks(record: Mapping[str, str]) -> dict[str, str | int]:
    """Give what tells of the redrive: for Flower, and for an event of the old end that is still to be delivered."""
    return {"redriven": 1, "redriven_code": record.get("error_code", "")}


def _copy_again(record: Mapping[str, str], by: str) -> Change:
    return Change(
        before=JobState.FAILED,
        after=JobState.STORING,
        redrive=True,
        fields=_marks(record),
        bump={"redrives": 1, "epoch": 1},
        clear=(*_OF_THE_END, "tries", "stored_at"),
        forget=("error_message",),
        due_in=(("store", 0),),
        note=f"redriven by {by}: copied again",
    )


def _submit_again(record: Mapping[str, str], verdict: Verdict, by: str, now_ms: int) -> Change:
    """Begin anew. A deadline that has passed is dropped, or it would end the job at once."""
    deadline_at = _number(record, "deadline_at")
    stands = deadline_at > now_ms
    paid = "a second charge is possible" if verdict.pays_again else "free so far"
    return Change(
        before=JobState.FAILED,
        after=JobState.QUEUED,
        redrive=True,
        fields=_marks(record) | ({"possible_double_charge": 1} if verdict.pays_again else {}),
        bump={"redrives": 1, "epoch": 1},
        clear=(
            *_OF_THE_END, *(name for name in _OF_THE_ATTEMPT if name != "redriven"),
            *(() if stands else ("deadline_at",)),
        ),
        forget=("error_message", "urls", "artifacts", "provider_cost"),
        leave=(*(f"{name}:{record['lane']}" for name in ("submit", "poll") if record.get("lane")), "unknown"),
        due_in=TELL,
        due_at=(("expiring", deadline_at),) if stands else (),
        queue=True,
        note=f"redriven by {by}: submitted again, {paid}",
    )  # fmt: skip


def _number(record: Mapping[str, str], name: str) -> int:
    return int(record.get(name) or 0)
