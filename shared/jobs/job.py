"""The job record as producers read it."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """A job as it was when read. Instants are unix ms of the state server; money is micros of `currency`."""

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
    unknown_cause: str | None = None
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
        text = {name.decode(): value.decode() for name, value in record.items()}
        more = {name.decode(): value.decode() for name, value in detail.items()}
        given = from_json(spec) if spec else {}

        if int(text.get("v", "1")) > SCHEMA:
            raise RecordTooNew(job_id)

        def number(name: str) -> int | None:
            return int(text[name]) if name in text else None

        return cls(
            id=job_id,
            state=JobState(text["state"]),
            tenant=text["tenant"],
            model=text["model"],
            n=int(text["n"]),
            created_at=int(text["created_at"]),
            epoch=int(text.get("epoch", "0")),  # a first claim writes it
            batch=text.get("batch"),
            lane=text.get("lane"),
            currency=text.get("currency", ""),
            hold_micros=number("hold") or 0,
            cost_micros=number("cost_micros") or 0,
            attempts=number("attempts") or 0,
            polls=number("polls") or 0,
            partial=text.get("partial") == "1",
            accounting_open=text.get("accounting") == "open",
            generation_id=text.get("generation_id"),
            intent_id=text.get("intent_id"),
            intent_at=number("intent_at"),
            submitted_at=number("submitted_at"),
            generated_at=number("generated_at"),
            stored_at=number("stored_at"),
            finished_at=number("finished_at"),
            not_before_at=number("not_before_at"),
            deadline_at=number("deadline_at"),
            error_code=text.get("error_code"),
            error_message=more.get("error_message"),
            unknown_cause=text.get("unknown_cause"),
            request=given.get("request", {}),
            metadata=given.get("metadata"),
            webhook=given.get("webhook"),
            artifacts=parse_artifacts(more.get("artifacts")),
            timeline=tuple(_timeline_entry(line.decode()) for line in timeline),
            on_unknown=text.get("on_unknown", "hold"),
        )


def parse_artifacts(text: str | None) -> tuple[Artifact, ...]:
    """Read the artifacts of a record's detail."""
    return tuple(Artifact(**each) for each in from_json(text)) if text else ()


def _timeline_entry(line: str) -> TimelineEntry:
    at_ms, state, note = line.split("|", 2)
    return TimelineEntry(int(at_ms), state, note)
