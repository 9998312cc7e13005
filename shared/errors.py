"""Every error a caller of Darkroom can meet.

    DarkroomError
    ├── ConfigurationError      settings are wrong or missing; says which and what to set
    ├── StateUnavailable        the state Redis cannot be used now (down, wrong password, evicting policy)
    ├── InvalidRequest          a request breaks rules of the model; carries one `Issue` per broken rule
    ├── UnknownPrice            the account has no price for the model: refused, never taken as zero
    ├── IdempotencyConflict     the key was used before for another request
    ├── BacklogFull             the backlog cap (tenant or total) is reached
    ├── CapReached              a cap that rejects has no room for the job's cost
    ├── BatchSealed             the batch takes no more jobs
    ├── BatchCapsConflict       the batch was begun with other caps
    ├── JobNotFound             no such job (or its retention is over)
    ├── RecordTooNew            the job's record was written by a later version
    ├── JobFailed               raised by a task's result: the job failed, with its code
    ├── BatchNotFound           no such batch
    ├── IllegalTransition       a state change that the lifecycle does not have; nothing was changed
    ├── TransitionRefused       an operator command does not apply to the job's present state
    └── StorageError            the object store cannot take or give an object
        └── StorageConflict     the key exists with other content

Messages are one sentence of what, and one of what to do. They never contain secrets or prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class DarkroomError(Exception):
    """Something in Darkroom went wrong.

    `receipt` says what an `enqueue_many` had acknowledged when this stopped it (a producers.BatchReceipt).
    """

    receipt: Any = None


class ConfigurationError(DarkroomError):
    """A setting is wrong or missing."""


class StateUnavailable(DarkroomError):
    """The state Redis cannot be used now."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One broken rule: which field, which rule, what the limit is, what was given (shortened, never a prompt)."""

    field: str
    rule: str
    message: str
    value: str = ""


class InvalidRequest(DarkroomError):
    """The request breaks rules of the model."""

    def __init__(self, issues: tuple[Issue, ...]) -> None:
        self.issues = issues
        super().__init__("; ".join(issue.message for issue in issues))


class UnknownPrice(DarkroomError):
    """The account has no price for the model."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"no price is known for model {model!r}. Set it in the account's price_micros.")


class IdempotencyConflict(DarkroomError):
    """The idempotency key was used before for another request."""

    def __init__(self, key: str, job_id: str) -> None:
        self.key, self.job_id = key, job_id
        super().__init__(
            f"idempotency_key {key!r} belongs to job {job_id}, which was enqueued with another request. "
            "Use a new key for a new request."
        )


class BacklogFull(DarkroomError):
    """The backlog cap is reached; nothing was enqueued."""

    def __init__(self, scope: str, limit: int) -> None:
        self.scope, self.limit = scope, limit
        super().__init__(
            f"backlog of {scope} is full: {limit} jobs are queued. Wait until it drains or raise the cap."
        )


class CapReached(DarkroomError):
    """A cap on spending has no room for the job; nothing was enqueued."""

    def __init__(self, tenant: str, caps: str) -> None:
        self.tenant = tenant
        super().__init__(
            f"tenant {tenant} has no room for this job under its cap ({caps}): what is spent, held and queued counts. "
            "Wait for the next period, cancel queued jobs or raise the cap."
        )


class BatchCapsConflict(DarkroomError):
    """The batch was begun with other caps."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        super().__init__(
            f"batch {batch!r} was begun with other caps. Give the same, or none, or use a new batch name."
        )


class BatchSealed(DarkroomError):
    """The batch takes no more jobs."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        super().__init__(f"batch {batch!r} is sealed and takes no more jobs. Use a new batch name.")


class JobNotFound(DarkroomError):
    """No such job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"no job {job_id}. Check the id; records are kept for a limited time after the end.")


class RecordTooNew(DarkroomError):
    """The job's record was written by a later version."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} was recorded by a later version of Darkroom. Upgrade this one.")


class JobFailed(DarkroomError):
    """The job failed; `code` is the record's."""

    def __init__(self, job_id: str, code: str, detail: str = "") -> None:
        self.job_id, self.code, self.detail = job_id, code, detail
        said = f": {detail}" if detail else ""
        super().__init__(f"job {job_id} failed ({code}){said}. See `darkroom status {job_id}`.")


class BatchNotFound(DarkroomError):
    """No such batch."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        super().__init__(f"no batch {batch!r}. Check the name and the tenant.")


class IllegalTransition(DarkroomError):
    """The lifecycle has no such state change."""


class TransitionRefused(DarkroomError):
    """The command does not apply to the job's present state."""


StorageTrouble = Literal["unavailable", "denied", "missing", "full", "conflict"]


class StorageError(DarkroomError):
    """The object store failed.

    `kind`: `unavailable` may pass by itself; `denied` and `full` need an operator; `missing` is the object, or what
    it would be put into (bucket, folder); `conflict` is the subclass. `key` is the object's, if it is about one.
    """

    def __init__(self, message: str, *, kind: StorageTrouble = "unavailable", key: str = "") -> None:
        self.kind, self.key = kind, key
        super().__init__(message)


class StorageConflict(StorageError):
    """The key exists with other content."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, kind="conflict", key=key)
