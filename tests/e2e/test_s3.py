"""Results on a real S3 server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared.settings import StorageSettings
from shared.storage import open_store

if TYPE_CHECKING:
    from tests.e2e.conftest import House
    from tests.servers import SeaweedProc

pytestmark = pytest.mark.timeout(120)


def test_results_go_to_s3(house: House, s3: SeaweedProc) -> None:
    """Every image is in the bucket under its job, as long and with the hash that the record says."""
    storage = StorageSettings(**s3.settings("results"))
    house.settings = house.settings.model_copy(update={"storage": storage})
    worker = house.worker("w1")
    receipt = house.darkroom.enqueue_many(house.requests(6), batch="b", webhook=f"{house.sink.url}/ok")
    house.until(lambda: house.counts() == {"completed": 6}, 60, "6 completed")
    store = open_store(storage)
    for item in receipt.items:
        assert item.job_id is not None
        job = house.darkroom.get(item.job_id)
        (artifact,) = job.artifacts
        assert artifact.object_key == f"default/{job.id}/0.png"
        assert asyncio.run(store.sha256_of(artifact.object_key)) == artifact.sha256
        assert asyncio.run(store.head(artifact.object_key)) == artifact.size_bytes
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == 7, 20, "events of jobs and batch")
    assert s3.secret_access_key not in worker.log()
