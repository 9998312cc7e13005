"""watch_state.lua: the store is the one that workers knew, or spending stops; steps of the clock undo nobody's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.lua.conftest import LANE, MODEL

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

POLL = f"poll:{LANE}"
HOUR_MS = 3_600_000


def control(state: State, *fields: str) -> list[str]:
    found: Any = state.client.hmget(state.keys.control, fields)
    return [(value or b"").decode() for value in found]


def losses(state: State) -> dict[str, str]:
    found: Any = state.client.hgetall(state.keys.losses)
    return {mark.decode(): what.decode() for mark, what in found.items()}


def empty(state: State) -> None:
    """Lose everything, as FLUSHALL does."""
    for key in state.client.scan_iter(f"{state.keys.prefix}*"):
        state.client.delete(key)


def freeze_off(state: State) -> None:
    state.call("freeze", "", "anna@a", "")


# --- the mark


def test_the_first_worker_marks_the_store_and_others_learn_the_mark(state: State) -> None:
    """A fresh installation begins by itself; nothing is frozen."""
    assert state.watch(fresh="m1") == ("first", "m1", 1, 0)
    assert state.watch(fresh="m2") == ("first", "m1", 1, 0)
    assert state.watch("m1") == ("same", "m1", 1, 0)
    assert (control(state, "freeze"), losses(state)) == ([""], {})
    assert state.client.smembers(state.keys.lanes) == {LANE.encode()}


@pytest.mark.parametrize(
    ("replaced", "why"),
    [(False, "the state was emptied"), (True, "another store answers: the state was replaced")],
)
def test_a_mark_that_is_gone_stops_spending_until_somebody_says_otherwise(
    state: State, replaced: bool, why: str
) -> None:
    """Noticed by whoever knew it, once; ended by `freeze off`; then the store is taken as it is."""
    state.watch(fresh="m1")
    empty(state)
    mark = "other" if replaced else ""
    if replaced:
        assert state.watch(fresh="other")[0] == "first"
    state.enqueue()
    for _ in range(2):
        assert state.watch("m1", fresh="m2") == ("lost", mark, int(replaced), 0)
    told = control(state, "freeze", "freeze_by", "freeze_at", "freeze_why", "installation")
    assert told == ["spending", "w1", str(state.now_ms), why, mark]
    assert losses(state) == {"m1": "open"}
    assert state.client.xlen(state.keys.audit) == 1
    assert state.claim_submit()[1:] == ("frozen", [])

    freeze_off(state)
    assert losses(state) == {"m1": "accepted"}
    mark = mark or "m2"
    assert state.watch("m1", fresh="m2") == ("adopted", mark, 1, 0)
    assert state.watch(mark)[0] == "same"
    assert len(state.claim_submit(mark=mark)[2]) == 1


def test_an_enqueue_does_not_hide_the_loss(state: State) -> None:
    """Jobs are taken in by an emptied store, but nothing marks it, and nobody who knew a mark submits them."""
    state.watch(fresh="m1")
    empty(state)
    state.enqueue()
    assert control(state, "installation") == [""]
    assert state.claim_submit(mark="m1") == (-1, "lost", [])
    assert state.watch("m1")[0] == "lost"


def test_a_worker_that_starts_in_an_emptied_store_does_not_hide_the_loss(state: State) -> None:
    """It marks the store anew; those that knew the old mark submit nothing, and stop it, too."""
    state.watch(fresh="m1")
    empty(state)
    state.watch(fresh="m2")
    state.enqueue()
    assert state.claim_submit(mark="m1")[1:] == ("lost", [])
    assert state.watch("m1")[0] == "lost"
    assert state.claim_submit(mark="m2")[1:] == ("frozen", [])


def test_accepting_one_loss_accepts_no_later_one(state: State) -> None:
    """The second time the store is emptied is noticed like the first."""
    for known, fresh in (("m1", "m2"), ("m2", "m3")):
        if known == "m1":
            state.watch(fresh=known)
        empty(state)
        assert state.watch(known)[0] == "lost"
        freeze_off(state)
        assert state.watch(known, fresh=fresh) == ("adopted", fresh, 1, 0)


def test_another_freeze_is_left_as_it_is(state: State) -> None:
    """`everything` in the store that was switched to stays, with its author; ending it accepts the store."""
    state.watch(fresh="other")
    state.call("freeze", "everything", "ben@b", "moving")
    assert state.watch("m1")[0] == "lost"
    assert control(state, "freeze", "freeze_by") == ["everything", "ben@b"]
    freeze_off(state)
    assert state.watch("m1")[:2] == ("adopted", "other")


def test_the_schema_version_only_rises(state: State) -> None:
    """The store says the latest version that worked on it."""
    assert state.watch(fresh="m1", schema=2)[2] == 2
    assert state.watch("m1", schema=1)[2] == 2
    assert state.watch("m1", schema=3)[2] == 3


# --- the clock


def generating(state: State) -> str:
    """One job under a lease of w1's poll."""
    return str(state.generating()["id"])


def renew(state: State, index: str, entry_id: str) -> list[Any]:
    """Renew the lease of a job, as its holder does."""
    epoch = int(state.client.hget(state.keys.job(entry_id), "epoch") or 0)
    lost: list[Any] = state.call("renew_leases", 12_000, index, "j", entry_id, epoch)
    return lost


def submitting(state: State) -> str:
    """One job whose POST is under way."""
    (job_id,) = state.enqueue()
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    return job_id


def test_a_jump_forward_takes_no_lease_from_a_living_holder(state: State) -> None:
    """The clock is set an hour forward: POST and poll under way stay their holder's, who renews them as ever."""
    state.watch(fresh="m1")
    polled, posting = generating(state), submitting(state)
    state.now_ms += HOUR_MS
    assert state.claim_submit()[2] == []
    assert state.claim_due(POLL)[1] == []
    for index, job_id in ((POLL, polled), (f"submit:{LANE}", posting)):
        assert renew(state, index, job_id) == []
    state.now_ms += 4000
    state.watch("m1")
    assert state.claim_submit()[2] == []
    assert state.claim_due(POLL)[1] == []


def test_after_a_jump_forward_a_dead_holder_is_still_replaced(state: State) -> None:
    """What nobody renewed within the grace is handed over, whichever script noticed the gap."""
    state.watch(fresh="m1")
    polled, posting = generating(state), submitting(state)
    state.now_ms += HOUR_MS
    assert state.watch("m1")[3] == HOUR_MS
    assert (state.claim_submit()[2], state.claim_due(POLL)[1]) == ([], [])
    for _ in range(12):
        state.now_ms += 1000
        assert state.watch("m1")[3] == 0
    assert [(each["id"], each["expired"]) for each in state.claim_submit()[2]] == [(posting, 1)]
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [polled]


def test_a_jump_that_a_claim_noticed_first_is_told_once(state: State) -> None:
    """A busy worker claims more often than it looks at the store, and somebody is to hear of the jump all the same."""
    state.watch(fresh="m1")
    state.now_ms += HOUR_MS
    assert state.claim_submit()[2] == []
    state.now_ms += 500
    assert [state.watch("m1")[3] for _ in range(2)] == [HOUR_MS, 0]


def test_what_waits_without_a_holder_is_due_after_a_jump(state: State) -> None:
    """The grace is for leases alone: a poll that nobody has taken is taken at once."""
    state.watch(fresh="m1")
    (job_id,) = state.enqueue()
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    state.accept(job_id)
    state.now_ms += HOUR_MS
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [job_id]


def test_a_death_while_others_live_is_recovered_at_the_end_of_its_lease(state: State) -> None:
    """No gap, no grace: twelve seconds after the last renewal the job is somebody else's."""
    state.watch(fresh="m1")
    posting = submitting(state)
    for _ in range(12):
        assert state.claim_submit()[2] == []
        state.now_ms += 1000
        assert state.watch("m1")[3] == 0
    assert [each["id"] for each in state.claim_submit()[2]] == [posting]


def test_a_lease_that_was_over_before_the_gap_is_over(state: State) -> None:
    """Its holder had its time: a store that was away, or a step of the clock, gives it no more."""
    state.watch(fresh="m1")
    posting = submitting(state)
    for _ in range(13):
        state.now_ms += 1000
        state.watch("m1")
    state.now_ms += HOUR_MS
    assert [each["id"] for each in state.claim_submit()[2]] == [posting]


def test_a_jump_back_delays_neither_due_work_nor_permits(state: State) -> None:
    """The clock is set an hour back: polls, retries, closed lanes, permits and dead holders wait no hour for it."""
    state.watch(fresh="m1")
    polled, posting = generating(state), submitting(state)
    waiting, fixed = state.enqueue()[0], state.enqueue(not_before_at=state.now_ms + 60_000)[0]
    later = state.keys.index(f"later:{MODEL}")
    state.client.zrem(state.keys.queue(MODEL, "acme"), waiting)
    state.client.zadd(later, {waiting: state.now_ms + 5000})
    state.client.hset(state.keys.lane(LANE), "closed_until", state.now_ms + 3000)
    state.client.hset(state.keys.lane(LANE), "tat", (state.now_ms + 100) * 1000)
    for where in (("submit", LANE), ("poll", LANE), ("sweep", "")):
        state.client.set(state.keys.hint(*where), 1, px=HOUR_MS)

    state.now_ms -= HOUR_MS
    assert state.watch("m1") == ("same", "m1", 1, -HOUR_MS)
    assert state.watch("m1")[3] == 0
    assert list(state.client.scan_iter(f"{state.keys.prefix}hint:*")) == []
    assert float(state.client.zscore(later, waiting) or 0) == state.now_ms + 5000
    assert float(state.client.zscore(later, fixed) or 0) == state.now_ms + HOUR_MS + 60_000
    for _ in range(13):
        state.now_ms += 1000
        state.watch("m1")
    rows = state.claim_submit(interval_us=200_000)[2]
    state.now_ms += 200
    rows += state.claim_submit(interval_us=200_000)[2]
    assert sorted((each["id"], each["expired"]) for each in rows) == sorted([(posting, 1), (waiting, 0)])
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [polled]


def test_after_a_jump_back_a_halved_rate_climbs_as_ever(state: State) -> None:
    """A 429 came just before the clock was set an hour back: half a minute later the full rate is there again."""
    state.watch(fresh="m1")
    state.enqueue(2)
    state.client.hset(state.keys.lane(LANE), mapping={"pace": 500, "pace_at": state.now_ms})
    state.now_ms -= HOUR_MS
    state.watch("m1")
    state.now_ms += 30_000
    next_in, _, rows = state.claim_submit(interval_us=200_000)
    assert (len(rows), next_in) == (1, 200)


def test_a_jump_back_takes_no_lease_from_a_living_holder(state: State) -> None:
    """A lease written on either side of the step, and renewed as ever, stays its holder's."""
    state.watch(fresh="m1")
    polled = generating(state)
    state.now_ms -= HOUR_MS
    posting = submitting(state)  # claimed before any worker noticed
    state.watch("m1")
    for _ in range(5):
        assert (state.claim_submit()[2], state.claim_due(POLL)[1]) == ([], [])
        state.now_ms += 4000
        state.watch("m1")
        for index, job_id in ((POLL, polled), (f"submit:{LANE}", posting)):
            assert renew(state, index, job_id) == []


def test_permits_are_never_far_ahead(state: State) -> None:
    """Also before anybody noticed the step: the next permit is one interval away, not an hour."""
    state.enqueue(2)
    state.client.hset(state.keys.lane(LANE), "tat", (state.now_ms + HOUR_MS) * 1000)
    next_in, reason, rows = state.claim_submit(interval_us=200_000)
    assert (next_in, reason, rows) == (200, "permits", [])
    state.now_ms += 200
    assert len(state.claim_submit(interval_us=200_000)[2]) == 1


# --- records of a later version


def test_a_later_versions_record_is_left_to_its_workers(state: State) -> None:
    """An older worker takes its own version's jobs and says what it left; the newer one takes all."""
    old, new = state.enqueue(2)
    state.client.hset(state.keys.job(new), "v", 2)
    assert [each["id"] for each in state.claim_submit()[2]] == [old]
    newer = state.keys.index("newer")
    assert state.client.zscore(newer, new) == state.now_ms
    assert state.claim_submit()[2] == []
    state.now_ms += 1000
    assert [each["id"] for each in state.claim_submit(schema=2)[2]] == [new]


def test_no_transition_of_an_older_worker_changes_it(state: State) -> None:
    """Its lease may end and its poll be due: an older worker neither recovers nor polls it, but an id is attached."""
    job_id = submitting(state)
    state.client.hset(state.keys.job(job_id), "v", 2)
    state.now_ms += 13_000
    assert state.claim_submit()[2] == []
    entry = {"id": job_id, "epoch": state.job_epoch(job_id)}
    assert state.intent(entry, "i2") == 0
    assert state.accept(job_id) >= 1
    assert state.claim_due(POLL)[1] == []
    assert state.client.zcard(state.keys.index("newer")) == 1
    state.now_ms += 1000
    assert [each["id"] for each in state.claim_due(POLL, schema=2)[1]] == [job_id]


def test_a_queue_of_later_records_costs_an_older_claim_little(state: State) -> None:
    """It looks at no more than it may take, and comes back."""
    for job_id in state.enqueue(50):
        state.client.hset(state.keys.job(job_id), "v", 2)
    next_in, _, rows = state.claim_submit(k=10)
    assert rows == []
    assert 0 <= next_in <= 1000
    assert state.client.zcard(state.keys.index(f"later:{MODEL}")) <= 20
