"""redrive_jobs.lua with the plans of shared.jobs.redrive: what goes back, with which money, counts and retention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import from_json, to_json

from shared.jobs.commands import plan_release
from shared.jobs.lifecycle import JobState
from shared.jobs.redrive import GUARDED, REDRIVE_FIELDS, Verdict, judge, plan_redrive
from shared.jobs.schema import SCHEMA
from shared.jobs.transition import LEASE_FIELDS, Applied, Change, Transition, context_json
from shared.money.ledger import read_entries, verify
from tests.integration.lua.conftest import LANE, MODEL, PRICE

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

WAIT_MS = 120_000


def record(state: State, job_id: str) -> dict[str, str]:
    values: Any = state.client.hmget(state.keys.job(job_id), *REDRIVE_FIELDS)
    return {
        name: value.decode() for name, value in zip(REDRIVE_FIELDS, values, strict=True) if value is not None
    }


def verdict(state: State, job_id: str, *, pay_again: bool = False) -> Verdict:
    found = record(state, job_id)
    return judge(found, now_ms=state.now_ms, resubmit_wait_ms=WAIT_MS, pay_again=pay_again)


def plans(state: State, *job_ids: str, pay_again: bool = False) -> list[dict[str, Any]]:
    return [
        plan_redrive(
            job_id, record(state, job_id), verdict(state, job_id, pay_again=pay_again), by="anna",
            now_ms=state.now_ms, retain_ms=1000,
        )
        for job_id in job_ids
    ]  # fmt: skip


def send(state: State, made: list[dict[str, Any]], **over: Any) -> list[int]:
    more: dict[str, Any] = {
        "who": "anna", "why": "repaired", "words": "batch b", "dry": False, "max_backlog": 100,
        "max_tenant_backlog": 100, "caps": {}, "earlier": "", "done": 0, "again": 0, "micros": 0, "guarded": GUARDED,
    }  # fmt: skip
    context = to_json(from_json(context_json(state.limits)) | more | over)
    results: list[int] = state.call("redrive_jobs", context, to_json(made))[1:]
    return results


def redrive(state: State, *job_ids: str, pay_again: bool = False, **over: Any) -> list[int]:
    return send(state, plans(state, *job_ids, pay_again=pay_again), **over)


def refuse(state: State, job_id: str, code: str = "refused:content") -> None:
    """Submit the job and have the provider refuse it."""
    (entry,) = state.claim_submit()[2]
    assert entry["id"] == job_id
    assert state.intent(entry, f"i-{entry['epoch']}") is Applied.FIRST
    change = Change(
        before=JobState.SUBMITTING, after=JobState.FAILED, fields={"error_code": code},
        detail={"error_message": "no"}, clear=LEASE_FIELDS, leave=(f"submit:{LANE}",), free_slot=LANE,
        release=True, intent=(LANE, 0),
    )  # fmt: skip
    moved = Transition(job_id=job_id, intent_id=f"i-{entry['epoch']}", changes=(change,))
    assert state.apply(moved) == [Applied.FIRST]


def generate(state: State, job_id: str, intent_id: str = "i1", generation_id: str = "") -> None:
    (entry,) = state.claim_submit()[2]
    assert state.intent(entry, intent_id) is Applied.FIRST
    assert state.accept(job_id, intent_id, generation_id) is Applied.FIRST


def end_generating(state: State, job_id: str, code: str, micros: int) -> None:
    change = Change(
        before=JobState.GENERATING, after=JobState.FAILED, fields={"error_code": code}, clear=LEASE_FIELDS,
        leave=(f"poll:{LANE}",), free_slot=LANE, settle_micros=micros or None, release=not micros,
    )  # fmt: skip
    assert state.apply(Transition(job_id=job_id, changes=(change,))) == [Applied.FIRST]


def fail_copy(state: State, job_id: str) -> None:
    """Bring a generating job to copy_failed: delivered, settled, its copy given up."""
    delivered = Change(
        before=JobState.GENERATING, after=JobState.STORING, fields={"delivered": 1},
        detail={"urls": '[{"url":"https://p.test/1.png","expires_at":1}]'}, leave=(f"poll:{LANE}",),
        due_in=(("store", 0),), free_slot=LANE, settle_micros=PRICE,
    )  # fmt: skip
    failed = Change(
        before=JobState.STORING, after=JobState.FAILED, fields={"error_code": "copy_failed", "tries": 9},
        detail={"error_message": "storage", "artifacts": "[]"}, leave=("store",),
    )  # fmt: skip
    for change in (delivered, failed):
        assert state.apply(Transition(job_id=job_id, changes=(change,))) == [Applied.FIRST]


def complete(state: State, job_id: str) -> None:
    change = Change(before=JobState.STORING, after=JobState.COMPLETED, leave=("store",), images=1)
    assert state.apply(Transition(job_id=job_id, changes=(change,))) == [Applied.FIRST]


def batch(state: State) -> dict[str, str]:
    found: Any = state.client.hgetall(state.keys.batch("acme", "b"))
    return {name.decode(): value.decode() for name, value in found.items()}


def batch_counts(state: State) -> dict[str, int]:
    return {
        name: int(value)
        for name, value in batch(state).items()
        if name.startswith(("n:", "e:", "done", "total")) and int(value)
    }


def audits(state: State) -> list[tuple[str, ...]]:
    rows: Any = state.client.xrange(state.keys.audit)
    names = (b"who", b"what", b"on", b"why")
    return [tuple(fields[name].decode() for name in names) for _, fields in rows]


def postings(state: State) -> list[tuple[str, int]]:
    """Give the ledger's entries, oldest first."""
    return [(entry.kind, entry.micros) for entry in read_entries(state.client, state.keys)]


def keys_of(state: State, job_id: str) -> list[str]:
    keys = state.keys
    found = [keys.job(job_id), keys.spec(job_id), keys.detail(job_id), keys.timeline(job_id)]
    digest: Any = state.client.hget(keys.job(job_id), "idempotency")
    return [*found, keys.idempotency("acme", digest.decode())] if digest else found


def test_a_refused_job_is_queued_again_as_it_was(state: State) -> None:
    """Counts of all, tenant and batch move back; nothing expires any more; it takes its old place; then it completes."""
    (job_id,) = state.enqueue(batch="b", idempotency_key="k", webhook="shop")
    refuse(state, job_id)
    assert batch_counts(state) == {"total": 1, "done": 1, "n:failed": 1, "e:refused:content": 1}
    assert all(state.client.pttl(key) > 0 for key in keys_of(state, job_id))
    assert redrive(state, job_id) == [1]
    job = state.job(job_id)
    assert (job.state, job.error_code, job.error_message, job.finished_at) == ("queued", None, None, None)
    assert (job.lane, job.intent_id, job.timeline[-1].note) == (
        None, None, "redriven by anna: submitted again, free so far",
    )  # fmt: skip
    ttls = {key: state.client.pttl(key) for key in keys_of(state, job_id)}
    assert ttls.pop(state.keys.detail(job_id)) == -2, "nothing of the failed attempt is left in it"
    assert set(ttls.values()) == {-1}
    assert batch_counts(state) == {"total": 1, "n:queued": 1}
    counts = [state.count(*each) for each in (("*", "failed"), ("*", "queued"), ("acme", "queued"))]
    assert counts == [0, 1, 1]
    assert state.usage()["CNY|tenant:acme|q"] == PRICE
    assert state.client.zscore(state.keys.index("told"), job_id) is not None
    generate(state, job_id, "i2")
    end_generating(state, job_id, "provider:x", 0)
    assert state.client.hget(state.keys.job(job_id), "redriven") is None
    assert verify(state.client, state.keys).adds_up
    events = [key.decode() for key in state.client.scan_iter(f"{state.keys.delivery('')}*")]
    assert sorted(event[-2:] for event in events) == ["_1", "_2"]


def test_a_failed_copy_is_copied_again_without_a_new_charge(state: State) -> None:
    """Back to storing with generation id and URLs; the counter of tries begins anew; no money moves."""
    (job_id,) = state.enqueue(batch="b")
    generate(state, job_id)
    fail_copy(state, job_id)
    entries = state.client.xlen(state.keys.ledger)
    assert verdict(state, job_id) == Verdict("copy")
    assert redrive(state, job_id) == [1]
    job = state.job(job_id)
    assert (job.state, job.generation_id, job.cost_micros) == ("storing", f"task_{job_id}", PRICE)
    (entry,) = state.claim_due("store")[1]
    assert (entry["id"], entry["tries"], entry["redriven"]) == (job_id, None, "1")
    assert state.client.hget(state.keys.detail(job_id), "urls") is not None
    complete(state, job_id)
    assert state.client.xlen(state.keys.ledger) == entries
    assert batch_counts(state) == {"total": 1, "done": 1, "n:completed": 1}
    assert all(state.client.pttl(key) > 0 for key in keys_of(state, job_id))
    assert verify(state.client, state.keys).adds_up


def test_what_was_paid_is_only_paid_again_on_an_explicit_word(state: State) -> None:
    """A lost job was settled in full: with the word it is submitted again, both costs are booked, and audited."""
    (job_id,) = state.enqueue(batch="b")
    generate(state, job_id)
    end_generating(state, job_id, "lost", PRICE)
    state.now_ms += WAIT_MS
    assert verdict(state, job_id) == Verdict(None, "pay_again", pays_again=True, again_micros=PRICE)
    assert redrive(state, job_id, pay_again=True) == [1]
    assert audits(state) == [
        ("anna", "redrive", f"jobs: batch b; 1 to be paid again (at most {PRICE} micros)", "repaired")
    ]
    generate(state, job_id, "i2", "task_second")
    fail_copy(state, job_id)
    job = state.job(job_id)
    assert (job.cost_micros, job.generation_id) == (2 * PRICE, "task_second")
    assert batch(state)["cost_micros"] == str(2 * PRICE)
    assert (state.balances()["CNY|spent:acme"], state.balances()["CNY|held:acme"]) == (2 * PRICE, 0)
    assert postings(state) == [("hold", PRICE), ("settle", PRICE)] * 2
    assert verify(state.client, state.keys).adds_up


def test_a_released_job_costs_what_its_new_submit_costs(state: State) -> None:
    """The first hold was given back: if the provider did accept that submit, its id is an orphan, and not charged."""
    (job_id,) = state.enqueue(batch="b")
    (entry,) = state.claim_submit()[2]
    state.intent(entry, "i1")
    unknown = Change(
        before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",), clear=LEASE_FIELDS
    )
    assert state.apply(Transition(job_id=job_id, intent_id="i1", changes=(unknown,))) == [Applied.FIRST]
    release = plan_release(state.job(job_id), by="anna")
    assert release is not None
    assert state.apply(release) == [Applied.FIRST]
    state.now_ms += WAIT_MS
    assert redrive(state, job_id, pay_again=True) == [1]
    assert state.accept(job_id, "i1", "task_first") is Applied.ORPHAN
    generate(state, job_id, "i2", "task_second")
    fail_copy(state, job_id)
    assert state.job(job_id).cost_micros == PRICE
    assert postings(state) == [("hold", PRICE), ("release", PRICE), ("hold", PRICE), ("settle", PRICE)]
    assert state.client.hkeys(state.keys.orphans) == [b"task_first"]
    assert verify(state.client, state.keys).adds_up


def test_a_completed_batch_completes_once(state: State) -> None:
    """A redrive after its completion moves its counts; the event does not fire again; retention begins anew."""
    first, second = state.enqueue(2, batch="b", webhook="shop")
    refuse_first = state.claim_submit(1)[2][0]
    assert refuse_first["id"] == first
    for entry in (refuse_first, *state.claim_submit(1)[2]):
        change = Change(
            before=JobState.SUBMITTING, after=JobState.FAILED, fields={"error_code": "refused:x"},
            leave=(f"submit:{LANE}",), free_slot=LANE, release=True,
        )  # fmt: skip
        state.apply(Transition(job_id=entry["id"], changes=(change,)))
    assert state.call("close_batch", context_json(state.limits), "acme", "b", "seal") == 1
    completed_at = batch(state)["completed_at"]
    state.now_ms += 60_000
    assert redrive(state, first) == [1]
    assert state.client.pttl(state.keys.batch("acme", "b")) == -1
    assert state.client.pttl(state.keys.batch_jobs("acme", "b")) == -1
    refuse(state, first)
    assert batch(state)["completed_at"] == completed_at
    assert batch_counts(state) == {
        "total": 2,
        "done": 2,
        "n:failed": 2,
        "e:refused:x": 1,
        "e:refused:content": 1,
    }
    assert state.client.pttl(state.keys.batch("acme", "b")) > 0
    assert state.client.pttl(state.keys.batch_jobs("acme", "b")) > 0
    kinds = [state.client.hget(key, "event") for key in state.client.scan_iter(f"{state.keys.delivery('')}*")]
    assert kinds.count(b"batch.completed") == 1
    assert second != first


def test_a_dry_run_judges_and_changes_nothing(state: State) -> None:
    """Not the record, not the queue, not the audit."""
    (job_id,) = state.enqueue()
    refuse(state, job_id)
    before = state.client.hgetall(state.keys.job(job_id))
    assert redrive(state, job_id, dry=True) == [1]
    assert redrive(state, job_id, dry=True, max_backlog=0) == [4]
    assert state.client.hgetall(state.keys.job(job_id)) == before
    assert audits(state) == []
    assert state.claim_submit()[2] == []


def test_a_plan_is_applied_once(state: State) -> None:
    """The same plan twice, in one call or two, also after the job failed anew: the record is another one by then."""
    (job_id,) = state.enqueue()
    refuse(state, job_id)
    made = plans(state, job_id)
    assert send(state, [*made, *made]) == [1, 0]
    refuse(state, job_id)
    assert send(state, made) == [0]
    state.client.delete(state.keys.job(job_id))
    assert send(state, made) == [-1]
    assert len(audits(state)) == 1


def test_the_backlog_and_caps_hold_for_redrives(state: State) -> None:
    """As at the door: all queued jobs, the tenant's, and what is spent, held and committed under caps that reject."""
    ids = state.enqueue(3)
    for job_id in ids:
        (entry,) = state.claim_submit(1)[2]
        change = Change(
            before=JobState.SUBMITTING, after=JobState.FAILED, fields={"error_code": "refused:x"},
            leave=(f"submit:{LANE}",), free_slot=LANE, release=True,
        )  # fmt: skip
        assert entry["id"] == job_id
        state.apply(Transition(job_id=job_id, changes=(change,)))
    assert redrive(state, *ids, max_backlog=2, dry=True) == [1, 1, 4]
    assert redrive(state, *ids, max_tenant_backlog=1, dry=True) == [1, 3, 3]
    caps = {"acme": [["day", 2 * PRICE, "CNY"]]}
    assert redrive(state, *ids[:1], caps=caps) == [1]
    assert redrive(state, *ids[1:], caps=caps) == [1, 6]


@pytest.mark.parametrize(("field", "result"), [("stopped", 5), ("", 7)])
def test_a_stopped_or_vanished_batch_takes_no_job_back(state: State, field: str, result: int) -> None:
    """A cap of the batch stopped it; or its record is gone, and counts would be written to nobody's key."""
    (job_id,) = state.enqueue(batch="b")
    refuse(state, job_id)
    if field:
        state.client.hset(state.keys.batch("acme", "b"), field, "max_failed")
    else:
        state.client.delete(state.keys.batch("acme", "b"))
    assert redrive(state, job_id) == [result]
    assert state.client.exists(state.keys.batch("acme", "b")) == bool(field)


def test_a_later_versions_record_is_left_alone(state: State) -> None:
    """This version does not know what is in it."""
    (job_id,) = state.enqueue()
    refuse(state, job_id)
    state.client.hset(state.keys.job(job_id), "v", SCHEMA + 1)
    assert redrive(state, job_id) == [8]
    assert record(state, job_id)["state"] == "failed"


def test_a_stopped_batch_still_has_its_paid_images_copied(state: State) -> None:
    """They cost nothing more."""
    (job_id,) = state.enqueue(batch="b")
    generate(state, job_id)
    fail_copy(state, job_id)
    state.client.hset(state.keys.batch("acme", "b"), "stopped", "max_cost")
    assert redrive(state, job_id) == [1]


def test_a_deadline_that_has_passed_is_dropped(state: State) -> None:
    """Else the job would end at once; one that is to come stands."""
    (job_id,) = state.enqueue(deadline_at=state.now_ms + 1000)
    expiring = state.keys.index("expiring")
    refuse(state, job_id)
    assert redrive(state, job_id) == [1]
    assert state.client.zscore(expiring, job_id) == state.now_ms + 1000
    refuse(state, job_id)
    state.client.zrem(expiring, job_id)
    state.now_ms += 2000
    assert redrive(state, job_id) == [1]
    assert state.client.zscore(expiring, job_id) is None
    assert state.job(job_id).deadline_at is None


def test_a_job_that_was_never_claimed_goes_back(state: State) -> None:
    """Expired in the queue: it has no lane and no epoch."""
    (job_id,) = state.enqueue()
    change = Change(
        before=JobState.QUEUED, after=JobState.FAILED, unqueue=True, fields={"error_code": "expired"}
    )
    state.apply(Transition(job_id=job_id, changes=(change,)))
    assert redrive(state, job_id) == [1]
    assert [entry["id"] for entry in state.claim_submit()[2]] == [job_id]
    assert state.client.zcard(state.keys.queue(MODEL, "acme")) == 0
