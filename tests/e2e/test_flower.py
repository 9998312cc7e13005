"""What Flower shows of real jobs, through its HTTP API: a row per job, and nothing else."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.jobs.lifecycle import JobState
from tests.e2e.conftest import API_KEY, House
from tests.process import HOST, free_ports
from tests.servers import FlowerProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import WorkerProc

pytestmark = pytest.mark.timeout(120)

OPERATOR = ("operator", "flower-password")
PROMPT = "heron-canary in the reeds"
HOOK_TOKEN = "hook-token-canary"


def until(true: Callable[[], object], what: str, within_s: float = 30) -> None:
    """Wait for what other processes do."""
    give_up_at = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_at, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)


@dataclass
class Flower:
    """A running Flower as an operator's script sees it."""

    http: httpx.Client

    def get(self, path: str, **query: str) -> Any:
        answer = self.http.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def rows(self) -> dict[str, dict[str, Any]]:
        """Give all rows by their task id."""
        rows: dict[str, dict[str, Any]] = self.get("/api/tasks")
        return rows

    def row(self, job_id: str) -> dict[str, Any]:
        return self.rows().get(job_id, {})

    def row_in(self, job_id: str, state: str, stage: str = "") -> dict[str, Any]:
        """Wait until a job's row is in a state (and names the stage), and give it."""

        def there() -> bool:
            row = self.row(job_id)
            return row.get("state") == state and f"'{stage}'" in f"{row.get('kwargs')} ''"

        until(there, f"{job_id} shown as {state} {stage}")
        return self.row(job_id)

    def workers(self) -> dict[str, bool]:
        """Give the workers Flower knows, with whether they are online."""
        status: dict[str, bool] = self.get("/api/workers", status="1")
        return status


@dataclass
class Watched:
    """A Darkroom with one worker, and Flower attached before the first job."""

    house: House
    worker: WorkerProc
    flower: Flower

    def enqueue(self, prompt: str = "", **more: Any) -> str:
        options = {
            name: more.pop(name)
            for name in ("webhook", "on_unknown", "not_before", "deadline")
            if name in more
        }
        request = {"model": "wan2.7-image", "prompt": f"{PROMPT} {prompt}", "size": "1K", **more}
        return self.house.darkroom.enqueue(request, **options).job_id

    def state(self, job_id: str) -> JobState:
        return self.house.darkroom.get(job_id).state

    @property
    def hook(self) -> str:
        return f"{self.house.sink.url}/ok?token={HOOK_TOKEN}"


@contextmanager
def attached(house: House, name: str = "flower") -> Iterator[Flower]:
    """Start a Flower on the stack's broker. Its password comes by the environment: `ps` shows arguments."""
    env = {"FLOWER_BASIC_AUTH": ":".join(OPERATOR)}
    with (
        FlowerProc(house.folder / name, house.settings, name=name, env=env) as proc,
        httpx.Client(base_url=proc.url, auth=OPERATOR, trust_env=False, timeout=30) as http,
    ):
        yield Flower(http)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One stack for all tests here: each looks at its own jobs."""
    with House(tmp_path_factory.mktemp("watched")) as house, attached(house) as flower:
        worker = house.worker()
        until(lambda: any(flower.workers().values()), "the worker online in Flower")
        yield Watched(house, worker, flower)


def shown_worker(watched: Watched) -> str:
    (name,) = (name for name, online in watched.flower.workers().items() if online)
    return name


def test_a_completed_job_is_one_success_with_images_and_cost(watched: Watched) -> None:
    """SUCCESS under the job's id and `generate_image`, with what came and what it cost, from an online worker."""
    job_id = watched.enqueue("[[fault:partial:2]]", n=3)
    row = watched.flower.row_in(job_id, "SUCCESS")
    assert (row["uuid"], row["name"], row["args"]) == (job_id, "generate_image", f"('{job_id}',)")
    keys = [f"default/{job_id}/{index}.png" for index in range(2)]
    assert row["result"] == f"2 images, 0.400000 CNY: {' '.join(keys)}"
    assert row["runtime"] > 0
    assert row["worker"] == shown_worker(watched)
    job = watched.house.darkroom.get(job_id)
    assert (job.state, job.cost_micros, len(job.artifacts)) == ("completed", 400_000, 2)


def test_a_refused_job_is_a_failure_with_its_code(watched: Watched) -> None:
    """FAILURE, and the error code of the record in place of an exception."""
    job_id = watched.enqueue("[[fault:code:bad_response_status_code]]")
    row = watched.flower.row_in(job_id, "FAILURE")
    assert (
        row["exception"]
        == watched.house.darkroom.get(job_id).error_code
        == "refused:bad_response_status_code"
    )
    assert row["traceback"] is None


def test_a_generating_job_is_started_and_revoke_cancels_it(watched: Watched) -> None:
    """STARTED with id, model, size and stage; Flower's Terminate cancels the job, and its row stays REVOKED."""
    job_id = watched.enqueue("[[fault:never]]", size="2K", n=2)
    row = watched.flower.row_in(job_id, "STARTED", "generating")
    shown = {"id": job_id, "model": "wan2.7-image", "size": "2K", "n": "2", "stage": "generating"}
    assert row["kwargs"] == repr(shown)
    assert watched.state(job_id) is JobState.GENERATING
    answer = watched.flower.http.post(f"/api/task/revoke/{job_id}", params={"terminate": "true"})
    assert answer.status_code == 200
    assert watched.flower.row_in(job_id, "REVOKED")["kwargs"] == repr(shown)
    job = watched.house.darkroom.get(job_id)
    assert (job.state, job.accounting_open) == (JobState.CANCELLED, True)
    polls = job.polls
    until(lambda: watched.house.darkroom.get(job_id).polls >= polls + 2, "polls for the bill go on")
    assert watched.flower.row(job_id)["state"] == "REVOKED"


def test_a_cancel_by_flower_is_in_the_audit(watched: Watched) -> None:
    """Once, however often the button is pressed: by `flower`, which knows no names."""
    job_id = watched.enqueue(not_before="1h")
    for _ in range(2):
        watched.flower.http.post(f"/api/task/revoke/{job_id}").raise_for_status()
        watched.flower.row_in(job_id, "REVOKED")
    entries = watched.house.darkroom.audit()
    noted = [(each.who, each.what, each.jobs) for each in entries if each.on == f"job {job_id}"]
    assert noted == [("flower", "cancel", 1)]


def test_a_job_cancelled_by_its_producer_is_revoked(watched: Watched) -> None:
    """No worker is asked, but the next poll finds it cancelled."""
    job_id = watched.enqueue("[[fault:never]]")
    watched.flower.row_in(job_id, "STARTED", "generating")
    assert watched.house.darkroom.cancel(job_id).job.state is JobState.CANCELLED
    watched.flower.row_in(job_id, "REVOKED")


def test_a_job_cancelled_in_its_queue_is_revoked_with_its_webhook(watched: Watched) -> None:
    """No worker ever had it: the worker that announces the cancellation tells Flower too."""
    job_id = watched.enqueue(webhook=watched.hook, not_before="1h")
    watched.house.darkroom.cancel(job_id)
    row = watched.flower.row_in(job_id, "REVOKED")
    assert (row["name"], row["args"]) == ("generate_image", f"('{job_id}',)")


def test_a_job_cancelled_in_its_queue_is_revoked_without_a_webhook(watched: Watched) -> None:
    """Nobody else waits for its end: the sweep comes for Flower alone."""
    job_id = watched.enqueue(not_before="1h")
    watched.house.darkroom.cancel(job_id)
    watched.flower.row_in(job_id, "REVOKED")


def test_a_throttled_job_waits_as_retry_and_completes(watched: Watched) -> None:
    """Back in its queue it is not shown as started: RETRY with the reason, then SUCCESS."""
    job_id = watched.enqueue("[[fault:429:4;times=1]]")
    row = watched.flower.row_in(job_id, "RETRY")
    assert row["exception"] == "throttled"
    assert "'stage': 'queued'" in row["kwargs"]
    watched.flower.row_in(job_id, "SUCCESS")


def test_an_unknown_outcome_is_shown_and_a_late_bill_changes_no_row(watched: Watched) -> None:
    """`unknown` is a stage of STARTED; with on_unknown=fail it is FAILURE, also when its images turn up."""
    held = watched.enqueue("[[m:held]] [[fault:lost_answer]]")
    given_up = watched.enqueue("[[m:given-up]] [[fault:lost_answer]]", on_unknown="fail")
    watched.flower.row_in(held, "STARTED", "unknown")
    assert watched.flower.row_in(given_up, "FAILURE")["exception"] == "unknown_outcome"
    ids = {group["marker"]: group["task_ids"][0] for group in watched.house.ledger()["groups"]}
    watched.house.darkroom.resolve(held, ids["held"])
    watched.house.darkroom.resolve(given_up, ids["given-up"])
    assert watched.flower.row_in(held, "SUCCESS")["result"] == f"1 images, 0.200000 CNY: default/{held}/0.png"
    until(lambda: watched.house.darkroom.get(given_up).cost_micros == 200_000, "the late bill")
    row = watched.flower.row(given_up)
    assert (row["state"], row["exception"]) == ("FAILURE", "unknown_outcome")
    assert "entry_fault" not in watched.worker.log()


def test_an_expired_job_is_a_failure(watched: Watched) -> None:
    """It ended by time alone, in the sweep."""
    job_id = watched.enqueue(not_before="3s", deadline="4s")
    with watched.house.state.client() as client:  # keep it queued beyond its deadline, without waiting for it
        client.zadd("{darkroom}:z:expiring", {job_id: 1})
    assert watched.flower.row_in(job_id, "FAILURE")["exception"] == "expired"


def test_flower_attached_late_still_names_the_job(watched: Watched) -> None:
    """It missed the job's start; what comes then carries name and arguments."""
    job_id = watched.enqueue("[[fault:never]]")
    watched.flower.row_in(job_id, "STARTED", "generating")
    with attached(watched.house, "late") as late:
        assert job_id not in late.rows()
        watched.house.darkroom.cancel(job_id)
        row = late.row_in(job_id, "REVOKED")
        assert (row["name"], row["args"]) == ("generate_image", f"('{job_id}',)")
        assert row["worker"] == shown_worker(watched)


def test_only_jobs_and_real_workers_are_shown(watched: Watched) -> None:
    """No stage task, no hint, no worker that does not exist."""
    jobs = {watched.enqueue() for _ in range(3)}
    for job_id in jobs:
        watched.flower.row_in(job_id, "SUCCESS")
    rows = watched.flower.rows()
    assert {row["name"] for row in rows.values()} == {"generate_image"}
    assert watched.flower.get("/api/task/types") == {"task-types": ["generate_image"]}
    real = {job.id for job in watched.house.darkroom.get_many(list(rows)) if job is not None}
    assert set(rows) == real
    assert set(rows) >= jobs
    assert watched.flower.workers() == {shown_worker(watched): True}
    assert {row["worker"] for row in rows.values()} == {shown_worker(watched)}


def test_nothing_that_is_secret_or_private_is_in_the_api(watched: Watched) -> None:
    """Neither prompt nor URL of anything, nor key, nor secret: in tasks, workers, queues or metrics."""
    done = watched.enqueue(webhook=watched.hook)
    failed = watched.enqueue("[[fault:refuse]]", webhook=watched.hook)
    watched.flower.row_in(done, "SUCCESS")
    watched.flower.row_in(failed, "FAILURE")
    tasks = [watched.flower.http.get(f"/api/task/info/{job_id}").text for job_id in (done, failed)]
    tasks.append(watched.flower.http.get("/api/tasks").text)
    assert all("http" not in text for text in tasks)
    paths = ("/api/task/types", "/api/queues/length", "/metrics", f"/task/{done}", "/tasks", "/workers")
    texts = [*tasks, *(watched.flower.http.get(path).text for path in paths)]
    texts.append(watched.flower.http.get("/api/workers", params={"refresh": "1"}).text)
    assert "darkroom.submit" in texts[-1]  # it was asked, and answered
    for canary in (PROMPT, "heron", API_KEY, watched.house.sink.secret, HOOK_TOKEN, OPERATOR[1]):
        assert [text for text in texts if canary in text] == []


def test_the_api_is_closed_to_strangers(watched: Watched) -> None:
    """Whoever may cancel jobs must have said who he is."""
    url = watched.flower.http.base_url.join("/api/tasks")
    for auth in (None, ("operator", "wrong")):
        answer = httpx.get(url, auth=auth, trust_env=False, timeout=10)
        assert answer.status_code == 401


def test_without_events_nothing_appears_and_jobs_complete(tmp_path: Path) -> None:
    """flower.events = false: the worker is there, its jobs are not."""
    with House(tmp_path) as house, attached(house) as flower:
        house.worker(DARKROOM_FLOWER='{"events": false}')
        until(lambda: any(flower.workers().values()), "the worker online in Flower")
        house.enqueue(10)
        house.until(lambda: house.counts() == {"completed": 10}, 30, "completed without events")
        time.sleep(0.5)  # more than two flushes
        assert flower.rows() == {}
        assert list(flower.workers().values()) == [True]


def _event_counters(port: int) -> dict[str, float]:
    """Give a worker's counters of job events, as Prometheus reads them."""
    page = httpx.get(f"http://{HOST}:{port}/metrics", trust_env=False, timeout=20).raise_for_status().text
    lines = (line.split() for line in page.splitlines() if line.startswith("darkroom_flower_events_"))
    return {name.removeprefix("darkroom_flower_events_"): float(value) for name, value in lines}


@pytest.mark.parametrize("how", ["broker down", "flooded", "switched off"])
def test_what_flower_was_not_told_is_counted_where_prometheus_looks(tmp_path: Path, how: str) -> None:
    """Jobs complete all the same: dropped events are a number on the worker's page, events that are off are none."""
    port = free_ports(1)[0]
    flower = {"flooded": {"max_per_s": 5}, "switched off": {"events": False}}.get(how, {})
    with House(tmp_path) as house:
        metrics = house.settings.metrics.model_copy(update={"worker_port": port})
        house.settings = house.settings.model_copy(update={"metrics": metrics})
        house.worker(DARKROOM_FLOWER=json.dumps(flower))
        until(lambda: _event_counters(port) == {"sent_total": 0, "dropped_total": 0}, "the worker's page")
        if how == "broker down":
            house.broker.kill()
        house.enqueue(20)
        house.until(lambda: house.counts() == {"completed": 20}, 60, "completed all the same")
        if how == "switched off":
            time.sleep(0.5)  # more than two flushes
            assert _event_counters(port) == {"sent_total": 0, "dropped_total": 0}
        else:
            until(lambda: _event_counters(port)["dropped_total"] > 0, "events are dropped and counted")
