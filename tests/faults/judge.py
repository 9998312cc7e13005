"""The judge of a campaign: it believes the provider's ledger, the object store and the sink, not our own books."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse

    Stored = Callable[[str], bytes | None]

ENDS: Final = frozenset({"completed", "failed", "cancelled", "unknown"})
_MARKER: Final = re.compile(r"\[\[m:([^\]]+)\]\]")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one fault did. Everything but `jobs`, `unknown` and `failed` must be 0."""

    jobs: int
    unknown: int
    failed: int
    lost: int  # enqueued, and neither at an end nor unknown
    double_charged: int  # markers whose prompt the provider accepted more than once
    forgotten: int  # accepted POSTs of no job, whose marker's job is not listed unknown either
    damaged: int  # promised objects that are missing or are not what the record says
    duplicate_events: int  # events that came under more than one webhook id
    untold: int  # jobs at an end whose event never came

    @property
    def clean(self) -> bool:
        """Say whether every promise was kept."""
        broken = (self.lost, self.double_charged, self.forgotten, self.damaged)
        return not any((*broken, self.duplicate_events, self.untold))


def judge(house: FaultHouse, ids: list[str], stored: Stored | None = None) -> Verdict:
    """Compare what was asked with what the provider, the store and the sink saw. Call it when all is quiet.

    `stored` gives the object under a key, or None; the files of the house's own store unless given.
    """
    stored = stored or partial(_file, house.folder / "artifacts")
    jobs = [job for job in house.darkroom.get_many(ids) if job is not None]
    states = Counter(str(job.state) for job in jobs)
    groups = house.ledger()["groups"]
    events = _event_ids(house)
    ended = [job for job in jobs if str(job.state) in ENDS]
    return Verdict(
        jobs=len(ids),
        unknown=states["unknown"],
        failed=states["failed"],
        lost=len(ids) - len(ended),
        double_charged=sum(group["accepted"] > 1 for group in groups),
        forgotten=_forgotten(groups, jobs),
        damaged=sum(_damaged(job, stored) for job in jobs),
        duplicate_events=sum(len(each) > 1 for each in events.values()),
        untold=sum((job.id, f"image.{job.state}") not in events for job in ended),
    )


def _forgotten(groups: list[dict[str, Any]], jobs: list[Job]) -> int:
    attached = Counter(job.generation_id for job in jobs if job.generation_id)
    unknown = {_marker(job) for job in jobs if str(job.state) == "unknown"}
    accepted = [(task, group["marker"]) for group in groups for task in group["task_ids"]]
    return sum(attached[task] != 1 and marker not in unknown for task, marker in accepted)


def _marker(job: Job) -> str:
    found = _MARKER.search(str(job.request["prompt"]))
    assert found is not None, "a campaign's prompts carry a marker"
    return found[1]


def _damaged(job: Job, stored: Stored) -> int:
    """Count what is missing or altered of a completed job's images."""
    if str(job.state) != "completed":
        return 0
    whole = sum(
        (content := stored(str(image.object_key))) is not None
        and hashlib.sha256(content).hexdigest() == image.sha256
        for image in job.artifacts
    )
    promised = len(job.artifacts) if job.partial else job.n
    return promised - whole


def _file(folder: Path, key: str) -> bytes | None:
    path = folder / key
    return path.read_bytes() if path.is_file() else None


def _event_ids(house: FaultHouse) -> dict[tuple[str, str], set[str]]:
    """Give the webhook ids under which each (job, event type) came."""
    found: dict[tuple[str, str], set[str]] = {}
    for delivery in house.sink.get("/received?limit=1000")["deliveries"]:
        body = delivery["body"]
        assert delivery["verified"], "every event must carry a valid signature"
        if job_id := body["data"].get("job_id"):
            found.setdefault((job_id, body["type"]), set()).add(delivery["webhook_id"])
    return found
