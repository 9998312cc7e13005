"""Runs in a container, fed to `python3 -`: reads a batch's jobs as a backend would, and with `hash` their objects.

Prints one JSON line: `{"jobs": [...], "cost_micros": N}`. It imports what is installed in the image, nothing of tools.
"""

import asyncio
import json
import re
import sys
from typing import Any

from producers import Darkroom, Job
from shared.redis.client import make_client
from shared.redis.keys import Keys
from shared.settings import Settings, load_settings
from shared.storage import ObjectStore, open_store

_MARKER = re.compile(r"\[\[m:([^\]]+)\]\]")
_PAGE = 500


def job_ids(settings: Settings, batch: str) -> list[str]:
    keys = Keys.of(settings.redis.namespace)
    with make_client(settings.redis) as client:
        ids: Any = client.lrange(keys.batch_jobs(settings.tenant, batch), 0, -1)
    return [each.decode() for each in ids]


def row(job: Job) -> dict[str, object]:
    marker = _MARKER.search(str(job.request.get("prompt", "")))
    return {
        "id": job.id,
        "marker": marker[1] if marker else None,
        "state": job.state.value,
        "attempts": job.attempts,
        "intent_at": job.intent_at,
        "generation_id": job.generation_id,
        "cost_micros": job.cost_micros,
        "objects": [artifact.object_key for artifact in job.artifacts],
        "open": job.accounting_open,
    }


async def bad_objects(store: ObjectStore, jobs: list[Job]) -> list[str]:
    """Name the objects that are missing, or are not what the record says."""
    limit = asyncio.Semaphore(16)

    async def check(key: str, sha256: str | None, size_bytes: int | None) -> str | None:
        async with limit:
            found = await store.head(key)
            is_whole = found is not None and found == size_bytes and await store.sha256_of(key) == sha256
        return None if is_whole else key

    artifacts = [artifact for job in jobs for artifact in job.artifacts]
    checks = (check(str(each.object_key), each.sha256, each.size_bytes) for each in artifacts)
    return [key for key in await asyncio.gather(*checks) if key is not None]


def main(batch: str, hashing: bool) -> None:
    settings = load_settings()
    ids = job_ids(settings, batch)
    with Darkroom(settings) as darkroom:
        pages = (darkroom.get_many(ids[at : at + _PAGE]) for at in range(0, len(ids), _PAGE))
        jobs = [job for page in pages for job in page if job is not None]
        cost_micros = darkroom.batch(batch).cost_micros
    answer: dict[str, object] = {"jobs": [row(job) for job in jobs], "cost_micros": cost_micros}
    if hashing:
        answer["bad_objects"] = asyncio.run(bad_objects(open_store(settings.storage), jobs))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], "hash" in sys.argv[2:])
