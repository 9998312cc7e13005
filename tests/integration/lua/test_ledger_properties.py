"""The ledger under any order of events: the real scripts, and a dictionary that says what must come of it.

Workers may claim, die, report late, twice and out of order; operators may cancel, release and resubmit in between;
days may be closed at any point. After every step the books must add up.
"""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis import Redis

from producers.reports.closing import REST_H
from producers.reports.exports import add_to
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Change, Transition
from shared.money import ledger
from shared.money.closed import ClosedDay
from shared.redis.keys import Keys
from shared.redis.scripts import run
from tests.integration.lua.conftest import LANE, PRICE, State

if TYPE_CHECKING:
    from tests.servers import ValkeyProc

JOBS: Final = 3
FINAL: Final = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
FAR_MS: Final = 4_000_000_000_000
SUBMITTING, GENERATING, UNKNOWN = JobState.SUBMITTING, JobState.GENERATING, JobState.UNKNOWN
# What may happen to the money of a job, whatever its state is: (states it is guarded by, the state after, its money).
EVENTS: Final[dict[str, tuple[tuple[JobState, ...], JobState | None, dict[str, Any]]]] = {
    "accept": ((SUBMITTING, UNKNOWN), GENERATING, {}),
    "lose": ((SUBMITTING,), UNKNOWN, {}),
    "refuse": ((SUBMITTING,), JobState.FAILED, {"release": True}),
    "requeue": ((SUBMITTING,), JobState.QUEUED, {"release": True, "queue": True}),
    "deliver": ((GENERATING,), JobState.COMPLETED, {"settle_micros": 2 * PRICE}),
    "deliver_part": ((GENERATING,), JobState.COMPLETED, {"settle_micros": PRICE}),
    "deliver_nothing": ((GENERATING,), JobState.FAILED, {"release": True}),
    "cancel": ((SUBMITTING, GENERATING), JobState.CANCELLED, {}),
    "give_up": ((UNKNOWN,), JobState.FAILED, {"release": True}),
    "resubmit": ((UNKNOWN,), JobState.QUEUED, {"doubt": True, "queue": True}),
    "expire": ((JobState.QUEUED,), JobState.FAILED, {"release": True, "unqueue": True}),
    "settle_late": (FINAL, None, {"settle_micros": 2 * PRICE}),
    "release_late": (FINAL, None, {"release": True}),
}
# Which job, and a number that chooses what happens to it: mostly something that its state allows.
STEPS: Final = st.lists(st.tuples(st.integers(0, JOBS - 1), st.integers(0, 999)), min_size=8, max_size=40)
ALLOWED_OF_TEN: Final = 8


class Book:
    """What must be: per job what is held, whether it was settled, and the sums of its kinds."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.settled: set[str] = set()
        self.sums: Counter[str] = Counter()

    def claim(self, job: str) -> None:
        self.held[job] = 2 * PRICE
        self._move("budget", "held", 2 * PRICE)

    def happen(self, job: str, money: dict[str, Any]) -> None:
        held, spent = self.held[job], money.get("settle_micros")
        if money.get("release"):
            self._move("held", "budget", held)
        elif money.get("doubt"):
            self._move("held", "doubt", held)
        elif spent is None or job in self.settled:
            return
        else:
            self._move("held", "spent", min(held, spent))
            self._move("held", "budget", held - min(held, spent))
            self._move("budget", "spent", spent - min(held, spent))
            self.settled.add(job)
        self.held[job] = 0

    def _move(self, debit: str, credit: str, micros: int) -> None:
        self.sums[debit] -= micros
        self.sums[credit] += micros


def happen(state: State, job_id: str, name: str) -> bool:
    """Let one event reach the scripts; False if the state refuses it."""
    befores, after, money = EVENTS[name]
    changes = tuple(
        Change(before=before, after=after or before, leave=(f"submit:{LANE}", "unknown"), **money)
        for before in befores
    )
    return state.apply(Transition(job_id=job_id, changes=changes))[0] >= Applied.FIRST


def chosen(of: JobState, number: int) -> str:
    """Choose what happens to a job: an event that its state allows, or, more seldom, any."""
    choice, kind = divmod(number, 10)
    allowed = [name for name, (states, _, _) in EVENTS.items() if of in states]
    if of is JobState.QUEUED:
        allowed = ["claim", "claim", *allowed]
    names = allowed if kind < ALLOWED_OF_TEN else [*EVENTS, "claim", "close"]
    return names[choice % len(names)]


def close_day(state: State) -> None:
    """Close what the stream holds now, as `ledger close` does after its export."""
    entries = list(ledger.read_entries(state.client, state.keys))
    if not entries:
        return
    sums = Counter[str]()
    for entry in entries:
        add_to(sums, entry)
    first, last = entries[0], entries[-1]
    part = 1 + int(state.client.hlen(state.keys.closed))
    day = ClosedDay(last.day, part, "ab" * 32, len(entries), first.id, last.id)
    instant, _, number = last.id.partition("-")
    arguments = (
        day.name, last.at_ms + REST_H * 3_600_000, first.id, last.id, f"{instant}-{int(number) + 1}", day.note(),
        "me", "", *(part for name, micros in sums.items() for part in (name, micros)),
    )  # fmt: skip
    for left in (len(entries), 0):  # the second one finds it done
        assert run(state.client, "close_day", state.keys.prefix, *arguments, now_ms=FAR_MS) == left


def check(state: State, book: Book) -> None:
    found = Counter[str]()
    for account, micros in state.balances().items():
        found[account.removeprefix("CNY|").partition(":")[0]] += micros
    assert {kind: micros for kind, micros in found.items() if micros} == {
        kind: micros for kind, micros in book.sums.items() if micros
    }
    assert sum(found.values()) == 0
    report = ledger.verify(state.client, state.keys, page=7)
    assert report.differences == ()
    assert found["held"] == sum(book.held.values())


@pytest.fixture(params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest) -> ValkeyProc:
    """A server of each kind; every example has a namespace of its own."""
    found: ValkeyProc = request.getfixturevalue(request.param)
    return found


@pytest.mark.timeout(300)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)  # fmt: skip
@given(steps=STEPS)
def test_the_books_add_up_after_any_order_of_events(server: ValkeyProc, steps: list[tuple[int, int]]) -> None:
    """Sum 0, a hold resolved once, balances as recomputed, and the money where the model says it is."""
    client = Redis.from_url(server.url(0))
    state, book = State(client, Keys.of(f"book-{uuid.uuid4().hex[:12]}")), Book()
    try:
        ids = state.enqueue(JOBS, n=2)
        for at, number in steps:
            name = chosen(state.job(ids[at]).state, number)
            if name == "claim":
                state.now_ms += 1_000_000  # leases of dead workers are over
                for entry in state.claim_submit()[2]:
                    if not entry["expired"]:
                        book.claim(entry["id"])
            elif name == "close":
                close_day(state)
            elif happen(state, ids[at], name):
                book.happen(ids[at], EVENTS[name][2])
            check(state, book)
    finally:
        keys: list[Any] = list(client.scan_iter(match=f"{state.keys.prefix}*"))
        client.delete(*keys)
        client.close()


def test_an_event_that_comes_twice_moves_money_once(state: State) -> None:
    """Settled, settled again, released: one settle in the books."""
    (job_id,) = state.enqueue(1, n=2)
    state.claim_submit()
    assert happen(state, job_id, "accept")
    assert happen(state, job_id, "deliver_part")
    assert not happen(state, job_id, "deliver_part")
    assert happen(state, job_id, "settle_late")
    assert happen(state, job_id, "release_late")
    kinds = [entry.kind for entry in ledger.read_entries(state.client, state.keys)]
    assert kinds == ["hold", "settle", "release"]
