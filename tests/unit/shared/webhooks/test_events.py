"""The bodies that consumers parse."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from shared.webhooks.events import (
    EVENT_TYPES,
    BatchData,
    BatchEvent,
    ErrorEntry,
    ImageData,
    ImageEntry,
    ImageEvent,
    ImageEventType,
    Timings,
    iso,
    json_schema,
    to_body,
)

AT = "2026-01-31T23:59:59.250Z"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def image_event(type_: ImageEventType = "image.completed", **data: Any) -> ImageEvent:
    given: dict[str, Any] = {
        "job_id": "job_1",
        "tenant": "acme",
        "state": type_.removeprefix("image."),
        "model": "wan2.7-image",
        "n": 1,
        "timings": Timings(created_at=AT),
    }
    return ImageEvent(type=type_, timestamp=AT, data=ImageData(**(given | data)))


def batch_event() -> BatchEvent:
    data = BatchData(batch="parti", tenant="acme", total=3, counts={"completed": 2, "failed": 1}, images=2)
    return BatchEvent(type="batch.completed", timestamp=AT, data=data)


def test_a_completed_image_says_everything() -> None:
    """Every field of the contract is there under its name, in the standard's envelope."""
    image = ImageEntry(
        index=0, object_key="acme/job_1/0.png", url="https://cdn.example/0.png", media_type="image/png",
        sha256="ab" * 32, size_bytes=10, width=64, height=32,
    )  # fmt: skip
    event = image_event(
        batch="parti", mode="text_to_image", n=2, partial=True, images=(image,), cost_micros=200_000,
        currency="CNY", warnings=("thinking_mode: ignored",), metadata={"order": 7}, generation_id="gen-1",
    )  # fmt: skip
    assert json.loads(to_body(event)) == {
        "type": "image.completed",
        "timestamp": AT,
        "data": {
            "job_id": "job_1",
            "tenant": "acme",
            "batch": "parti",
            "state": "completed",
            "model": "wan2.7-image",
            "mode": "text_to_image",
            "n": 2,
            "partial": True,
            "images": [
                {
                    "index": 0,
                    "object_key": "acme/job_1/0.png",
                    "url": "https://cdn.example/0.png",
                    "provider_url_expires_at": None,
                    "media_type": "image/png",
                    "sha256": "ab" * 32,
                    "size_bytes": 10,
                    "width": 64,
                    "height": 32,
                }
            ],
            "cost_micros": 200_000,
            "cost_is_final": True,
            "currency": "CNY",
            "error": None,
            "warnings": ["thinking_mode: ignored"],
            "generation_id": "gen-1",
            "metadata": {"order": 7},
            "timings": {
                "created_at": AT,
                "submitted_at": None,
                "generated_at": None,
                "stored_at": None,
                "finished_at": None,
            },
        },
    }


def test_a_failed_image_says_why() -> None:
    """Code and message come along, and no image."""
    event = image_event("image.failed", error=ErrorEntry(code="refused", message="inappropriate content"))
    data = json.loads(to_body(event))["data"]
    assert data["error"] == {"code": "refused", "message": "inappropriate content"}
    assert data["images"] == []


def test_a_batch_says_how_its_jobs_ended() -> None:
    """Counts by state and the totals come along."""
    assert json.loads(to_body(batch_event())) == {
        "type": "batch.completed",
        "timestamp": AT,
        "data": {
            "batch": "parti",
            "tenant": "acme",
            "total": 3,
            "counts": {"completed": 2, "failed": 1},
            "images": 2,
            "cost_micros": 0,
            "currency": None,
            "max_cost_micros": None,
            "max_failed_percent": None,
            "stopped": None,
            "created_at": None,
            "stopped_at": None,
            "completed_at": None,
        },
    }


@given(JSON)
def test_metadata_comes_back_untouched(metadata: Any) -> None:
    """Whatever JSON the owner attached is what the consumer reads, key order included."""
    back = json.loads(to_body(image_event(metadata=metadata)))["data"]["metadata"]
    assert json.dumps(back) == json.dumps(metadata)


@given(JSON)
def test_equal_events_have_equal_bytes(metadata: Any) -> None:
    """A retry must sign what the first try signed."""
    assert to_body(image_event(metadata=metadata)) == to_body(image_event(metadata=metadata))


def test_the_largest_typical_body_stays_below_20_kb() -> None:
    """Twelve images with presigned links and 4 KiB of metadata stay within what the standard advises."""
    link = "https://bucket.s3.example/acme/" + "x" * 900
    images = tuple(
        ImageEntry(
            index=at, object_key=f"acme/job_1/{at}.png", url=link, media_type="image/png", sha256="a" * 64
        )
        for at in range(12)
    )
    body = to_body(image_event(n=12, images=images, metadata={"note": "m" * 4000}))
    assert len(body) < 20_000


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_each_event_has_a_schema_of_its_own(event_type: str) -> None:
    """A schema fixes the type and names the fields of its data."""
    schema = json_schema(event_type)
    kind = "Image" if event_type in get_args(ImageEventType) else "Batch"
    assert schema["properties"]["type"] == {"const": event_type}
    assert schema["properties"]["data"] == {"$ref": f"#/$defs/{kind}Data"}
    for part in (schema, *schema["$defs"].values()):
        assert set(part["required"]) == set(part["properties"]), "a field is always there"
        assert part.get("additionalProperties", True) is True, "fields may be added"


@pytest.mark.parametrize(
    "image",
    [
        ImageEntry(index=0, media_type="image/*", url="https://p.example/0", provider_url_expires_at=AT),
        ImageEntry(index=0, media_type="image/png", object_key="a/j/0.png", sha256="ab" * 32, size_bytes=1),
    ],
    ids=["storage off", "stored"],
)
@pytest.mark.parametrize("metadata", [None, 7, "text", [1, None], {"a": {"b": []}}])
def test_what_the_models_write_keeps_the_schema(image: ImageEntry, metadata: Any) -> None:
    """With and without storage, whatever the metadata."""
    event = image_event(images=(image,), metadata=metadata)
    Draft202012Validator(json_schema("image.completed")).validate(json.loads(to_body(event)))


def test_an_unknown_event_has_no_schema() -> None:
    """A typing error does not give some schema."""
    with pytest.raises(KeyError):
        json_schema("image.exploded")


def test_a_field_that_is_not_of_the_contract_is_an_error() -> None:
    """A typing error in a mapping must not vanish."""
    with pytest.raises(ValidationError):
        image_event(cost=1)


@given(st.integers(0, 4_000_000_000_000))
def test_instants_are_utc_to_the_millisecond(at_ms: int) -> None:
    """No millisecond is lost to floating point, and the zone is said."""
    text = iso(at_ms)
    assert text is not None
    parsed = datetime.fromisoformat(text)
    assert text.endswith("Z")
    assert (parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 == pytest.approx(
        at_ms, abs=0.01
    )


def test_no_instant_is_null() -> None:
    """What did not happen has no time."""
    assert iso(None) is None
    assert iso(1769903999250) == AT
