"""From records to what consumers receive: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from shared.jobs.lifecycle import JobState
from shared.jobs.request_facts import mode_of, warnings_of
from shared.webhooks.events import (
    BatchData,
    BatchEvent,
    ErrorEntry,
    ImageData,
    ImageEntry,
    ImageEvent,
    Timings,
    iso,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.jobs.job import Artifact, Job
    from shared.webhooks.events import BatchEventType, BatchStop, ImageEventType
    from workers.claims import Entry

_COUNT: Final = "n:"
# What a job has got since its outcome was unknown; a later event tells of it.
_NOT_KNOWN_THEN: Final[dict[str, Any]] = {
    "partial": False,
    "cost_micros": 0,
    "generation_id": None,
    "submitted_at": None,
    "generated_at": None,
    "stored_at": None,
    "finished_at": None,
}


def image_event(entry: Entry, job: Job, link: Callable[[str], str | None]) -> ImageEvent:
    """Tell of a job. Its state is the event's own: an unknown job may have gone on since."""
    kind = cast("ImageEventType", entry.fields["event"])
    state = JobState(kind.removeprefix("image."))
    ended_so = job.state is state
    if state is JobState.UNKNOWN and not ended_so:
        job = replace(job, **_NOT_KNOWN_THEN)
    return ImageEvent(
        type=kind,
        timestamp=iso(entry.number("created_at")) or "",
        data=ImageData(
            job_id=job.id,
            tenant=job.tenant,
            batch=job.batch,
            state=state,
            model=job.model,
            mode=mode_of(job.request),
            n=job.n,
            partial=job.partial,
            images=tuple(_image(artifact, link) for artifact in job.artifacts) if ended_so else (),
            cost_micros=job.cost_micros,
            cost_is_final=state is not JobState.UNKNOWN and job.ended and not job.accounting_open,
            currency=job.currency or None,
            error=_error(job, state),
            generation_id=job.generation_id,
            warnings=warnings_of(job.request),
            metadata=job.metadata,
            timings=_timings(job),
        ),
    )


def batch_event(entry: Entry, batch: Mapping[str, str]) -> BatchEvent:
    """Tell of a batch, by its hash of counts."""
    counts = {
        name.removeprefix(_COUNT): int(value) for name, value in batch.items() if name.startswith(_COUNT)
    }
    return BatchEvent(
        type=cast("BatchEventType", entry.fields["event"]),
        timestamp=iso(entry.number("created_at")) or "",
        data=BatchData(
            batch=entry.fields["batch"],
            tenant=entry.fields["tenant"],
            total=int(batch.get("total", 0)),
            counts={state: count for state, count in sorted(counts.items()) if count},
            images=int(batch.get("images", 0)),
            currency=batch.get("currency") or None,
            cost_micros=int(batch.get("cost_micros", 0)),
            max_cost_micros=_number_of(batch, "max_cost"),
            max_failed_percent=_percent(_number_of(batch, "max_failed_ppm")),
            stopped=cast("BatchStop | None", batch.get("stopped")),
            created_at=_iso_of(batch, "created_at"),
            stopped_at=_iso_of(batch, "stopped_at"),
            completed_at=_iso_of(batch, "completed_at"),
        ),
    )


def _image(artifact: Artifact, link: Callable[[str], str | None]) -> ImageEntry:
    url = artifact.url if artifact.object_key is None else link(artifact.object_key)
    return ImageEntry(
        index=artifact.index,
        object_key=artifact.object_key,
        url=url,
        provider_url_expires_at=iso(artifact.expires_at),
        media_type=artifact.media_type,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        width=artifact.width,
        height=artifact.height,
    )


def _error(job: Job, state: JobState) -> ErrorEntry | None:
    if state is JobState.UNKNOWN:
        return ErrorEntry(code="unknown_outcome", message=job.unknown_cause)
    if state is not JobState.FAILED:
        return None
    code = job.error_code if job.state is JobState.FAILED else job.redriven_code
    return ErrorEntry(code=code or "failed", message=job.error_message)


def _timings(job: Job) -> Timings:
    return Timings(
        created_at=iso(job.created_at) or "",
        submitted_at=iso(job.submitted_at),
        generated_at=iso(job.generated_at),
        stored_at=iso(job.stored_at),
        finished_at=iso(job.finished_at),
    )


def _number_of(record: Mapping[str, str], field: str) -> int | None:
    return int(record[field]) if field in record else None


def _percent(ppm: int | None) -> float | None:
    return None if ppm is None else ppm / 10_000


def _iso_of(record: Mapping[str, str], field: str) -> str | None:
    return iso(int(record[field])) if field in record else None
