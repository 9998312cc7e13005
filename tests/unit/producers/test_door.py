"""The door's app from the producers' side. No broker runs here: what is refused is refused before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError

from producers.door import celery_app
from shared.settings import BrokerSettings, RedisSettings, Settings

if TYPE_CHECKING:
    from celery import Celery

NOWHERE = "redis://127.0.0.1:1/0"
REQUEST = {"model": "wan2.7-image", "prompt": "a lighthouse"}


@pytest.fixture(scope="module")
def app() -> Celery:
    return celery_app(Settings(redis=RedisSettings(url=NOWHERE), broker=BrokerSettings(url=NOWHERE)))


@pytest.mark.parametrize("option", ["eta", "countdown", "expires"])
def test_what_would_wait_in_a_workers_memory_is_refused_however_it_is_sent(app: Celery, option: str) -> None:
    """By name, by the task, and by a signature: such a message would be lost with its worker."""
    timed: dict[str, Any] = {option: 5}
    signature: Any = app.signature
    for send in (
        lambda: app.send_task("generate_image", kwargs=REQUEST, **timed),
        lambda: app.tasks["generate_image"].apply_async(kwargs=REQUEST, **timed),
        lambda: signature("generate_image", kwargs=REQUEST, **timed).apply_async(),
    ):
        with pytest.raises(ValueError, match=f"{option} would wait .* use not_before or deadline"):
            send()


def test_what_is_sent_at_once_goes_to_the_broker(app: Celery) -> None:
    """It is asked for, and is not there."""
    with pytest.raises(OperationalError):
        app.send_task("generate_image", kwargs=REQUEST)
