"""Caps on spending: what waits, what is refused, what stops, and what comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_json

from producers.store_caps import cap_rows
from shared.jobs.commands import plan_cancel, plan_resubmit
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition
from shared.money.caps import claim_caps, reject_caps
from shared.settings import CapSettings, Settings
from tests.integration.lua.conftest import LANE, MODEL, PRICE, State

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_MS = 86_400_000
REJECT_ONE = [("total", PRICE, "CNY")]


def caps(*rows: tuple[str, str, str]) -> Any:
    made = [CapSettings(scope=scope, window=window, limit=limit) for scope, window, limit in rows]
    return claim_caps(made, "main", "CNY")


def fresh(state: State, limited: Any) -> list[dict[str, Any]]:
    """Claim, and give what was queued: not what an earlier claim of the test has left to expire."""
    rows = state.claim_submit(caps=limited, lease_ms=10 * DAY_MS)[2]
    return [row for row in rows if not row["expired"]]


def end(state: State, entry: dict[str, Any], **change: Any) -> Applied:
    """Take a claimed job out of `submitting`: to failed and released, unless told otherwise."""
    plan: dict[str, Any] = {
        "after": JobState.FAILED,
        "release": True,
        "leave": (f"submit:{LANE}",),
        "free_slot": LANE,
    } | change
    return state.apply(
        Transition(
            job_id=entry["id"],
            epoch=int(entry["epoch"]),
            changes=(Change(before=JobState.SUBMITTING, **plan),),
        )
    )[0]


def test_a_job_is_taken_only_if_its_whole_hold_fits(state: State) -> None:
    """Three of ¥0.20 fit under ¥0.65; the fourth waits, its tenant parked, and no claim looks at it meanwhile."""
    state.enqueue(5)
    limited = caps(("tenant:acme", "total", "0.65"))
    next_in, _, taken = state.claim_submit(caps=limited)
    assert len(taken) == 3
    assert next_in == 12_000
    assert state.client.zrange(state.keys.ready(MODEL), 0, -1) == []
    assert state.client.hgetall(state.keys.parked) == {b"wan2.7-image|acme": b"cap|total|650000|CNY"}
    assert state.claim_submit(caps=limited)[2] == []
    assert state.balances()["CNY|held:acme"] == 3 * PRICE


def test_what_comes_back_is_used_at_once(state: State) -> None:
    """A released hold re-arms the tenant: the next claim takes the next job."""
    state.enqueue(3)
    limited = caps(("tenant:*", "day", "0.40"))
    first = state.claim_submit(caps=limited)[2]
    assert len(first) == 2
    assert end(state, first[0]) is Applied.FIRST
    assert len(state.claim_submit(caps=limited)[2]) == 1


def test_a_new_day_begins_anew_and_a_month_does_not(state: State) -> None:
    """Periods are the server's in UTC, and each cap counts its own."""
    state.enqueue(4)
    daily, monthly = caps(("tenant:acme", "day", "0.20")), caps(("tenant:acme", "month", "0.60"))
    assert len(fresh(state, daily)) == 1
    state.now_ms += DAY_MS
    assert len(fresh(state, daily)) == 1
    state.now_ms += DAY_MS
    assert len(fresh(state, monthly)) == 1
    state.now_ms += 31 * DAY_MS
    assert len(fresh(state, monthly)) == 1


def test_a_hold_given_back_belongs_to_its_own_day(state: State) -> None:
    """What was held yesterday and is released today makes no room today, and leaves nothing yesterday."""
    state.enqueue(2)
    limited = caps(("tenant:acme", "day", "0.20"))
    (old,) = fresh(state, limited)
    day = state.now_ms // DAY_MS
    state.now_ms += DAY_MS
    (_,) = fresh(state, limited)
    assert end(state, old) is Applied.FIRST
    usage = state.usage()
    assert f"CNY|tenant:acme|d{day}" not in usage
    assert usage[f"CNY|tenant:acme|d{day + 1}"] == PRICE


def test_a_tenant_over_its_cap_does_not_hold_up_the_others(state: State) -> None:
    """The capped one is parked, and the turns go on."""
    state.enqueue(3, tenant="capped")
    others = state.enqueue(3, tenant="free")
    taken = state.claim_submit(caps=caps(("tenant:capped", "total", "0.10")))[2]
    assert sorted(row["id"] for row in taken) == sorted(others)


def test_an_account_over_its_cap_closes_the_lane_for_all(state: State) -> None:
    """The reason is `cap`, the lane says which, and it is looked at again."""
    state.enqueue(3)
    next_in, reason, taken = state.claim_submit(caps=caps(("account:main", "total", "0.40")))
    assert (len(taken), reason) == (2, "cap")
    assert next_in <= 30_000
    assert state.client.hget(state.keys.lane(LANE), "capped") == b"cap|total|400000|CNY"
    assert state.client.zcard(state.keys.queue(MODEL, "acme")) == 1


def test_an_expensive_job_waits_and_is_not_passed_over_for_ever(state: State) -> None:
    """It stays first in its tenant's order."""
    (dear,) = state.enqueue(1, n=4)
    state.enqueue(1)
    assert state.claim_submit(caps=caps(("tenant:acme", "total", "0.60")))[2] == []
    taken = state.claim_submit(caps=caps(("tenant:acme", "total", "0.80")))[2]
    state.now_ms += 30_000
    taken += state.claim_submit(caps=caps(("tenant:acme", "total", "0.80")))[2]
    assert [row["id"] for row in taken] == [dear]


def test_sixteen_claimers_never_exceed_a_cap(state: State) -> None:
    """Whatever the workers do side by side, spent + held stays at or under it."""
    state.enqueue(200)
    limited = caps(("tenant:acme", "total", "7.30"))
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda _: state.claim_submit(k=7, caps=limited)[2], range(48)))
    assert sum(map(len, rows)) == 36
    assert state.usage()["CNY|tenant:acme|t"] == 36 * PRICE


def test_a_rejecting_cap_admits_exactly_what_fits(state: State) -> None:
    """A thousand side by side against a cap of a hundred: a hundred are admitted, nine hundred told why."""
    limit = [("total", 100 * PRICE, "CNY")]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: state.try_enqueue(1, caps=limit)[1][0], range(1000)))
    assert (replies.count(0), replies.count(6)) == (100, 900)
    assert state.usage()["CNY|tenant:acme|q"] == 100 * PRICE


def test_a_chunk_is_admitted_one_by_one(state: State) -> None:
    """Five of a chunk fit, the rest are refused, and nothing of those remains."""
    ids, replies = state.try_enqueue(8, caps=[("day", 5 * PRICE, "CNY")])
    assert replies == [0] * 5 + [6] * 3
    assert state.client.exists(*(state.keys.job(job_id) for job_id in ids)) == 5
    assert state.try_enqueue(1, caps=[("day", 5 * PRICE, "CNY")], n=2)[1] == [6]


def test_a_chunk_refused_whole_leaves_nothing(state: State) -> None:
    """No record, no queue, no count."""
    ids, replies = state.try_enqueue(3, caps=[("total", PRICE - 1, "CNY")])
    assert replies == [6] * 3
    assert state.client.exists(*(state.keys.job(job_id) for job_id in ids)) == 0
    assert not state.client.exists(state.keys.queue(MODEL, "acme"))
    assert state.count("*", "queued") == 0


def test_a_duplicate_is_no_new_cost(state: State) -> None:
    """The same key and request is the same job, also where nothing more fits."""
    first, _ = state.try_enqueue(1, caps=REJECT_ONE, idempotency_key="k")
    assert state.try_enqueue(1, caps=REJECT_ONE, idempotency_key="k")[1] == [b"1:" + first[0].encode()]


@pytest.mark.parametrize("leave", ["claim", "cancel", "expire"])
def test_what_leaves_the_queue_is_no_longer_committed(state: State, leave: str) -> None:
    """A claim turns it into a hold, a cancel gives it back."""
    (job_id,), _ = state.try_enqueue(1, caps=REJECT_ONE)
    assert state.try_enqueue(1, caps=REJECT_ONE)[1] == [6]
    if leave == "claim":
        state.claim_submit()
    else:
        plan = plan_cancel(state.job(job_id))
        assert plan is not None
        assert state.apply(plan) == [Applied.FIRST]
    assert "CNY|tenant:acme|q" not in state.usage()
    assert state.try_enqueue(1, caps=REJECT_ONE)[1] == [6 if leave == "claim" else 0]


def test_a_job_that_comes_back_is_committed_again(state: State) -> None:
    """Queued, claimed, queued again: once in the sum at every moment."""
    state.enqueue(1)
    (entry,) = state.claim_submit()[2]
    assert end(state, entry, after=JobState.QUEUED, queue=True) is Applied.FIRST
    assert state.usage() == {"CNY|tenant:acme|q": PRICE}


def test_what_is_committed_stays_in_the_currency_it_was_priced_in(state: State) -> None:
    """A lane of another currency takes the job and gives it back: the cap that let it in still counts it."""
    dollars: dict[str, Any] = {"currency": "USD", "price_micros": 30_000}
    state.try_enqueue(1, caps=REJECT_ONE)
    for _ in range(2):
        (entry,) = state.claim_submit(**dollars)[2]
        assert "CNY|tenant:acme|q" not in state.usage()
        assert end(state, entry, after=JobState.QUEUED, queue=True) is Applied.FIRST
        assert state.usage() == {"CNY|tenant:acme|q": PRICE}
        assert state.try_enqueue(1, caps=REJECT_ONE)[1] == [6]
    (entry,) = state.claim_submit()[2]
    assert end(state, entry, release=False, settle_micros=PRICE) is Applied.FIRST
    assert not [name for name in state.usage() if name.endswith("|q") or "USD" in name]


def test_a_batch_stops_before_it_costs_too_much(state: State) -> None:
    """While its jobs hold money the others wait; when nothing is held and nothing more fits, it is stopped, once."""
    state.try_enqueue(4, batch="b", batch_caps={"max_cost": str(PRICE * 5 // 2)})
    first, second = state.claim_submit()[2]
    assert state.claim_submit()[2] == []
    assert state.client.zcard(state.keys.index("stopping")) == 0
    for entry in (first, second):
        assert end(state, entry, release=False, settle_micros=PRICE) is Applied.FIRST
    state.now_ms += 1000
    assert state.claim_submit()[2] == []
    assert state.client.hget(state.keys.batch("acme", "b"), "stopped") == b"max_cost"
    assert state.client.zrange(state.keys.index("stopping"), 0, -1) == [b"acme:b"]
    assert state.try_enqueue(1, batch="b")[1] == [5]


def test_a_batch_uses_what_came_back(state: State) -> None:
    """A generation that delivered nothing leaves room for another job."""
    state.try_enqueue(2, batch="b", batch_caps={"max_cost": str(PRICE)})
    (entry,) = state.claim_submit()[2]
    assert end(state, entry) is Applied.FIRST
    state.now_ms += 1000
    assert len(state.claim_submit()[2]) == 1


def test_money_in_doubt_stops_a_batch(state: State) -> None:
    """What a resubmitted job may have cost counts, and will not come back: nothing to wait for."""
    job_id, _ = state.try_enqueue(2, batch="b", batch_caps={"max_cost": str(PRICE)})[0]
    (entry,) = state.claim_submit()[2]
    state.intent(entry)
    unknown = Change(before=JobState.SUBMITTING, after=JobState.UNKNOWN, leave=(f"submit:{LANE}",))
    state.apply(Transition(job_id=job_id, intent_id="i1", changes=(unknown,)))
    again = plan_resubmit(state.job(job_id), by="ops", now_ms=state.now_ms + 120_000, wait_ms=120_000)
    assert state.apply(again) == [Applied.FIRST]
    state.now_ms += 120_000
    assert state.claim_submit()[2] == []
    assert state.client.hget(state.keys.batch("acme", "b"), "stopped") == b"max_cost"


def test_a_batch_stops_when_too_many_failed(state: State) -> None:
    """More than a quarter of four, that is the second failure."""
    state.try_enqueue(4, batch="b", batch_caps={"max_failed_ppm": "250000"})
    first, second = state.claim_submit(k=2)[2]
    assert end(state, first) is Applied.FIRST
    assert state.client.hget(state.keys.batch("acme", "b"), "stopped") is None
    assert end(state, second) is Applied.FIRST
    assert state.client.hget(state.keys.batch("acme", "b"), "stopped") == b"max_failed"
    assert state.claim_submit()[2] == []


def test_a_batch_keeps_the_caps_it_was_begun_with(state: State) -> None:
    """The same again or none is welcome; others are a conflict, and nothing is enqueued."""
    caps_a, caps_b = {"max_cost": "1000000"}, {"max_cost": "2000000"}
    assert state.try_enqueue(1, batch="b", batch_caps=caps_a)[1] == [0]
    assert state.try_enqueue(1, batch="b", batch_caps=caps_a)[1] == [0]
    assert state.try_enqueue(1, batch="b")[1] == [0]
    assert state.try_enqueue(1, batch="b", batch_caps=caps_b)[1] == [7]
    state.enqueue(1, batch="plain")
    assert state.try_enqueue(1, batch="plain", batch_caps=caps_a)[1] == [7]


@pytest.mark.parametrize(
    ("at_s", "month"),
    [
        (0, 197001),
        (951_782_400, 200002),
        (951_868_800, 200003),
        (4_107_542_399, 210002),
        (4_107_542_400, 210003),
    ],
)
def test_months_are_those_of_the_calendar(state: State, at_s: int, month: int) -> None:
    """The epoch, 29 February 2000, and the end of a February that has no 29th."""
    state.now_ms = at_s * 1000 + 1
    state.enqueue(1)
    state.claim_submit()
    assert f"CNY|tenant:acme|m{month}" in state.usage()


def test_a_tenants_own_cap_replaces_the_one_for_each() -> None:
    """In the same window; other windows of the general rule still hold for it."""
    rows = [
        CapSettings(scope="tenant:*", window="day", limit="1"),
        CapSettings(scope="tenant:*", window="month", limit="9"),
        CapSettings(scope="tenant:acme", window="day", limit="5", over_cap="reject"),
    ]
    found = claim_caps(rows, "main", "CNY")
    assert found is not None
    assert found["tenants"] == {"acme": [("day", 5_000_000), ("month", 9_000_000)]}
    assert found["any"] == [("day", 1_000_000), ("month", 9_000_000)]
    assert claim_caps(rows, "main", "USD") is None
    assert reject_caps(rows, "acme") == [("day", 5_000_000, "CNY")]
    assert reject_caps(rows, "other") == []


def test_all_caps_of_one_scope_and_window_hold() -> None:
    """To make jobs wait at one limit and to refuse them at another is no contradiction: neither hides the other."""
    for limits in (("5", "wait", "9", "reject"), ("9", "reject", "5", "wait")):
        rows = [
            CapSettings(scope="tenant:acme", window="day", limit=limits[at], over_cap=limits[at + 1])
            for at in (0, 2)
        ]
        rows.append(CapSettings(scope="tenant:*", window="day", limit="1", over_cap="reject"))
        assert reject_caps(rows, "acme") == [("day", 9_000_000, "CNY")]
        found = claim_caps(rows, "main", "CNY")
        assert found is not None
        assert sorted(found["tenants"]["acme"]) == [("day", 5_000_000), ("day", 9_000_000)]
        settings = Settings(caps=rows)
        assert [row.limit_micros for row in cap_rows(settings, 0) if row.scope == "tenant:acme"] == [
            5_000_000
        ]


def test_the_question_of_a_claim_is_json(state: State) -> None:
    """No caps at all, and caps for nobody here, both leave claims as they are."""
    state.enqueue(1)
    assert to_json(caps(("tenant:other", "day", "1")))
    assert len(state.claim_submit(caps=caps(("tenant:other", "day", "1")))[2]) == 1


def test_sums(state: State) -> None:
    """Settling part of a hold gives the rest back, to every scope and window alike."""
    state.enqueue(1, n=4)
    (entry,) = state.claim_submit()[2]
    assert end(state, entry, release=False, settle_micros=3 * PRICE) is Applied.FIRST
    assert set(state.usage().values()) == {3 * PRICE}
    names: Sequence[str] = sorted(state.usage())
    assert [name.split("|")[1] for name in names] == ["account:main"] * 3 + ["tenant:acme"] * 3


def test_what_an_account_holds_is_counted_until_it_is_resolved(state: State) -> None:
    """Held by a claim; no more when it is settled or given back, and no period makes a difference."""
    state.enqueue(3)
    first, second, third = state.claim_submit()[2]
    assert state.usage()["CNY|account:main|h"] == 3 * PRICE
    state.now_ms += 40 * DAY_MS
    assert end(state, first, release=False, settle_micros=PRICE) is Applied.FIRST
    assert end(state, second) is Applied.FIRST
    assert state.usage()["CNY|account:main|h"] == PRICE
    assert end(state, third, release=False, doubt=True) is Applied.FIRST
    assert "CNY|account:main|h" not in state.usage()
