"""What consumers receive: `{"type": ..., "timestamp": ..., "data": {...}}` [Standard Webhooks 1.0.0].

Instants are ISO 8601 in UTC, to the millisecond, by the state server's clock. Money is integers of millionths
(`cost_micros`) of `currency`. A field is always there; null says that there is nothing to say. Fields may be added,
so consumers ignore what they do not know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

ImageEventType = Literal["image.completed", "image.failed", "image.cancelled", "image.unknown"]
BatchEventType = Literal["batch.completed", "batch.stalled"]
BatchStop = Literal["max_cost", "max_failed"]
Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
JSON_SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"
EVENT_TYPES: Final[tuple[str, ...]] = (*get_args(ImageEventType), *get_args(BatchEventType))


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_serialization_defaults_required=True,  # a field is always there
    )


class ImageEntry(_Model):
    """One image: where it lies, and what it is."""

    index: int = Field(ge=0, description="place among the job's images, from 0")
    object_key: str | None = Field(None, description="in the object store; null if storage is off")
    url: str | None = Field(None, description="a link by the sender's setting, or the provider's URL")
    provider_url_expires_at: Instant | None = Field(
        None, description="set if `url` is the provider's: it stops working then"
    )
    media_type: str = Field(description="found in the bytes; image/* if they were not looked at")
    sha256: str | None = Field(None, description="of the bytes, hex")
    size_bytes: int | None = Field(None, ge=0)
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")


class ErrorEntry(_Model):
    """Why a job failed, or why its outcome is not known."""

    code: str = Field(description="a word for programs; more of them may come")
    message: str | None = Field(None, description="a sentence for people")


class Timings(_Model):
    """When what happened; null if it did not."""

    created_at: Instant = Field(description="the job was accepted")
    submitted_at: Instant | None = Field(None, description="the provider accepted it")
    generated_at: Instant | None = Field(None, description="the provider was done")
    stored_at: Instant | None = Field(None, description="the images were in the object store")
    finished_at: Instant | None = Field(None, description="the job ended")


class ImageData(_Model):
    """A job, as it was when the event happened."""

    job_id: str
    tenant: str
    batch: str | None = None
    state: str
    model: str
    mode: str | None = Field(None, description="what was asked for: text_to_image, edit, ...")
    n: int = Field(description="images asked for")
    partial: bool = Field(False, description="fewer images came than were asked for")
    images: tuple[ImageEntry, ...] = ()
    cost_micros: int = Field(0, ge=0, description="of the delivered images, in millionths of `currency`")
    cost_is_final: bool = Field(
        True,
        description="false while what the job began may still be billed: cancelled after its submit, or given up",
    )
    currency: str | None = Field(None, description="ISO 4217; null if no account has taken the job")
    error: ErrorEntry | None = Field(None, description="of image.failed and image.unknown")
    warnings: tuple[str, ...] = Field((), description="what the provider ignores of the request")
    generation_id: str | None = Field(None, description="the provider's")
    metadata: Any = Field(None, description="as the owner gave it")
    timings: Timings


class BatchData(_Model):
    """A batch, when its last job ended (completed), or when only unknown jobs were left (stalled)."""

    batch: str
    tenant: str
    total: int = Field(description="jobs")
    counts: dict[str, int] = Field(description="jobs by state")
    images: int = Field(0, description="delivered, over all jobs")
    cost_micros: int = Field(0, ge=0, description="over all jobs, in millionths of `currency`")
    currency: str | None = Field(None, description="null if there was no cost, or several currencies")
    max_cost_micros: int | None = Field(None, description="what the batch was allowed to cost")
    max_failed_percent: float | None = Field(None, description="how many of its jobs were allowed to fail")
    stopped: BatchStop | None = Field(
        None, description="which of the two stopped it: what was queued then is cancelled, free of charge"
    )
    created_at: Instant | None = None
    stopped_at: Instant | None = None
    completed_at: Instant | None = None


class ImageEvent(_Model):
    """image.completed, image.failed, image.cancelled or image.unknown."""

    type: ImageEventType
    timestamp: Instant = Field(description="of the event, the same in every try")
    data: ImageData


class BatchEvent(_Model):
    """batch.completed or batch.stalled."""

    type: BatchEventType
    timestamp: Instant = Field(description="of the event, the same in every try")
    data: BatchData


Event = ImageEvent | BatchEvent


_DESCRIPTIONS: Final = {
    "image.completed": "Every delivered image is stored.",
    "image.failed": "The job ended without a usable result; `error.code` says why.",
    "image.cancelled": "Its owner cancelled the job.",
    "image.unknown": "It is not known whether the provider accepted the job; another event follows once it is.",
    "batch.completed": "The batch is sealed and all its jobs have ended.",
    "batch.stalled": "All jobs of the batch have ended but those that are unknown.",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_body(event: Event) -> bytes:
    """Give the exact bytes to sign and send: compact JSON in UTF-8, the same for equal events."""
    return event.model_dump_json().encode()


def json_schema(event_type: str) -> dict[str, Any]:
    """Give the JSON schema of one event's body. Raises KeyError for a type that is not in EVENT_TYPES.

    It allows fields that it does not know, unlike our models: consumers must not refuse those of a later version.
    """
    if event_type not in EVENT_TYPES:
        raise KeyError(event_type)
    model = ImageEvent if event_type in get_args(ImageEventType) else BatchEvent
    schema = model.model_json_schema(mode="serialization")
    schema["properties"]["type"] = {"const": event_type}
    if model is ImageEvent:
        schema["$defs"]["ImageData"]["properties"]["state"] = {"const": event_type.removeprefix("image.")}
    for part in (schema, *schema["$defs"].values()):
        del part["title"], part["additionalProperties"]
        for field in part["properties"].values():
            field.pop("title", None)
            field.pop("default", None)
    return {"$schema": JSON_SCHEMA, "title": event_type, **schema, "description": _DESCRIPTIONS[event_type]}


def iso(at_ms: int | None) -> str | None:
    """Give unix milliseconds as ISO 8601 in UTC: `2026-01-31T23:59:59.250Z`."""
    if at_ms is None:
        return None
    at = _EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
