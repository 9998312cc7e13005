"""A state server with one namespace per test, driven through the real scripts with a clock the test owns."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_json
from redis import Redis

from shared.jobs.commands import attach
from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.lifecycle import JobState
from shared.jobs.store import JobStore
from shared.jobs.transition import Applied, AuditNote, Change, Transition, context_json, transitions_json
from shared.redis.keys import Keys
from shared.redis.scripts import run
from shared.settings import LimitSettings
from workers.claims import DELIVERY_FIELDS, JOB_FIELDS, SUBMIT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shared.jobs.job import Job

LANE = "main/wan2.7-image"
MODEL = "wan2.7-image"
PRICE = 200_000
_NO_CAPS: Mapping[str, str] = {}


@dataclass
class State:
    """The scripts, called as workers and producers call them, at a time of the test's choosing."""

    client: Redis
    keys: Keys
    limits: LimitSettings = field(default_factory=LimitSettings)
    now_ms: int = 1_800_000_000_000

    def call(self, name: str, *args: Any) -> Any:
        return run(self.client, name, self.keys.prefix, *args, now_ms=self.now_ms)

    def enqueue(
        self, count: int = 1, *, tenant: str = "acme", batch: str | None = None, **params: Any
    ) -> list[str]:
        ids, replies = self.try_enqueue(count, tenant=tenant, batch=batch, **params)
        assert replies == [0] * count
        return ids

    def try_enqueue(
        self,
        count: int = 1,
        *,
        tenant: str = "acme",
        batch: str | None = None,
        ids: list[str] | None = None,
        fingerprint: str = "fp",
        n: int = 1,
        caps: Sequence[tuple[str, int, str]] = (),
        batch_caps: Mapping[str, str] = _NO_CAPS,
        price: tuple[int, str] | None = (PRICE, "CNY"),
        **params: Any,
    ) -> tuple[list[str], list[Any]]:
        ids = ids or list(new_job_ids(count))
        hook = params.get("webhook")
        args: list[Any] = []
        for job_id in ids:
            request = b'{"model":"wan2.7-image","n":1,"prompt":"a"}'
            job = job_arguments(job_id, request, fingerprint, MODEL, n, False, JobParams(**params), price)
            args += job
        header = header_json(tenant, batch, hook, self.limits, caps=caps, batch_caps=batch_caps)
        return ids, self.call("enqueue_jobs", header, *args)

    def watch(self, known: str = "", fresh: str = "fresh", **over: Any) -> tuple[str, str, int, int]:
        """A worker's look at the store: verdict, mark, schema version, step of the clock in ms."""
        question = {
            "known": known, "fresh": fresh, "worker": "w1", "schema": 1, "gap_ms": 6000, "grace_ms": 12_000,
            "lanes": [[LANE, MODEL]],
        }  # fmt: skip
        verdict, mark, schema, step_ms = self.call("watch_state", to_json(question | over))
        return verdict.decode(), mark.decode(), schema, step_ms

    def claim_submit(self, k: int = 100, **over: Any) -> tuple[int, str, list[dict[str, Any]]]:
        question = {
            "lane": LANE, "model": MODEL, "account": "main", "worker": "w1", "k": k, "lease_ms": 12_000,
            "interval_us": 0, "burst": 1, "max_posts": 1000, "max_slots": 1000, "price_micros": PRICE,
            "currency": "CNY", "breaker": 5, "probe_ms": 5000, "stuck_ms": 10_000, "suspects": 1,
            "before": "queued", "after": "submitting", "fields": SUBMIT_FIELDS, "schema": 1, "gap_ms": 6000,
            "grace_ms": 12_000,
        }  # fmt: skip
        next_in, _now, reason, *rows = self.call("claim_submit", to_json(question | over))
        entries = [_row(row[0], row[2], SUBMIT_FIELDS, expired=row[1], moment_us=row[4]) for row in rows]
        return next_in, reason.decode(), entries

    def claim_due(self, index: str, k: int = 100, **over: Any) -> tuple[int, list[dict[str, Any]]]:
        delivery = index == "notify"
        fields = DELIVERY_FIELDS if delivery else JOB_FIELDS
        question = {
            "index": index, "kind": "d" if delivery else "j", "worker": "w1", "k": k, "lease_ms": 12_000,
            "suspects": 1, "rate_key": "poll:main", "interval_us": 0, "burst": 1, "fields": fields, "detail": (),
            "schema": 1, "gap_ms": 6000, "grace_ms": 12_000,
        }  # fmt: skip
        next_in, _now, *rows = self.call("claim_due", to_json(question | over))
        return next_in, [_row(row[0], row[1], fields, subject=row[3]) for row in rows]

    def apply(self, *transitions: Transition, note: AuditNote | None = None) -> list[Applied]:
        body = transitions_json(transitions, self.limits.retain_jobs_s * 1000)
        context = context_json(self.limits, note)
        return [Applied(each) for each in self.call("apply_transitions", context, body)]

    def intent(self, entry: dict[str, Any], intent_id: str = "i1") -> Applied:
        change = Change(
            before=JobState.SUBMITTING, after=JobState.SUBMITTING, fields={"intent_id": intent_id},
            stamps=("intent_at",), intent=(LANE, 1),
        )  # fmt: skip
        return self.apply(Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(change,)))[0]

    def accept(self, job_id: str, intent_id: str = "i1", generation_id: str = "") -> Applied:
        states = (JobState.SUBMITTING, JobState.UNKNOWN, JobState.CANCELLED, JobState.FAILED)
        generation_id = generation_id or f"task_{job_id}"
        changes = tuple(attach(state, LANE, generation_id, "accepted") for state in states)
        return self.apply(Transition(job_id=job_id, intent_id=intent_id, changes=changes))[0]

    def generating(self, **params: Any) -> dict[str, Any]:
        """Bring a fresh job to `generating` and claim its poll."""
        (job_id,) = self.enqueue(**params)
        (entry,) = self.claim_submit()[2]
        assert self.intent(entry) is Applied.FIRST
        assert self.accept(job_id) is Applied.FIRST
        (polled,) = self.claim_due(f"poll:{LANE}")[1]
        return polled

    def job(self, job_id: str) -> Job:
        return JobStore(self.client, self.keys, self.limits).get(job_id)

    def job_epoch(self, job_id: str) -> int:
        return int(self.client.hget(self.keys.job(job_id), "epoch") or 0)

    def balances(self) -> dict[str, int]:
        found: Any = self.client.hgetall(self.keys.balances)
        return {key.decode(): int(value) for key, value in found.items()}

    def usage(self) -> dict[str, int]:
        found: Any = self.client.hgetall(self.keys.usage)
        return {key.decode(): int(value) for key, value in found.items() if int(value)}

    def count(self, scope: str, state: str) -> int:
        return int(self.client.hget(self.keys.counts, f"{scope}|{state}") or 0)


def _row(entry_id: bytes, values: list[bytes | None], names: tuple[str, ...], **more: Any) -> dict[str, Any]:
    fields = {
        name: None if value is None else value.decode() for name, value in zip(names, values, strict=True)
    }
    return {"id": entry_id.decode(), **fields, **more}


@pytest.fixture(params=["valkey", "redis7"])
def state(request: pytest.FixtureRequest) -> Iterator[State]:
    """Scripts on Valkey 9 and on Debian's Redis 7.0: the oldest server promised."""
    server = request.getfixturevalue(request.param)
    client = Redis.from_url(server.url(0))
    yield State(client, Keys.of(f"lua-{uuid.uuid4().hex[:12]}"))
    client.close()
