"""claim_due.lua and renew_leases.lua: one sorted set is timer, lease and crash recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.lifecycle import DeliveryState, JobState
from shared.jobs.transition import (
    LEASE_FIELDS,
    Applied,
    Change,
    DeliveryTransition,
    Transition,
    context_json,
    transitions_json,
)
from tests.integration.lua.conftest import LANE

if TYPE_CHECKING:
    from typing import Any

    from tests.integration.lua.conftest import State

POLL = f"poll:{LANE}"


def snooze(entry: dict[str, Any], ms: int) -> Transition:
    """Ask again in ms."""
    change = Change(
        before=JobState.GENERATING, after=JobState.GENERATING, due_in=((POLL, ms),), clear=LEASE_FIELDS
    )
    return Transition(job_id=entry["id"], epoch=int(entry["epoch"]), held=POLL, changes=(change,))


def test_due_is_not_before_its_time(state: State) -> None:
    """A snoozed entry is invisible until its time, which the claim announces to the millisecond."""
    entry = state.generating()
    assert state.apply(snooze(entry, 3000)) == [Applied.FIRST]
    state.now_ms += 2999
    assert state.claim_due(POLL) == (1, [])
    state.now_ms += 1
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [entry["id"]]


def test_leased_entry_is_nobody_elses(state: State) -> None:
    """While the lease runs no other worker gets the entry; then it does, as a suspect under a new epoch."""
    entry = state.generating()
    state.now_ms += 11_999
    assert state.claim_due(POLL, worker="w2")[1] == []
    state.now_ms += 1
    (again,) = state.claim_due(POLL, worker="w2")[1]
    assert (again["suspect"], again["deaths"]) == ("1", None)
    assert int(again["epoch"]) > int(entry["epoch"])


def test_renewed_lease_lasts(state: State) -> None:
    """Renewal moves the lease on; a lease that another holder has is reported lost."""
    entry = state.generating()
    state.now_ms += 8000
    lease = (POLL, "j", entry["id"], entry["epoch"])
    assert state.call("renew_leases", 12_000, *lease) == []
    state.now_ms += 11_999
    assert state.claim_due(POLL)[1] == []
    state.now_ms += 1
    state.claim_due(POLL, worker="w2")
    assert state.call("renew_leases", 12_000, *lease) == [entry["id"].encode()]


def test_only_deaths_while_alone_count(state: State) -> None:
    """The first death makes a suspect and counts nothing; each death as a lone suspect counts one."""
    entry = state.generating()
    deaths = []
    for _ in range(4):
        state.now_ms += 12_000
        (again,) = state.claim_due(POLL)[1]
        assert again["id"] == entry["id"]
        deaths.append(again["deaths"])
    assert deaths == [None, "1", "2", "3"]


def test_success_clears_suspicion(state: State) -> None:
    """A suspect that was handled is like any other again."""
    state.generating()
    state.now_ms += 12_000
    (suspect,) = state.claim_due(POLL)[1]
    state.apply(snooze(suspect, 0))
    (again,) = state.claim_due(POLL)[1]
    assert (again["suspect"], again["deaths"]) == (None, None)


def test_neighbours_of_a_suspect_are_taken_without_it(state: State) -> None:
    """A process that has a suspect takes the others; the suspect is offered again shortly."""
    first = state.generating()
    state.now_ms += 12_000
    (job_id,) = state.enqueue()
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    state.accept(job_id)
    assert [each["id"] for each in state.claim_due(POLL, suspects=0)[1]] == [job_id]
    state.now_ms += 200
    assert [each["id"] for each in state.claim_due(POLL, suspects=1)[1]] == [first["id"]]


def test_poll_permits_are_the_accounts(state: State) -> None:
    """Status queries keep the account's rate over all its lanes and workers."""
    ids = state.enqueue(5)
    for entry in state.claim_submit()[2]:
        state.intent(entry, entry["id"])
        state.accept(entry["id"], entry["id"])
    rate = {"interval_us": 50_000, "burst": 2}
    next_in, taken = state.claim_due(POLL, **rate)
    assert (len(taken), next_in) == (2, 50)
    state.now_ms += 50
    assert len(state.claim_due(POLL, **rate)[1]) == 1
    assert len(ids) == 5


def test_deliveries_are_claimed_with_what_they_tell(state: State) -> None:
    """A delivery comes with the record, spec and detail of its job, and ends once."""
    (job_id,) = state.enqueue(webhook="https://a.test/x", deadline_at=state.now_ms + 1)
    from shared.jobs.commands import plan_expire

    plan = plan_expire(state.job(job_id))
    assert plan is not None
    state.apply(plan)
    (delivery,) = state.claim_due("notify")[1]
    record, spec, _detail = delivery["subject"]
    assert (delivery["event"], b"expired" in record, b"a.test" in spec) == ("image.failed", True, True)
    end = DeliveryTransition(
        event_id=delivery["id"], epoch=int(delivery["epoch"]), after=DeliveryState.DELIVERED
    )
    body = transitions_json([end, end], 1000)
    assert state.call("apply_transitions", context_json(state.limits), body) == [1, 0]
    assert state.claim_due("notify")[1] == []
    assert state.client.pttl(state.keys.delivery(delivery["id"])) > 0
