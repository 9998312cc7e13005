"""Job events: what Flower's state makes of them, and that nothing else gets out. The wire is tested in integration."""

from __future__ import annotations

from typing import Any

import pytest
from celery.events.state import State

from shared.broker import make_app
from shared.settings import Settings
from shared.settings_surface import FlowerSettings
from workers.flower import JobEvent, JobEvents, NoEvents, event_fields, job_events

JOB = "job_0123456789abcdefghijklmnop"
CANARIES = (
    "a cat, oil on canvas",
    "https://cdn.example/x.png?sig=1",
    "data:image/png;base64,AAAA",
    "Bearer x y",
)


def events(max_per_s: int = 2000) -> JobEvents:
    return JobEvents(make_app(Settings()), "celery@here", max_per_s=max_per_s)


def seen_by_flower(*told: tuple[str, dict[str, Any]]) -> Any:
    """Give the task that Celery's event state (Flower's too) makes of a job's events."""
    state: Any = State()
    for at, (kind, fields) in enumerate(told):
        state.event(
            event_fields(JobEvent(kind, JOB, 1000.0 + at, fields))
            | {"type": f"task-{kind}", "hostname": "celery@here", "clock": at, "local_received": 1000.0 + at}
        )
    return state.tasks[JOB]


@pytest.mark.parametrize(
    ("end", "fields", "shown"),
    [
        ("succeeded", {"images": 4, "cost_micros": 800_000, "currency": "CNY"}, "SUCCESS"),
        ("failed", {"code": "refused"}, "FAILURE"),
        ("revoked", {}, "REVOKED"),
    ],
)
def test_a_life_ends_as_flower_shows_it(end: str, fields: dict[str, Any], shown: str) -> None:
    """received, started twice (stages), then its end."""
    started = {"model": "wan2.7-image", "size": "2K", "stage": "submitting"}
    task = seen_by_flower(
        ("received", {}), ("started", started), ("started", started | {"stage": "storing"}), (end, fields)
    )
    assert task.state == shown
    assert task.name == "generate_image"
    assert task.args == f"('{JOB}',)"


def test_the_row_shows_id_model_size_and_stage_to_its_end() -> None:
    """An end without these fields must not wipe them from the row."""
    started = {"model": "wan2.7-image", "size": "1024*1024", "n": 2, "stage": "generating"}
    task = seen_by_flower(("started", started), ("succeeded", {"images": 2}))
    assert task.kwargs == repr(
        {"id": JOB, "model": "wan2.7-image", "size": "1024*1024", "n": "2", "stage": "generating"}
    )


def test_a_success_says_images_and_cost_without_rounding() -> None:
    """Money is integers; the text is exact."""
    fields = {"images": 3, "cost_micros": 1_500_001, "currency": "CNY", "runtime_ms": 12_500}
    task = seen_by_flower(("succeeded", fields))
    assert task.result == "3 images, 1.500001 CNY"
    assert task.runtime == 12.5
    assert seen_by_flower(("succeeded", {"images": 1})).result == "1 images"


def test_a_redriven_job_leaves_its_failure_behind() -> None:
    """FAILURE outranks STARTED in Celery's state: only retried lets the row go on."""
    told = [("failed", {"code": "copy_failed"}), ("retried", {"code": "redrive"}), ("started", {})]
    assert seen_by_flower(*told[:2]).state == "RETRY"
    assert seen_by_flower(*told, ("succeeded", {"images": 1})).state == "SUCCESS"


def test_a_job_back_in_its_queue_shows_why_until_it_is_claimed_again() -> None:
    """RETRY with reason and stage; a new claim replaces it."""
    told: list[tuple[str, dict[str, Any]]] = [
        ("started", {"model": "m", "stage": "submitting"}),
        ("retried", {"code": "throttled", "model": "m", "stage": "queued"}),
    ]
    task = seen_by_flower(*told)
    assert (task.state, task.exception) == ("RETRY", "throttled")
    assert task.kwargs == repr({"id": JOB, "model": "m", "stage": "queued"})
    assert seen_by_flower(*told, ("received", {"model": "m"})).state == "RECEIVED"


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("field", ["model", "size", "stage", "code", "currency", "prompt", "url"])
def test_prose_and_urls_do_not_get_out_by_any_field(field: str, canary: str) -> None:
    """Whoever passes a prompt by mistake passes it into the void."""
    for kind in ("received", "started", "succeeded", "failed", "retried", "revoked"):
        fields: dict[str, str | int] = {"images": 1, "cost_micros": 1, field: canary}
        assert canary not in str(event_fields(JobEvent(kind, JOB, 1.0, fields)))
    assert canary not in str(event_fields(JobEvent("received", canary, 1.0, {})))


def test_what_does_not_fit_the_buffer_is_dropped_and_counted() -> None:
    """Nothing is sent here: the broker might as well be away."""
    buffering = events(max_per_s=100)
    for _ in range(500):
        buffering.emit("started", JOB, stage="submitting")
    assert buffering.dropped == 425
    for _ in range(100):
        buffering.emit("succeeded", JOB, images=1)
    assert buffering.dropped == 425 + 75


def test_ends_still_fit_when_beginnings_do_not() -> None:
    """A row that never ends misleads for longer than one that never began."""
    buffering = events(max_per_s=100)
    for _ in range(100):
        buffering.emit("received", JOB)
    dropped = buffering.dropped
    buffering.emit("failed", JOB, code="refused")
    assert dropped == 25
    assert buffering.dropped == dropped


def test_a_kind_that_celery_does_not_know_is_not_sent() -> None:
    """A custom state would outrank REVOKED in Flower for ever."""
    buffering = events()
    buffering.emit("generating", JOB)
    assert buffering.dropped == 1
    assert not buffering._buffer


def test_each_flush_sends_no_more_than_its_share_of_the_rate() -> None:
    """A burst is spread over the flushes that follow."""
    sent: list[str] = []

    class Dispatcher:
        def send(self, kind: str, **_fields: Any) -> None:
            sent.append(kind)

        def flush(self) -> None: ...

    buffering = events(max_per_s=100)
    buffering._dispatcher = Dispatcher()  # type: ignore[assignment]  # only these two methods are used
    for _ in range(50):
        buffering.emit("received", JOB)
    assert buffering.flush()
    assert len(sent) == 20
    buffering.flush()
    buffering.flush()
    assert len(sent) == buffering.sent == 50
    assert buffering.flush()


def test_switched_off_there_is_nothing() -> None:
    """The setting gives an object that does nothing, so that callers need not ask."""
    app = make_app(Settings())
    off = job_events(app, FlowerSettings(events=False), "celery@here")
    assert isinstance(off, NoEvents)
    off.start()
    off.emit("received", JOB, model="m")
    off.close()
    assert isinstance(job_events(app, FlowerSettings(), "celery@here"), JobEvents)
