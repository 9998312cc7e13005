"""The door for Celery-native producers, on real processes: a message becomes a job, its result is the record."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from producers.door import celery_app
from shared.broker import DOOR_QUEUE
from shared.errors import InvalidRequest, JobFailed
from shared.jobs.answers import job_id_of
from shared.jobs.lifecycle import JobState
from shared.results import backend_url
from shared.settings_surface import DoorSettings
from tests.e2e.conftest import House
from tests.servers import FlowerCommandProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shared.settings import Settings

pytestmark = pytest.mark.timeout(180)

WITHIN_S = 60
LOGIN = ("operator", "flower-password")
REQUEST = {"model": "wan2.7-image", "prompt": "a lighthouse", "size": "1K"}


def opened(settings: Settings) -> Settings:
    return settings.model_copy(update={"door": DoorSettings(enabled=True)})


def until(true: Callable[[], object], what: str) -> None:
    """Wait for what other processes do."""
    give_up_at = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < give_up_at, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A Darkroom whose worker has the door open."""
    with House(tmp_path_factory.mktemp("door")) as house:
        house.settings = opened(house.settings)
        house.worker()
        yield house


@pytest.fixture(scope="module")
def app(open_house: House) -> Celery:
    return celery_app(open_house.settings)


def test_a_task_is_a_job_and_its_result_is_the_record(open_house: House, app: Celery) -> None:
    """`send_task` and `get`, as any Celery producer writes it."""
    result = app.send_task("generate_image", kwargs=REQUEST | {"n": 2})
    got = result.get(timeout=WITHIN_S)
    job = open_house.darkroom.get(got["job_id"])
    assert job.id == job_id_of(result.id)
    assert (job.state, job.cost_micros) == (JobState.COMPLETED, 400_000)
    assert [image["object_key"] for image in got["images"]] == [f"default/{job.id}/{at}.png" for at in (0, 1)]
    assert (got["cost_micros"], got["currency"]) == (400_000, "CNY")
    assert result.status == "SUCCESS"


def test_an_app_that_knows_nothing_of_us_gets_there(open_house: House) -> None:
    """Three lines of configuration: the queue, its prefix in the broker, and the backend that asks the records."""
    settings = open_house.settings
    theirs = Celery("theirs", broker=settings.broker.url, backend=backend_url(settings.redis))
    theirs.conf.broker_transport_options = {"global_keyprefix": f"{settings.redis.namespace}.broker."}
    result = theirs.send_task("generate_image", kwargs=REQUEST, queue=DOOR_QUEUE)
    assert result.get(timeout=WITHIN_S)["state"] == "completed"


def test_a_failed_job_raises_with_its_code(app: Celery) -> None:
    """FAILURE, and the error has the record's code."""
    prompt = "a lighthouse [[fault:code:bad_response_status_code]]"
    result = app.send_task("generate_image", kwargs=REQUEST | {"prompt": prompt})
    with pytest.raises(JobFailed) as failed:
        result.get(timeout=WITHIN_S)
    assert failed.value.code == "refused:bad_response_status_code"
    assert result.status == "FAILURE"


@pytest.mark.parametrize(
    ("arguments", "given", "named"),
    [
        ((), REQUEST | {"model": "no-such-model"}, "model"),
        ((), {"model": "wan2.7-image"}, "prompt"),
        ((), REQUEST | {"colour": "red"}, "colour"),
        (("a lighthouse",), {}, "args"),
    ],
)
def test_invalid_arguments_are_a_failure_that_says_which(
    open_house: House, app: Celery, arguments: tuple[Any, ...], given: dict[str, Any], named: str
) -> None:
    """No job is made, nothing is sent to the provider, and who waits hears why."""
    posts = open_house.ledger()["submits_seen"]
    result = app.send_task("generate_image", args=arguments, kwargs=given)
    with pytest.raises(InvalidRequest, match=named):
        result.get(timeout=WITHIN_S)
    assert result.status == "FAILURE"
    assert open_house.darkroom.get_many([job_id_of(result.id)]) == [None]
    assert open_house.ledger()["submits_seen"] == posts


def test_a_message_that_comes_twice_makes_one_job(open_house: House, app: Celery) -> None:
    """A broker may deliver again: the job's id follows from the task's."""
    task_id = str(uuid.uuid4())
    given = REQUEST | {"prompt": "a lighthouse [[m:twice]]"}
    for _ in range(2):
        app.send_task("generate_image", kwargs=given, task_id=task_id)
    assert app.AsyncResult(task_id).get(timeout=WITHIN_S)["job_id"] == job_id_of(task_id)
    last = app.send_task("generate_image", kwargs=REQUEST)  # behind them in the queue
    last.get(timeout=WITHIN_S)
    groups = {group["marker"]: group["charged_images"] for group in open_house.ledger()["groups"]}
    assert groups["twice"] == 1


def test_revoke_cancels_the_job(open_house: House, app: Celery) -> None:
    """As Celery's own revoke, by the task's id."""
    given = REQUEST | {"prompt": "a lighthouse [[fault:never]]"}
    result = app.send_task("generate_image", kwargs=given)
    until(lambda: result.status == "STARTED", "submitted")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    assert open_house.darkroom.get(job_id_of(result.id)).state is JobState.CANCELLED


def test_flowers_api_makes_a_job_and_shows_it(open_house: House) -> None:
    """`/api/task/async-apply/generate_image`, then `/api/task/result` and the row."""
    login = ":".join(LOGIN)
    with (
        FlowerCommandProc(open_house.folder / "flower", open_house.settings, login=login) as flower,
        httpx.Client(base_url=flower.url, auth=LOGIN, trust_env=False, timeout=30) as http,
    ):
        until(lambda: any(http.get("/api/workers", params={"status": "1"}).json().values()), "the worker")
        answer = http.post("/api/task/async-apply/generate_image", json={"kwargs": REQUEST})
        assert answer.status_code == 200, answer.text
        task_id = answer.json()["task-id"]

        def result() -> dict[str, Any]:
            answer = http.get(f"/api/task/result/{task_id}")
            assert answer.status_code == 200, (answer.status_code, answer.text, flower.log()[-3000:])
            told: dict[str, Any] = answer.json()
            return told

        until(lambda: result().get("state") == "SUCCESS", "its result")
        assert f"default/{task_id}/0.png" in str(result()["result"])
        until(lambda: http.get("/api/tasks").json().get(task_id, {}).get("state") == "SUCCESS", "its row")
        assert "lighthouse" not in http.get("/api/tasks").text


def test_the_door_is_closed_by_default(house: House) -> None:
    """A message waits in a queue that nobody reads: no job, no charge."""
    assert not house.settings.door.enabled
    worker = house.worker()
    celery_app(house.settings).send_task("generate_image", kwargs=REQUEST)
    house.enqueue(1)
    house.until(lambda: house.counts() == {"completed": 1}, 60, "the other job")
    assert house.ledger()["charged_images"] == 1
    with house.broker.client() as client:
        assert client.llen(f"{house.settings.redis.namespace}.broker.{DOOR_QUEUE}") == 1
    assert DOOR_QUEUE not in worker.log()
