"""apply_transitions.lua: guards, money once, late generations, batches, events, retention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.jobs.commands import plan_cancel, plan_release, plan_resolve, plan_resubmit
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition
from tests.integration.lua.conftest import LANE, PRICE

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State


def completed(job_id: str, epoch: int, micros: int = PRICE) -> Transition:
    """The end of a job polled under this epoch."""
    change = Change(
        before=JobState.GENERATING, after=JobState.COMPLETED, settle_micros=micros, free_slot=LANE,
        leave=(f"poll:{LANE}",), images=1,
    )  # fmt: skip
    return Transition(job_id=job_id, epoch=epoch, held=f"poll:{LANE}", changes=(change,))


def unknown(state: State, **params: Any) -> str:
    """A job whose POST has an unknown outcome."""
    (job_id,) = state.enqueue(**params)
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    change = Change(
        before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",), due_in=(("unknown", 0),),
        keep_slot=(LANE, 600_000), fields={"unknown_cause": "timeout"},
    )  # fmt: skip
    assert state.apply(Transition(job_id=job_id, intent_id="i1", changes=(change,))) == [Applied.FIRST]
    return job_id


def test_settles_once_and_balances(state: State) -> None:
    """The hold is spent by the completing transition; the same transition again changes nothing."""
    entry = state.generating()
    end = completed(entry["id"], int(entry["epoch"]))
    assert state.apply(end, end) == [Applied.FIRST, Applied.FENCED]
    assert state.balances() == {"CNY|budget:acme": -PRICE, "CNY|held:acme": 0, "CNY|spent:acme": PRICE}
    assert state.job(entry["id"]).cost_micros == PRICE
    assert state.client.zcard(state.keys.slots(LANE)) == 0


def test_partial_delivery_releases_the_rest(state: State) -> None:
    """Held for three, delivered one: one is spent, two return to the budget; the sum stays zero."""
    (job_id,), replies = state.try_enqueue(n=3)
    assert replies == [0]
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    state.accept(job_id)
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    state.apply(completed(job_id, int(polled["epoch"])))
    balances = state.balances()
    assert (balances["CNY|held:acme"], balances["CNY|spent:acme"], sum(balances.values())) == (0, PRICE, 0)


def test_stale_epoch_is_fenced(state: State) -> None:
    """A holder that lost its lease cannot move the job."""
    entry = state.generating()
    state.now_ms += 12_000
    (again,) = state.claim_due(f"poll:{LANE}")[1]
    assert state.apply(completed(entry["id"], int(entry["epoch"]))) == [Applied.FENCED]
    assert state.apply(completed(entry["id"], int(again["epoch"]))) == [Applied.FIRST]


def test_cancel_while_polled_gives_the_entry_back(state: State) -> None:
    """The holder's plan for `generating` no longer fits: the entry is due at once for whoever reads afresh."""
    entry = state.generating()
    plan = plan_cancel(state.job(entry["id"]))
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert state.apply(completed(entry["id"], int(entry["epoch"]))) == [Applied.FENCED]
    (again,) = state.claim_due(f"poll:{LANE}")[1]
    assert (again["id"], again["state"], again["suspect"]) == (entry["id"], "cancelled", None)
    assert state.balances()["CNY|held:acme"] == PRICE


def test_cancel_before_intent_fences_the_holder(state: State) -> None:
    """Cancelled between claim and intent: free, and the POST never happens."""
    (job_id,) = state.enqueue()
    (entry,) = state.claim_submit()[2]
    plan = plan_cancel(state.job(job_id))
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert state.intent(entry) is Applied.FENCED
    assert state.balances()["CNY|held:acme"] == 0


def test_late_generation_is_attached_by_intent(state: State) -> None:
    """A worker thought dead wakes up with an id: the unknown job goes on, and is billed once."""
    job_id = unknown(state)
    assert state.accept(job_id) is Applied.SECOND
    job = state.job(job_id)
    assert (job.state, job.generation_id, job.unknown_cause) == ("generating", f"task_{job_id}", None)
    assert state.client.zcard(state.keys.index("unknown")) == 0


def test_generation_of_an_older_intent_becomes_an_orphan(state: State) -> None:
    """After a resubmission the first POST's id belongs to no living intent: it is listed, never lost."""
    job_id = unknown(state)
    state.now_ms += 200_000
    plan = plan_resubmit(state.job(job_id), by="test", now_ms=state.now_ms, wait_ms=120_000)
    assert state.apply(plan) == [Applied.FIRST]
    assert state.accept(job_id) is Applied.ORPHAN
    assert state.client.hkeys(state.keys.orphans) == [f"task_{job_id}".encode()]


def test_two_jobs_never_share_a_generation(state: State) -> None:
    """The provider named the same id twice: the second is refused and nothing of it changes."""
    first, second = state.enqueue(2)
    for entry in state.claim_submit()[2]:
        state.intent(entry, entry["id"])
    assert state.accept(first, first, "task_same") is Applied.FIRST
    assert state.accept(second, second, "task_same") is Applied.GENERATION_TAKEN
    assert state.job(second).state == "submitting"


def test_resolve_is_idempotent_and_release_gives_the_money_back(state: State) -> None:
    """The operator's two answers: here is its generation; or, it never existed."""
    resolved, released = unknown(state), unknown(state)
    plan = plan_resolve(state.job(resolved), "task_found", by="me")
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert plan_resolve(state.job(resolved), "task_found", by="me") is None
    plan = plan_release(state.job(released), by="me")
    assert plan is not None
    assert state.apply(plan) == [Applied.FIRST]
    assert plan_release(state.job(released), by="me") is None
    assert state.balances()["CNY|held:acme"] == PRICE
    assert (state.job(released).state, state.job(released).error_code) == ("failed", "released")


def test_released_job_found_after_all_is_charged(state: State) -> None:
    """State is final, accounting is not: a late id on a released job is attached, polled and charged once."""
    job_id = unknown(state)
    plan = plan_release(state.job(job_id), by="me")
    assert plan is not None
    state.apply(plan)
    assert state.accept(job_id) is not Applied.FENCED
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    closing = Change(
        before=JobState.FAILED, after=JobState.FAILED, settle_micros=PRICE, leave=(f"poll:{LANE}",),
        close_accounting=True,
    )  # fmt: skip
    assert state.apply(Transition(job_id=job_id, epoch=int(polled["epoch"]), changes=(closing,))) == [
        Applied.FIRST
    ]
    assert state.job(job_id).state == "failed"
    assert state.balances() == {"CNY|budget:acme": -PRICE, "CNY|held:acme": 0, "CNY|spent:acme": PRICE}


def test_batch_completes_once_when_sealed_and_done(state: State) -> None:
    """batch.completed needs the seal and the last job, in either order, and fires once."""
    entry = state.generating(batch="b1", webhook="http://sink.test/")
    state.apply(completed(entry["id"], int(entry["epoch"])))
    events = [each["event"] for each in state.claim_due("notify")[1]]
    assert events == ["image.completed"]
    for expected in (1, 0):
        assert state.call("close_batch", _context(state), "acme", "b1", "seal") == expected
    assert [each["event"] for each in state.claim_due("notify")[1]] == ["batch.completed"]


def test_batch_with_only_unknowns_stalls(state: State) -> None:
    """When nothing but unknown jobs is left, the batch is reported stalled once; resolving them completes it."""
    job_id = unknown(state, batch="b1", webhook="http://sink.test/")
    state.call("close_batch", _context(state), "acme", "b1", "seal")
    assert state.client.zscore(state.keys.index("stalling"), "acme:b1") == state.now_ms + 900_000
    state.now_ms += 900_000
    for expected in (1, 0):
        assert state.call("close_batch", _context(state), "acme", "b1", "stall") == expected
    plan = plan_resolve(state.job(job_id), "task_x", by="me")
    assert plan is not None
    state.apply(plan)
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    state.apply(completed(job_id, int(polled["epoch"])))
    assert state.client.hget(state.keys.batch("acme", "b1"), "completed_at")


def test_ended_record_expires_with_its_idempotency_key(state: State) -> None:
    """Every key of a finished job has a time to live; of an unknown job none has."""
    entry = state.generating(idempotency_key="k1")
    state.apply(completed(entry["id"], int(entry["epoch"])))
    held = unknown(state, idempotency_key="k2")
    for key in state.client.scan_iter(f"{state.keys.prefix}[jrxti]:*"):
        ttl = state.client.pttl(key)
        owner = state.client.get(key) if b":i:" in key else key
        assert (ttl == -1) == (held.encode() in (owner or b"")), key


def test_a_late_id_keeps_its_record_until_the_bill_is_known(state: State) -> None:
    """A record on its way out stays for as long as its generation is asked about, then goes in its time."""
    job_id = unknown(state, idempotency_key="k1")
    release = plan_release(state.job(job_id), by="me")
    assert release is not None
    state.apply(release)
    keys = list(state.client.scan_iter(f"{state.keys.prefix}[jrxti]:*"))
    assert len(keys) >= 4
    assert all(state.client.pttl(key) > 0 for key in keys)
    assert state.accept(job_id) is Applied.FOURTH
    assert [key for key in keys if state.client.pttl(key) != -1] == []
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    closing = Change(
        before=JobState.FAILED, after=JobState.FAILED, settle_micros=PRICE, leave=(f"poll:{LANE}",),
        close_accounting=True,
    )  # fmt: skip
    state.apply(Transition(job_id=job_id, epoch=int(polled["epoch"]), changes=(closing,)))
    assert all(state.client.pttl(key) > 0 for key in keys)


def test_a_bill_that_outlives_its_batch_leaves_no_trace_of_it(state: State) -> None:
    """The batch's time was over: what is settled after it counts for the job, and for no batch of that name to come."""
    entry = state.generating(batch="b1")
    cancel = plan_cancel(state.job(entry["id"]))
    assert cancel is not None
    state.apply(cancel)
    state.call("close_batch", _context(state), "acme", "b1", "seal")
    batch = state.keys.batch("acme", "b1")
    assert state.client.pttl(batch) > 0
    state.client.delete(batch, state.keys.batch_jobs("acme", "b1"))
    closing = Change(
        before=JobState.CANCELLED, after=JobState.CANCELLED, settle_micros=PRICE, leave=(f"poll:{LANE}",),
        free_slot=LANE, close_accounting=True,
    )  # fmt: skip
    plan = Transition(job_id=entry["id"], epoch=int(entry["epoch"]), changes=(closing,))
    assert state.apply(plan) == [Applied.FIRST]
    assert state.balances()["CNY|spent:acme"] == PRICE
    assert state.client.exists(batch) == 0


def test_a_batch_that_has_the_name_of_an_older_one_is_told_under_an_id_of_its_own(state: State) -> None:
    """Whoever remembers ids must not take the end of tonight's batch for that of last month's."""
    for _ in range(2):
        entry = state.generating(batch="nightly", webhook="http://sink.test/")
        state.apply(completed(entry["id"], int(entry["epoch"])))
        state.call("close_batch", _context(state), "acme", "nightly", "seal")
        state.client.delete(state.keys.batch("acme", "nightly"), state.keys.batch_jobs("acme", "nightly"))
        state.now_ms += 86_400_000
    told = [state.client.hget(key, "event") for key in state.client.scan_iter(state.keys.delivery("*"))]
    assert told.count(b"batch.completed") == 2


def _context(state: State) -> bytes:
    from shared.jobs.transition import context_json

    return context_json(state.limits)
