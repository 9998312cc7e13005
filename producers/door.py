"""The door for Celery-native producers, from their side: a Celery app whose tasks' results are job records.

    app = celery_app()
    result = app.send_task("generate_image", kwargs={"model": "wan2.7-image", "prompt": "a lighthouse"})
    result.get(timeout=120)["images"][0]["object_key"]

The workers must have the door open (`door.enabled`). docs/celery-door.md says what it does not promise.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from celery import Celery

from shared.broker import DOOR_QUEUE, DOOR_TASK, make_app
from shared.jobs.enqueue import new_job_ids
from shared.results import backend_url
from shared.settings import load_settings
from shared.settings_surface import DoorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.result import AsyncResult

    from shared.settings import Settings

_UNTIMED: Final = ("eta", "countdown", "expires")


def celery_app(settings: Settings | None = None) -> Celery:
    """Make an app that reaches the door, and reads results from the records. Raises ConfigurationError.

    Its task `generate_image` gives each job's id to the task, so that Flower shows both as one. It takes no eta,
    countdown or expires: say `not_before` or `deadline` instead, which wait in the state server.
    """
    settings = settings or load_settings()
    app = make_app(settings.model_copy(update={"door": DoorSettings(enabled=True)}), _DoorApp)
    app.backend_cls = backend_url(settings.redis)
    _register(app)
    return app


_SENDING: Final = signature(Celery.send_task)


class _DoorApp(Celery):
    """Every way of sending ends in `send_task`: by name, by the task, by a signature."""

    def send_task(self, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        said = _SENDING.bind(self, *arguments, **options).arguments
        _refuse_to_wait(said["name"], said)
        result: AsyncResult[Any] = super().send_task(*arguments, **options)
        return result


def _refuse_to_wait(task: str, timed: Mapping[str, Any]) -> None:
    if task == DOOR_TASK and (given := [name for name in _UNTIMED if timed.get(name) is not None]):
        raise ValueError(f"{given[0]} would wait in a worker's memory; use not_before or deadline")


def _register(app: Celery) -> None:
    base: Any = app.Task

    class GenerateImage(base):  # type: ignore[misc]  # an app makes its base class when asked for it
        """What `apply_async` and Flower find under the name; it runs in workers only."""

        name = DOOR_TASK
        ignore_result = False
        typing = False

        def apply_async(
            self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
        ) -> AsyncResult[Any]:
            _refuse_to_wait(DOOR_TASK, options)
            return app.send_task(
                DOOR_TASK, args, kwargs, task_id=task_id or next(new_job_ids(1)), queue=DOOR_QUEUE
            )

        def run(self, *_args: Any, **_kwargs: Any) -> None:
            raise NotImplementedError("generate_image runs in Darkroom's workers only; use apply_async")

    app.register_task(GenerateImage())
