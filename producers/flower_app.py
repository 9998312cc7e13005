"""The Celery app that Flower looks through: `celery -A producers.flower_app flower`.

It knows the broker and the names of queues. Only with the door open does it know the state server, for the results.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from shared.broker import make_app
from shared.settings import load_settings

if TYPE_CHECKING:
    from celery import Celery


def __getattr__(name: str) -> Celery:
    """Make `app` when it is first asked for."""
    if name != "app":
        raise AttributeError(name)
    return _app()


@cache
def _app() -> Celery:
    settings = load_settings()
    if not settings.door.enabled:
        return make_app(settings)
    from producers.door import celery_app  # noqa: PLC0415 - connects to the state server's address

    app = celery_app(settings)
    app.set_default()  # Flower's API asks for results through Celery's default app, whatever `-A` says
    return app
