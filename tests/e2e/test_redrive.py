"""Dead jobs put back while real workers run: what was paid is copied, what was free is submitted, nothing is paid twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from producers.dead import find_dead
from producers.redrives import redrive
from producers.selection import Selection
from shared.money.ledger import verify
from shared.redis.keys import Keys

if TYPE_CHECKING:
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)
PRICE = 200_000


def test_dead_jobs_are_redriven_and_complete(house: House) -> None:
    """Refused, failed by the provider, and not copied: after one command the batch is whole, at one charge per job.

    Its completion is told once, each job's second end by a second event, and the provider's bill is ours.
    """
    faults = {
        "refused": "[[fault:refuse;times=1]]",
        "failed": "[[fault:fail;times=1]]",
        "copy": "",
        "good": "",
    }
    requests = [house.requests(1, marker, text)[0] for marker, text in faults.items()]
    receipt = house.darkroom.enqueue_many(requests, batch="b", webhook=f"{house.sink.url}/ok")
    in_the_way = house.folder / "artifacts" / "default" / str(receipt.items[2].job_id) / "0.png"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"somebody else's")
    house.worker()
    house.until(lambda: house.counts() == {"failed": 3, "completed": 1}, 60, "three failed")
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == 5, 20, "five events")
    dead = find_dead(house.settings, Selection(batch="b"), deliveries=False)
    found = {job.code.partition(":")[0]: (job.billed, job.redrive) for job in dead.jobs}
    assert found == {
        "refused": ("no", "submit"),
        "provider": ("no", "submit"),
        "copy_failed": ("yes", "copy"),
    }

    in_the_way.unlink()
    report = redrive(house.settings, Selection(batch="b"), by="anna", why="repaired")
    assert (report.done, report.refused, dict(report.micros)) == (3, 0, {"CNY": 2 * PRICE})
    house.until(lambda: house.counts() == {"completed": 4}, 60, "all completed")
    house.until(lambda: house.sink.get("/summary")["unique_ids"] == 8, 20, "three more events")
    assert house.sink.get("/summary")["by_type"] == {
        "image.failed": 3, "image.completed": 4, "batch.completed": 1,
    }  # fmt: skip
    ledger = house.ledger()
    by_marker = {group["marker"].partition("-")[0]: group for group in ledger["groups"]}
    accepted = {marker: (each["accepted"], each["charged_images"]) for marker, each in by_marker.items()}
    assert accepted == {"refused": (1, 1), "failed": (2, 1), "copy": (1, 1), "good": (1, 1)}
    assert house.charged_twice() == []
    assert house.darkroom.batch("b").cost_micros == ledger["charged_micros"] == 4 * PRICE
    assert verify(house.state.client(), Keys.of("darkroom")).adds_up
    assert len(list((house.folder / "artifacts").rglob("*.png"))) == 4
