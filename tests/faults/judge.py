"""The judge of a campaign: it believes the provider's ledger, the object store and the sink, not our own books."""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shared.money.ledger import read_entries, verify
from shared.redis.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse

    Stored = Callable[[str], bytes | None]

ENDS: Final = frozenset({"completed", "failed", "cancelled", "unknown"})
TOLD_ENDS: Final = frozenset({"image.completed", "image.failed", "image.cancelled"})
# Failed jobs that may have been charged: by the promise of each, ours or the provider's bill stays open.
MAY_BE_CHARGED: Final = frozenset({"copy_failed", "lost", "poison", "released", "unknown_outcome"})
JITTER_S: Final = 0.5  # of a machine that is busy: several workers and servers on few cores
AHEAD_S: Final = 0.05  # permits are given out that much before their moment
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
    wrong_bill: (
        int  # jobs whose cost is not the provider's charge, or whose money is lost; books that do not add up
    )
    wrong_terminal: int  # jobs whose end is not what the provider or their own event says
    over_limit: (
        int  # generations beyond the lane's slots, submits of a second beyond its rate, as the provider saw
    )

    @property
    def clean(self) -> bool:
        """Say whether every promise was kept."""
        broken = (self.lost, self.double_charged, self.forgotten, self.damaged, self.duplicate_events)
        return not any((*broken, self.untold, self.wrong_bill, self.wrong_terminal, self.over_limit))


def judge(house: FaultHouse, ids: list[str], stored: Stored | None = None) -> Verdict:
    """Compare what was asked with what the provider, the store and the sink saw. Call it when all is quiet.

    `stored` gives the object under a key, or None; the files of the house's own store unless given.
    A worker that wakes may yet attach an id to an unknown job. If one moved meanwhile, it is judged at its next rest.
    """
    stored = stored or partial(_file, house.folder / "artifacts")
    while True:
        before = _positions(house, ids)
        verdict = _judge_once(house, ids, stored)
        if _positions(house, ids) == before:
            return verdict
        house.until(
            lambda: all(state in ENDS for state, _ in _positions(house, ids)), 60, "all at rest again"
        )


def _positions(house: FaultHouse, ids: list[str]) -> list[tuple[str, int]]:
    return [(str(job.state), job.cost_micros) for job in house.darkroom.get_many(ids) if job is not None]


def _judge_once(house: FaultHouse, ids: list[str], stored: Stored) -> Verdict:
    jobs = [job for job in house.darkroom.get_many(ids) if job is not None]
    states = Counter(str(job.state) for job in jobs)
    groups = house.ledger()["groups"]
    events = _event_ids(house)
    ended = [job for job in jobs if str(job.state) in ENDS]
    charged = {group["marker"]: group["charged_micros"] for group in groups}
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
        wrong_bill=_wrong_bill(house, ended, charged),
        wrong_terminal=sum(_wrong_terminal(job, charged, events) for job in ended),
        over_limit=_over_limit(house, jobs),
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


def _wrong_bill(house: FaultHouse, ended: list[Job], charged: Mapping[str, int]) -> int:
    """Count jobs charged otherwise than by the provider, and what is wrong with the books themselves."""
    client, keys = house.state.client(), Keys.of(house.settings.redis.namespace)
    spent: Counter[str] = Counter()
    for entry in read_entries(client, keys):
        if entry.credit.startswith("spent:"):
            spent[entry.job] += entry.micros
    report = verify(client, keys)
    wrong = sum(
        not _paid_right(job, charged.get(_marker(job), 0)) or spent[job.id] != job.cost_micros
        for job in ended
    )
    return wrong + len(report.differences) + report.unlisted


def _paid_right(job: Job, charged: int) -> bool:
    """Say whether our bill of a job is the provider's; while its outcome is open its money must be held."""
    if str(job.state) == "unknown" or job.accounting_open or job.error_code == "unknown_outcome":
        return job.hold_micros > 0 and job.cost_micros == 0
    if job.error_code in MAY_BE_CHARGED:
        return job.hold_micros == 0
    return job.hold_micros == 0 and job.cost_micros == charged


def _wrong_terminal(job: Job, charged: Mapping[str, int], events: Mapping[tuple[str, str], set[str]]) -> bool:
    """Say whether a job's end is denied by the provider's bill, or by an event that told of another end."""
    told = {event for job_id, event in events if job_id == job.id} & TOLD_ENDS
    if told - {f"image.{job.state}"}:
        return True
    is_charged = charged.get(_marker(job), 0) > 0
    if str(job.state) == "completed":
        return not is_charged or not job.artifacts
    return str(job.state) == "failed" and is_charged and job.error_code not in MAY_BE_CHARGED


def _over_limit(house: FaultHouse, jobs: list[Job]) -> int:
    """Say how far the account went beyond what it was set to, by what the provider saw. One lane is assumed.

    Of the rate: POSTs arrive as process and network let them, so they may come together by JITTER_S. The permits they
    were given may not: they have the state server's time.
    """
    account, stats = house.settings.accounts["main"], house.provider.get("/stats")
    running: int = max(stats["max_in_flight"].values(), default=0) - account.max_in_flight
    if not account.submit_per_s:
        return max(0, running)
    most, most_given = (
        math.ceil(account.submit_per_s * (1 + early_s)) + account.submit_burst
        for early_s in (JITTER_S, AHEAD_S)
    )
    too_fast: int = stats["max_submits_seen_in_1s"] - most
    return max(0, running) + max(0, too_fast) + max(0, _fullest_second(house, jobs) - most_given)


def _fullest_second(house: FaultHouse, jobs: list[Job]) -> int:
    """Count the claims, each of which is a permit, of the second that has most of them."""
    keys = Keys.of(house.settings.redis.namespace)
    with house.state.client() as client, client.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hget(keys.job(job.id), "claimed_at")
        claims = sorted(int(at) for at in pipe.execute() if at is not None)
    return max((bisect_left(claims, at + 1000) - number for number, at in enumerate(claims)), default=0)


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
    for delivery in _deliveries(house):
        body = delivery["body"]
        assert delivery["verified"], "every event must carry a valid signature"
        if job_id := body["data"].get("job_id"):
            found.setdefault((job_id, body["type"]), set()).add(delivery["webhook_id"])
    return found


def _deliveries(house: FaultHouse) -> Iterator[dict[str, Any]]:
    page, after = house.sink.get("/received?limit=1000"), 0
    while page["deliveries"]:
        yield from page["deliveries"]
        after = page["next"]
        page = house.sink.get(f"/received?limit=1000&after={after}")
