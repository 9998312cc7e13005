"""apply_transitions.lua: guards, money once, late generations, batches, events, retention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.jobs.commands import plan_cancel, plan_release, plan_resolve, plan_resubmit
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition
from tests.integration.lua.conftest import LANE, PRICE
from tests.integration.lua.machine.plans import delivered, entry_of, lost, not_sent, refused, snoozed
from workers.claims import Entry
from workers.stages.notify_events import batch_event
from workers.stages.submit_plans import plan_accepted_late, plan_give_up_unknown

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


def settled(state: State, job_id: str) -> Transition:
    """The end of the accounting of a job that has ended, once its generation is done."""
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    assert polled["id"] == job_id
    entry = entry_of(polled, f"poll:{LANE}", state.now_ms)
    return delivered(entry, 1)


def released(state: State, job_id: str) -> Transition:
    plan = plan_release(state.job(job_id), by="ops")
    assert plan is not None
    return plan


def test_a_late_generation_stops_the_retention_of_its_job(state: State) -> None:
    """Attached a day before the record goes, it is still polled and charged after that day; then retention begins anew."""
    job_id = unknown(state, idempotency_key="k1")
    keys = [state.keys.job(job_id), state.keys.spec(job_id), state.keys.timeline(job_id)]
    keys += [key.decode() for key in state.client.scan_iter(f"{state.keys.prefix}i:*")]
    assert len(keys) == 4
    for plan, forever in (
        (released(state, job_id), False),
        (plan_accepted_late(job_id, LANE, "i1", "task_late"), True),
    ):
        assert state.apply(plan)[0] >= Applied.FIRST
        assert {state.client.pttl(key) == -1 for key in keys} == {forever}
    assert state.apply(settled(state, job_id)) == [Applied.FIRST]
    assert {state.client.pttl(key) == -1 for key in keys} == {False}
    assert state.balances()["CNY|spent:acme"] == PRICE


def test_a_batch_is_kept_while_money_is_held_for_it(state: State) -> None:
    """Its jobs have ended, one with an open bill: else that hold would be given back to the next batch of its name."""
    job_id = unknown(state, batch="b1")
    gave_up = Change(before=JobState.UNKNOWN, after=JobState.FAILED, keep=True, fields={"accounting": "open"})
    assert state.apply(Transition(job_id=job_id, changes=(gave_up,))) == [Applied.FIRST]
    assert state.call("close_batch", _context(state), "acme", "b1", "seal") == 1
    kept = (state.keys.batch("acme", "b1"), state.keys.batch_jobs("acme", "b1"))
    assert state.client.hget(kept[0], "completed_at")
    assert [state.client.pttl(key) for key in kept] == [-1, -1]
    assert state.apply(released(state, job_id)) == [Applied.FIRST]
    assert all(0 < state.client.pttl(key) <= state.limits.retain_batches_s * 1000 for key in kept)
    assert state.client.hget(kept[0], "held_micros") == b"0"


def test_a_batch_that_has_expired_does_not_come_back(state: State) -> None:
    """What is charged for one of its jobs afterwards leaves no record of it."""
    job_id = unknown(state, batch="b1")
    assert state.apply(released(state, job_id)) == [Applied.FIRST]
    state.client.delete(state.keys.batch("acme", "b1"), state.keys.batch_jobs("acme", "b1"))
    assert state.apply(plan_accepted_late(job_id, LANE, "i1", "task_late")) == [Applied.THIRD]
    assert state.apply(settled(state, job_id)) == [Applied.FIRST]
    assert state.balances()["CNY|spent:acme"] == PRICE
    assert not state.client.exists(state.keys.batch("acme", "b1"))


def test_a_batch_of_several_currencies_has_none(state: State) -> None:
    """A sum of yuan and dollars is of neither: the event says null, whatever was billed first."""
    entry = Entry("evt_1", "notify", "d", 1, {"event": "batch.completed", "batch": "b1", "tenant": "acme"})
    told = []
    for lane in ({"currency": "CNY"}, {"currency": "USD", "price_micros": 30_000}, {"currency": "CNY"}):
        (job_id,) = state.enqueue(batch="b1")
        (row,) = state.claim_submit(**lane)[2]
        done = Change(
            before=JobState.SUBMITTING, after=JobState.FAILED, settle_micros=int(row["n"]) * 1000, leave=(f"submit:{LANE}",),
        )  # fmt: skip
        assert state.apply(Transition(job_id=job_id, epoch=int(row["epoch"]), changes=(done,))) == [
            Applied.FIRST
        ]
        record: Any = state.client.hgetall(state.keys.batch("acme", "b1"))
        batch = {name.decode(): value.decode() for name, value in record.items()}
        told.append(batch_event(entry, batch).data.currency)
    assert told == ["CNY", None, None]


@pytest.mark.parametrize("ended_by", ["cancel", "policy"])
@pytest.mark.parametrize("answer", ["refused", "not sent"])
def test_an_answer_that_comes_after_all_closes_the_bill(state: State, ended_by: str, answer: str) -> None:
    """Given up as unknown while its holder slept, and ended: the holder knows that nothing was executed."""
    (job_id,) = state.enqueue()
    (row,) = state.claim_submit()[2]
    entry = entry_of(row, f"submit:{LANE}", state.now_ms)
    state.intent(row)
    if ended_by == "cancel":
        cancel = plan_cancel(state.job(job_id), by="me")
        assert cancel is not None
        assert state.apply(cancel) == [Applied.FIRST]
    assert state.apply(lost(entry, None))[0] >= Applied.FIRST
    if ended_by == "policy":
        assert state.apply(plan_give_up_unknown(job_id)) == [Applied.FIRST]
    assert state.client.zrange(state.keys.index("unknown"), 0, -1) == [job_id.encode()]
    ended = state.job(job_id).state
    late = refused(entry, "i1") if answer == "refused" else not_sent(entry, "i1", 100)
    assert state.apply(late)[0] >= Applied.FIRST
    job = state.job(job_id)
    assert (job.state, job.hold_micros, job.unknown_cause, job.accounting_open) == (ended, 0, None, False)
    assert state.client.zcard(state.keys.index("unknown")) == 0
    assert state.client.zcard(state.keys.slots(LANE)) == 0
    assert state.client.pttl(state.keys.job(job_id)) > 0


def test_a_closed_bill_is_not_polled_on(state: State) -> None:
    """Resolved by hand to a generation that was somebody's guess: who polls it just then must not bring it back."""
    (job_id,) = state.enqueue()
    (row,) = state.claim_submit()[2]
    entry = entry_of(row, f"submit:{LANE}", state.now_ms)
    state.intent(row)
    assert state.apply(lost(entry, None)) == [Applied.FIRST]
    assert state.apply(plan_give_up_unknown(job_id)) == [Applied.FIRST]
    guess = plan_resolve(state.job(job_id), "task_x", by="me")
    assert guess is not None
    assert state.apply(guess) == [Applied.FIRST]
    (polled,) = state.claim_due(f"poll:{LANE}")[1]
    assert state.apply(refused(entry, "i1")) == [Applied.THIRD]
    assert state.apply(snoozed(entry_of(polled, f"poll:{LANE}", state.now_ms), 100)) == [Applied.FENCED]
    assert state.client.zcard(state.keys.index(f"poll:{LANE}")) == 0
    assert state.balances()["CNY|held:acme"] == 0


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
