"""What the object store and the result URLs can do: paid images are kept, whole, or their URLs are, for an operator."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import from_json

from shared.settings import StorageSettings
from shared.storage import open_store
from tests.faults import middleman as spoils
from tests.faults.dials import rules, tune, tune_account
from tests.faults.judge import judge
from tests.faults.middleman import Middleman, Twist
from tests.faults.table import note_row
from tests.integration.fake_s3 import FakeS3
from tests.servers import SeaweedProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

JOBS = 6
HITS = 8
PRICE_MICROS = 200_000
SMALL_BYTES = 64 * 1024

pytestmark = pytest.mark.timeout(180)


# --- the store


@pytest.fixture
def s3_server(tmp_path: Path, faults: FaultHouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedProc]:
    """An S3 server of this test's own, which workers and judge use."""
    with SeaweedProc(tmp_path / "s3") as server:
        faults.settings = faults.settings.model_copy(
            update={"storage": StorageSettings(**server.settings("r"))}
        )
        for name, secret in server.secrets.items():
            monkeypatch.setenv(name, secret)
        yield server


@contextmanager
def _down(server: SeaweedProc, how: str) -> Iterator[None]:
    if how == "paused":
        server.pause()
    else:
        server.kill()
    yield
    if how == "paused":
        server.resume()
    else:
        server.start()


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_the_store_is_away(faults: FaultHouse, s3_server: SeaweedProc, how: str) -> None:
    """Paid images wait in `storing`, are generated once, and are all there when it is back."""
    faults.worker()
    with _down(s3_server, how):
        ids = faults.enqueue_for_judgement(JOBS)
        faults.until(lambda: faults.counts() == {"storing": JOBS}, 40, "all wait for the store")
        time.sleep(2)
        assert faults.counts() == {"storing": JOBS}
    _whole(faults, ids, f"store: {how}, then back")


def test_the_store_dies_in_the_middle(faults: FaultHouse, s3_server: SeaweedProc) -> None:
    """Killed while images are put, and started again: no object is half there."""
    faults.worker()
    ids = faults.enqueue_for_judgement(4 * JOBS)
    faults.until(lambda: faults.counts().get("completed", 0) > 0, 40, "the first are stored")
    s3_server.kill()
    s3_server.start()
    _whole(faults, ids, "store: killed in the middle")


def test_the_store_refuses_the_key(faults: FaultHouse, s3_server: SeaweedProc) -> None:
    """403: nothing is lost, and a worker with the right key stores everything."""
    wrong = faults.worker("wrong", TESTS_S3_SECRET_ACCESS_KEY="not-the-secret")
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: _tries(faults, ids) >= JOBS, 60, "every copy was refused")
    assert faults.counts() == {"storing": JOBS}
    wrong.stop()
    faults.worker("right")
    assert s3_server.running
    _whole(faults, ids, "store: wrong secret")


ERRORS = {
    "507 full": (507, "InsufficientStorage"),
    "500": (500, "InternalError"),
    "429": (429, "SlowDown"),
    "403": (403, "AccessDenied"),
    "404 no bucket": (404, "NoSuchBucket"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_store_answers_with_an_error(
    faults: FaultHouse, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Full, failing, busy, refusing, or without its bucket: the images wait, and are put once it takes them."""
    status, code = ERRORS[name]
    monkeypatch.setenv("TESTS_S3_CANARY", "canary")
    with FakeS3({"PUT": (status, f"<Error><Code>{code}</Code></Error>".encode())}) as fake:
        faults.settings = faults.settings.model_copy(update={"storage": fake.settings})
        faults.worker()
        ids = faults.enqueue_for_judgement(JOBS)
        faults.until(lambda: _tries(faults, ids) >= JOBS, 60, "every copy was refused")
        assert faults.counts() == {"storing": JOBS}
        fake.faults.clear()
        _whole(faults, ids, f"store: answers {name}")


WAITING_JOBS = 60
SIDE_BY_SIDE = 4


@pytest.mark.parametrize(("name", "kind", "at_most"), [("403", "denied", 20), ("500", "unavailable", 50)])
def test_submits_wait_while_the_store_fails(
    faults: FaultHouse, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, at_most: int
) -> None:
    """No more is generated than was under way when submits stopped; the rest stay queued, and go once it heals."""
    status, code = ERRORS[name]
    monkeypatch.setenv("TESTS_S3_CANARY", "canary")
    tune_account(faults, max_in_flight=SIDE_BY_SIDE)
    tune(faults, "worker", store_trouble_s=1.0)  # what is not refused may pass by itself, for so long
    with FakeS3({"PUT": (status, f"<Error><Code>{code}</Code></Error>".encode())}) as fake:
        faults.settings = faults.settings.model_copy(update={"storage": fake.settings})
        faults.worker()
        ids = faults.enqueue_for_judgement(WAITING_JOBS)
        control, under_way = "{darkroom}:control", {"submitting", "generating"}
        faults.until(
            lambda: bool(faults.state.client().hexists(control, "store_stopped_at")), 60, "submits wait"
        )
        faults.until(lambda: not under_way & faults.counts().keys(), 30, "what was under way has come")
        counts, submitted = faults.counts(), faults.ledger()["submits_seen"]
        assert counts == {"queued": WAITING_JOBS - submitted, "storing": submitted}
        assert submitted <= at_most
        time.sleep(3)
        assert (faults.counts(), faults.ledger()["submits_seen"]) == (counts, submitted)
        trouble = faults.darkroom.overview().store_trouble
        assert trouble is not None
        assert trouble.kind == kind
        fake.faults.clear()
        _whole(faults, ids, f"store: answers {name} while jobs are queued")
    assert faults.darkroom.overview().store_trouble is None


def test_the_urls_expire_before_the_store_is_back(faults: FaultHouse, s3_server: SeaweedProc) -> None:
    """Too late: failed(copy_failed), billed, told; generation id and URLs are kept for an operator."""
    rules(faults, {"on": "submit", "kind": "url_ttl", "arg": "3", "times": 3})
    faults.worker()
    with _down(s3_server, "killed"):
        ids = faults.enqueue_for_judgement(JOBS)
        faults.until(lambda: faults.counts() == {"storing": JOBS - 3, "failed": 3}, 60, "three URLs are dead")
    verdict, jobs = _judged(faults, ids, "store: away until URLs expire")
    assert verdict.failed == 3, verdict
    _billed_and_kept(faults, [job for job in jobs if str(job.state) == "failed"])


# --- the result URLs

IMAGE_RULES = {
    "403": ("403", ""),
    "404": ("404", ""),
    "500": ("500", ""),
    "connection reset": ("lost_answer", "reset"),
    "truncated": ("cut", ""),
    "empty": ("empty", ""),
    "a page with 200": ("html", ""),
    "redirect once to nowhere": ("redirect", "http://127.0.0.1:9/"),
    "no answer": ("hang", ""),
}


@pytest.mark.parametrize("name", IMAGE_RULES)
def test_an_image_that_does_not_come(faults: FaultHouse, name: str) -> None:
    """Fetched again, with a fresh URL if the old one is dead; generated and paid for once."""
    kind, arg = IMAGE_RULES[name]
    rules(faults, {"on": "image", "kind": kind, "arg": arg, "times": HITS})
    tune(faults, "worker", download_timeout_s=1.5)
    faults.worker()
    _whole(faults, faults.enqueue_for_judgement(JOBS), f"result URL: {name}")


HOPELESS: dict[str, tuple[Callable[[], Twist], str]] = {
    "oversize": (lambda: Twist("image", spoils.endless(1024)), "response_too_large"),
    "not an image": (lambda: Twist("image", spoils.says_bytes(b"%PDF-1.7 ...")), "not_an_image"),
    "an SVG": (lambda: Twist("image", spoils.says_bytes(b"<svg onload='x()'/>")), "not_an_image"),
    "redirect to the metadata address": (
        lambda: Twist("image", spoils.says_bytes(b"", 302, "location: http://169.254.169.254/latest/\r\n")),
        "forbidden_address",
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_an_image_that_must_not_be_taken(faults: FaultHouse, name: str) -> None:
    """Tried three times, never stored: failed(copy_failed), billed, and its URL is kept."""
    twist, cause = HOPELESS[name]
    with Middleman(faults.provider.url, [twist()]) as between:
        tune(faults, "storage", max_image_bytes=SMALL_BYTES)
        tune_account(faults, base_url=between.url + "/v1")
        faults.worker()
        ids = faults.enqueue_for_judgement(JOBS)
        verdict, jobs = _judged(faults, ids, f"result URL: {name}")
        gets = sum(kind == "image" for _, kind in between.seen)
    assert verdict.failed == JOBS, verdict
    assert gets == 3 * JOBS
    assert {job.error_message for job in jobs} == {cause}
    _billed_and_kept(faults, jobs)
    assert not list((faults.folder / "artifacts").rglob("default/**/*.*"))


@pytest.mark.parametrize("how", ["slow", "unresolved host"])
def test_an_image_from_a_poor_host(faults: FaultHouse, how: str) -> None:
    """A byte every 0.1 s, or a name that does not resolve: tried again, and taken when it comes."""
    moved: list[str] = []

    def elsewhere(document: Any) -> Any:
        if document["data"]["status"] == "completed" and len(moved) < 2:
            moved.append(document["data"]["id"])
            document["data"]["result"] = {"images": [{"url": ["http://images.invalid/a.png"]}]}
        return document

    slow = Twist("image", spoils.dripping(0.1, 4), times=HITS)
    gone = Twist("poll", spoils.changed(elsewhere))
    with Middleman(faults.provider.url, [slow if how == "slow" else gone]) as between:
        tune(faults, "worker", download_timeout_s=1.5)
        tune_account(faults, base_url=between.url + "/v1")
        faults.worker()
        ids = faults.enqueue_for_judgement(JOBS)
        _whole(faults, ids, f"result URL: {how}")
    assert len(moved) == (0 if how == "slow" else 2)


def _tries(faults: FaultHouse, ids: list[str]) -> int:
    """Count the jobs whose copy failed at least once."""
    client = faults.state.client()
    return sum(bool(client.hget(f"{{darkroom}}:j:{job_id}", "tries")) for job_id in ids)


def _whole(faults: FaultHouse, ids: list[str], fault: str) -> None:
    """Every job completes with its images whole, was generated once, and cost its price."""
    verdict, jobs = _judged(faults, ids, fault)
    assert (verdict.failed, verdict.unknown) == (0, 0), verdict
    assert {job.cost_micros for job in jobs} == {PRICE_MICROS}
    ledger = faults.ledger()
    assert ledger["submits_seen"] == len(ids)
    assert ledger["charged_micros"] == len(ids) * PRICE_MICROS


def _judged(faults: FaultHouse, ids: list[str], fault: str) -> tuple[Verdict, list[Job]]:
    recovered_s = faults.quiet(len(ids))
    storage = faults.settings.storage
    stored = None if storage.url.startswith("file:") else partial(_object, storage)
    verdict = judge(faults, ids, stored)
    note_row(fault, faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    return verdict, [faults.darkroom.get(job_id) for job_id in ids]


def _object(storage: StorageSettings, key: str) -> bytes | None:
    return asyncio.run(open_store(storage).read(key))


def _billed_and_kept(faults: FaultHouse, jobs: list[Job]) -> None:
    """What an operator needs is there: the bill, the generation's id, and where its images were."""
    assert {(job.error_code, job.cost_micros, job.hold_micros) for job in jobs} == {
        ("copy_failed", PRICE_MICROS, 0)
    }
    for job in jobs:
        assert job.generation_id
        (url,) = from_json(faults.state.client().hget(f"{{darkroom}}:x:{job.id}", "urls") or b"[]")
        assert url["url"].startswith("http://")
