"""store_note.lua and store_gate.lua: no more images are made while those that are paid for cannot be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from producers.store_trouble import FIELDS, StoreTrouble, parse_store_trouble
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

AFTER_MS = 60_000
PROBE_MS = 30_000
SELDOM_MS = 600_000
STORE = {"lag_ms": AFTER_MS, "probe_ms": PROBE_MS}


def tell(state: State, kind: str, job_id: str = "job_gone") -> None:
    """Note what an attempt to copy told of the store; the job itself may be gone."""
    note = (kind,) if kind == "ok" else (kind, AFTER_MS, PROBE_MS)
    change = Change(before=JobState.STORING, after=JobState.STORING)
    transition = Transition(job_id=job_id, epoch=1, changes=(change,), store_note=note)
    assert state.apply(transition) == [Applied.MISSING]


def told(state: State) -> StoreTrouble | None:
    """What operators are shown."""
    first: Any = state.client.zrange(state.keys.index("store"), 0, 0, withscores=True)
    noted: Any = state.client.hmget(state.keys.control, FIELDS)
    return parse_store_trouble(noted, first, state.now_ms, AFTER_MS)


def fail(state: State, kind: str, times: int) -> None:
    for nr in range(times):
        tell(state, kind, f"job_{nr}")


@pytest.mark.parametrize("kind", ["denied", "full", "missing"])
def test_a_refusal_stops_submits_at_the_third(state: State, kind: str) -> None:
    """Two may be chance; the third in a row stops every lane, and the first success opens them."""
    (job_id,) = state.enqueue()
    fail(state, kind, 2)
    assert state.claim_submit(0, store=STORE)[1] == "idle"
    since = state.now_ms
    tell(state, kind, "job_3")
    assert state.claim_submit(store=STORE) == (1000, "storage", [])
    assert told(state) == StoreTrouble(kind, since)
    assert state.job(job_id).state == "queued"
    tell(state, "ok")
    assert told(state) is None
    assert [entry["id"] for entry in state.claim_submit(store=STORE)[2]] == [job_id]


def test_who_keeps_no_images_waits_for_no_store(state: State) -> None:
    """Storage was switched off while its store was in trouble: nothing will ever say that it is well again."""
    state.enqueue(2)
    fail(state, "denied", 3)
    state.client.zadd(state.keys.index("store"), {"job_waiting": state.now_ms - AFTER_MS - 1})
    assert state.claim_submit(1, store=STORE)[1] == "storage"
    assert len(state.claim_submit()[2]) == 2


def test_a_success_starts_the_count_anew(state: State) -> None:
    """Failures among successes are no trouble of the store."""
    state.enqueue()
    for _ in range(3):
        fail(state, "denied", 2)
        tell(state, "ok")
    assert len(state.claim_submit(store=STORE)[2]) == 1


def test_what_may_pass_by_itself_stops_submits_after_a_while(state: State) -> None:
    """A store that is away for a few seconds delays nothing; for a minute, it does."""
    state.enqueue(2)
    fail(state, "unavailable", 5)
    state.now_ms += AFTER_MS - 1
    tell(state, "unavailable")
    assert len(state.claim_submit(1, store=STORE)[2]) == 1
    state.now_ms += 1
    tell(state, "unavailable", "job_other")
    assert state.claim_submit(store=STORE)[1:] == ("storage", [])
    assert told(state) == StoreTrouble("unavailable", state.now_ms - AFTER_MS)


def test_one_job_that_cannot_be_put_stops_nobody(state: State) -> None:
    """It fails again and again for a reason of its own: failures count by turns of jobs."""
    state.enqueue()
    for _ in range(10):
        tell(state, "denied", "job_odd")
        state.now_ms += AFTER_MS
    assert len(state.claim_submit(store=STORE)[2]) == 1


def test_overdue_copies_keep_submits_back(state: State) -> None:
    """A slow store: what is due and not taken for a minute says that copies do not keep up."""
    state.enqueue()
    state.client.zadd(state.keys.index("store"), {"job_slow": state.now_ms})
    overdue_at = state.now_ms
    state.now_ms += AFTER_MS
    assert told(state) is None
    assert state.claim_submit(0, store=STORE)[1] == "idle"
    state.now_ms += 1
    assert state.claim_submit(store=STORE) == (1000, "storage", [])
    assert told(state) == StoreTrouble("overdue", overdue_at)
    state.client.zadd(state.keys.index("store"), {"job_slow": state.now_ms + 12_000})  # somebody took it
    assert len(state.claim_submit(store=STORE)[2]) == 1


def test_without_news_one_job_tries_the_store(state: State) -> None:
    """Nobody is left to tell how the store is: one job goes, and the next only if nothing is heard of it either."""
    state.enqueue(5)
    fail(state, "full", 3)
    state.now_ms += PROBE_MS - 1
    assert state.claim_submit(store=STORE) == (1, "storage", [])
    state.now_ms += 1
    assert len(state.claim_submit(store=STORE, lease_ms=10 * PROBE_MS)[2]) == 1
    assert state.claim_submit(store=STORE) == (1000, "storage", [])
    state.now_ms += PROBE_MS
    assert len(state.claim_submit(store=STORE)[2]) == 1


def test_news_put_the_probe_off_but_not_for_ever(state: State) -> None:
    """While copies are tried and fail no image is risked to learn the same; but those that fail may be odd ones."""
    state.enqueue(5)
    fail(state, "denied", 3)
    stopped_at = state.now_ms
    while state.now_ms + PROBE_MS // 2 < stopped_at + SELDOM_MS:
        assert state.claim_submit(store=STORE)[1:] == ("storage", [])
        state.now_ms += PROBE_MS // 2
        fail(state, "denied", 2)
    state.now_ms = stopped_at + SELDOM_MS
    assert len(state.claim_submit(store=STORE)[2]) == 1
    fail(state, "denied", 2)
    assert state.claim_submit(store=STORE)[1:] == ("storage", [])


def test_a_frozen_lane_says_so_first(state: State) -> None:
    """What a person decided is the reason that counts, and is not spent on a probe."""
    state.enqueue()
    fail(state, "denied", 3)
    state.now_ms += PROBE_MS
    state.call("freeze", "spending", "ops@host", "")
    assert state.claim_submit(store=STORE)[1:] == ("frozen", [])
    state.call("freeze", "", "ops@host", "")
    assert len(state.claim_submit(store=STORE)[2]) == 1


def test_the_clock_set_back_moves_the_probe_too(state: State) -> None:
    """Else submits would wait for a time of the old clock."""
    state.enqueue()
    state.watch("", "m")
    fail(state, "denied", 3)
    state.now_ms -= 3_600_000
    state.watch("m")
    state.now_ms += PROBE_MS
    assert len(state.claim_submit(store=STORE)[2]) == 1
