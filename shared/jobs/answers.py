"""The door for Celery-native producers, as both sides see it: which job a task is, and what became of one that is none.

A task's job has an id that follows from the task's id alone, so that a message delivered twice makes one job and
`AsyncResult(task_id)` finds the record without a table. Only what makes no job of its own leaves an answer: a refused
request, or one whose idempotency key belongs to an earlier job. Pure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

from shared.errors import (
    BacklogFull,
    BatchSealed,
    DarkroomError,
    IdempotencyConflict,
    InvalidRequest,
    Issue,
    StorageError,
    UnknownPrice,
)

_JOB_ID: Final = re.compile(r"job_[A-Za-z0-9]{1,60}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
# Those whose constructor takes what its attributes are.
_REFUSALS: Final[dict[str, type[DarkroomError]]] = {
    each.__name__: each for each in (UnknownPrice, IdempotencyConflict, BacklogFull, BatchSealed)
}


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The task's idempotency key belongs to another job, which was enqueued with the same request."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no job, for the reason that an enqueue would have raised."""

    error: DarkroomError


Answer = Duplicate | Refused


def job_id_of(task_id: str) -> str:
    """Give the id of a task's job: the same if it could be a job's, else one made of it (a UUID stays readable)."""
    if _JOB_ID.fullmatch(task_id):
        return task_id
    if _UUID.fullmatch(task_id):
        return "job_" + task_id.replace("-", "")
    return "job_" + hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()[:32]


def answer_json(answer: Answer) -> bytes:
    """Write an answer. Of an error its kind and facts, which never hold a prompt or a secret."""
    match answer:
        case Duplicate():
            return to_json({"job": answer.job_id})
        case Refused(InvalidRequest() as error):
            return to_json({"refused": "InvalidRequest", "issues": error.issues})
        case Refused(StorageError() as error):
            return to_json({"refused": "StorageError", "message": str(error), "kind": error.kind})
        case Refused(error):
            facts = vars(error) if type(error).__name__ in _REFUSALS else {}
            if isinstance(error, IdempotencyConflict):
                facts = facts | {"key": "of this task"}  # keys are nowhere in Redis but as digests
            return to_json({"refused": type(error).__name__, "message": str(error), "facts": facts})


def read_answer(text: bytes) -> Answer:
    """Read what `answer_json` wrote."""
    told: dict[str, Any] = from_json(text)
    match told:
        case {"job": str(job_id)}:
            return Duplicate(job_id)
        case {"refused": "InvalidRequest", "issues": list(issues)}:
            return Refused(InvalidRequest(tuple(Issue(**issue) for issue in issues)))
        case {"refused": "StorageError", "message": str(message), "kind": kind}:
            return Refused(StorageError(message, kind=kind))
        case {"refused": str(kind), "facts": dict(facts)} if kind in _REFUSALS:
            return Refused(_REFUSALS[kind](**facts))
        case _:
            return Refused(DarkroomError(str(told.get("message", "refused"))))
