"""Bulk enqueue into a live Valkey: Darkroom against Celery's apply_async, and against its own script's limit.

    darkroom   enqueue_many: validation, idempotency key, batch, tenant, price check; one process
    limit      the same script, the same arguments, made ready before the clock starts
    celery     apply_async of the same payload on the same server
All three in every run; medians over the runs.
"""

from __future__ import annotations

import statistics
import time
import uuid
from typing import TYPE_CHECKING, Any

from celery import Celery

from producers import Darkroom
from producers.stack import Stack
from shared.jobs.enqueue import CHUNK_JOBS, JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.request import fingerprint, parse_request, request_bytes
from shared.redis.client import make_client
from shared.redis.keys import Keys
from shared.redis.scripts import run as run_script
from shared.redis.scripts import script
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from shared.settings import Settings

JOBS = 50_000
CELERY_JOBS = 2_000
PROMPT = "a watercolour of a lighthouse at dusk, soft light, number {}"


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give darkroom_per_s, celery_per_s, ratio, of_limit, bytes_per_job (beyond the request itself)."""
    jobs = jobs or JOBS
    rows = []
    with Stack.valkey_only() as stack:
        settings = load_settings(redis={"url": stack.urls["redis"]}, broker={"url": stack.urls["broker"]})
        for number in range(runs):
            rows.append(_run(settings, jobs))
            say(f"run {number + 1}/{runs}: " + ", ".join(f"{k} {v:,.0f}" for k, v in rows[-1].items()))
    with Stack.valkey_only() as stack:  # a fresh one: a flushed server frees its memory at leisure
        settings = load_settings(redis={"url": stack.urls["redis"]}, broker={"url": stack.urls["broker"]})
        size = _bytes_per_job(make_client(settings.redis), settings, min(jobs, 20_000))
    darkroom, celery, limit = (
        statistics.median(row[key] for row in rows) for key in ("darkroom", "celery", "limit")
    )
    return {
        "darkroom_per_s": round(darkroom),
        "celery_per_s": round(celery),
        "ratio": round(statistics.median(row["darkroom"] / row["celery"] for row in rows), 1),
        "limit_per_s": round(limit),
        "of_limit": round(statistics.median(row["darkroom"] / row["limit"] for row in rows), 2),
        "bytes_per_job": round(size),
        "jobs": jobs,
        "runs": runs,
    }


def _run(settings: Settings, jobs: int) -> dict[str, float]:
    client = make_client(settings.redis)
    client.flushall()
    return {
        "limit": _limit(client, settings, jobs),
        "darkroom": enqueued_per_s(client, settings, jobs),
        "celery": _celery(settings, client),
    }


def _requests(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"model": "wan2.7-image", "prompt": PROMPT.format(number), "n": 1, "size": "2K"}


def _items(count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    prefix = uuid.uuid4().hex[:8]
    for number, request in enumerate(_requests(count)):
        yield request, {"idempotency_key": f"{prefix}-{number}"}


def enqueued_per_s(client: Redis, settings: Settings, jobs: int) -> float:
    """Give the jobs per second of one enqueue_many into an empty server."""
    client.flushall()
    items = list(_items(jobs))
    with Darkroom(settings) as darkroom:
        started = time.perf_counter()
        receipt = darkroom.enqueue_many(items, tenant="bench", batch="bench", keep=False)
        elapsed = time.perf_counter() - started
    if receipt.enqueued != jobs:
        raise RuntimeError(f"{receipt.enqueued} of {jobs} enqueued")
    return jobs / elapsed


def _limit(client: Redis, settings: Settings, jobs: int) -> float:
    client.flushall()
    keys, header = Keys.of(settings.redis.namespace), header_json("bench", "bench", None, settings.limits)
    chunks: list[list[Any]] = []
    for number, (job_id, (request, params)) in enumerate(zip(new_job_ids(jobs), _items(jobs), strict=True)):
        if number % CHUNK_JOBS == 0:
            chunks.append([])
        parsed = parse_request(request)
        body = request_bytes(parsed)
        chunks[-1] += job_arguments(
            job_id, body, fingerprint(body), parsed.model, 1, False, JobParams(**params)
        )
    client.script_load(script("enqueue_jobs").text)
    started = time.perf_counter()
    for arguments in chunks:
        run_script(client, "enqueue_jobs", keys.prefix, header, *arguments)
    return jobs / (time.perf_counter() - started)


def _celery(settings: Settings, client: Redis) -> float:
    """Publish with a Celery app as its documentation makes one; Redis as broker, no result backend."""
    app = Celery("peer", broker=settings.broker.url)
    app.conf.task_ignore_result = True

    @app.task(name="generate")
    def generate(**_request: Any) -> None:
        """Stand for the user's task; nobody runs it."""

    requests = list(_requests(CELERY_JOBS))
    generate.apply_async(kwargs=requests[0])  # connects
    started = time.perf_counter()
    for request in requests:
        generate.apply_async(kwargs=request)
    elapsed = time.perf_counter() - started
    app.close()
    client.flushall()
    return CELERY_JOBS / elapsed


def _bytes_per_job(client: Redis, settings: Settings, jobs: int) -> float:
    """Give server memory per queued job beyond the bytes of its request."""
    before = int(client.info("memory")["used_memory"])
    with Darkroom(settings) as darkroom:
        darkroom.enqueue_many(_items(jobs), tenant="bench", batch="bench", keep=False)
    used = int(client.info("memory")["used_memory"]) - before
    request = sum(len(request_bytes(parse_request(each))) for each in _requests(jobs))
    return (used - request) / jobs
