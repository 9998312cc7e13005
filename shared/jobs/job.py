"""The job record as producers read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import from_json

from shared.errors import RecordTooNew
from shared.jobs.lifecycle import TERMINAL, JobState
from shared.jobs.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Artifact:
    """One stored image, or with storage off the provider's URL."""

    index: int
    media_type: str
    object_key: str | None = None
    url: str | None = None
    expires_at: int | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of a job's history."""

    at_ms: int
    state: str
    note: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when read. Instants are unix ms of the state server; money is micros of `currency`.

    `paused_*` are of a pause of this very job; its batch, its tenant or its lane may be paused beside that.
    """

    id: str
    state: JobState
    tenant: str
    model: str
    n: int
    created_at: int
    epoch: int = 0
    batch: str | None = None
    lane: str | None = None
    currency: str = ""
    hold_micros: int = 0
    cost_micros: int = 0
    attempts: int = 0
    polls: int = 0
    partial: bool = False
    accounting_open: bool = False
    generation_id: str | None = None
    intent_id: str | None = None
    intent_at: int | None = None
    submitted_at: int | None = None
    generated_at: int | None = None
    stored_at: int | None = None
    finished_at: int | None = None
    not_before_at: int | None = None
    deadline_at: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    redriven_code: str | None = None  # the error code of its last end before a redrive
    unknown_cause: str | None = None
    paused_at: int | None = None
    paused_by: str | None = None
    paused_why: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metadata: Any = field(default=None, repr=False)
    webhook: str | None = field(default=None, repr=False)
    artifacts: tuple[Artifact, ...] = ()
    timeline: tuple[TimelineEntry, ...] = ()
    on_unknown: str = "hold"

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @classmethod
    def parse(
        cls,
        job_id: str,
        record: Mapping[bytes, bytes],
        spec: bytes | None,
        detail: Mapping[bytes, bytes],
        timeline: Sequence[bytes],
    ) -> Self:
        """Build from the four keys of a record as Redis gives them. Raises RecordTooNew."""
        if int(record.get(b"v", b"1")) > SCHEMA:
            raise RecordTooNew(job_id)
        given = from_json(spec) if spec else {}
        text, number = partial(_text, record), partial(_number, record)

        return cls(
            id=job_id,
            state=JobState(record[b"state"].decode()),
            tenant=record[b"tenant"].decode(),
            model=record[b"model"].decode(),
            n=int(record[b"n"]),
            created_at=int(record[b"created_at"]),
            epoch=number(b"epoch") or 0,  # a first claim writes it
            batch=text(b"batch"),
            lane=text(b"lane"),
            currency=text(b"currency") or "",
            hold_micros=number(b"hold") or 0,
            cost_micros=number(b"cost_micros") or 0,
            attempts=number(b"attempts") or 0,
            polls=number(b"polls") or 0,
            partial=record.get(b"partial") == b"1",
            accounting_open=record.get(b"accounting") == b"open",
            generation_id=text(b"generation_id"),
            intent_id=text(b"intent_id"),
            intent_at=number(b"intent_at"),
            submitted_at=number(b"submitted_at"),
            generated_at=number(b"generated_at"),
            stored_at=number(b"stored_at"),
            finished_at=number(b"finished_at"),
            not_before_at=number(b"not_before_at"),
            deadline_at=number(b"deadline_at"),
            error_code=text(b"error_code"),
            error_message=_text(detail, b"error_message"),
            redriven_code=text(b"redriven_code"),
            unknown_cause=text(b"unknown_cause"),
            paused_at=number(b"paused_at"),
            paused_by=text(b"paused_by"),
            paused_why=text(b"paused_why"),
            request=given.get("request", {}),
            metadata=given.get("metadata"),
            webhook=given.get("webhook"),
            artifacts=parse_artifacts(detail.get(b"artifacts")),
            timeline=tuple(_timeline_entry(line.decode()) for line in timeline),
            on_unknown=text(b"on_unknown") or "hold",
        )


def _text(record: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = record.get(name)
    return None if value is None else value.decode()


def _number(record: Mapping[bytes, bytes], name: bytes) -> int | None:
    value = record.get(name)
    return None if value is None else int(value)


def parse_artifacts(text: bytes | None) -> tuple[Artifact, ...]:
    """Read the artifacts of a record's detail."""
    return tuple(Artifact(**each) for each in from_json(text)) if text else ()


def _timeline_entry(line: str) -> TimelineEntry:
    at_ms, state, note = line.split("|", 2)
    return TimelineEntry(int(at_ms), state, note)
