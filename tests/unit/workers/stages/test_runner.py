"""Draining a stage: places are topped up as they become free, and nothing that one member does holds up another."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from workers.claims import Claim, Entry
from workers.stages.runner import StageRunner, Suspects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE_S = 30


def entry(name: str, *, suspect: bool = False, expired: bool = False) -> Entry:
    fields = {"epoch": "1"} | ({"suspect": "1"} if suspect else {})
    return Entry(name, "store", "j", 1, fields, expired=expired)


@dataclass
class Held:
    """Leases that only remember."""

    now: set[str] = field(default_factory=set)
    ever: list[str] = field(default_factory=list)

    def hold(self, entry: Entry) -> None:
        self.now.add(entry.id)
        self.ever.append(entry.id)

    def drop(self, entry: Entry) -> None:
        self.now.discard(entry.id)


@dataclass
class PlayedStage:
    """A stage whose entries wait in `queue` and whose members last until the test ends them."""

    name: str = "store"
    limit: int = 4
    next_in_ms: int = -1
    queue: deque[Entry] = field(default_factory=deque)
    claims: list[tuple[int, bool]] = field(default_factory=list)
    working: dict[str, asyncio.Event] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    most: int = 0
    at_once: bool = False
    gate: asyncio.Event | None = None
    trouble: Exception | None = None
    faults: dict[str, Exception] = field(default_factory=dict)

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim:
        assert lane == "lane"
        self.claims.append((k, suspects))
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        taken = tuple(self.queue.popleft() for _ in range(min(k, len(self.queue))))
        return Claim(0 if self.queue else self.next_in_ms, "", taken)

    async def handle(self, entry: Entry) -> None:
        if entry.id in self.faults:
            raise self.faults[entry.id]
        self.working[entry.id] = asyncio.Event()
        self.most = max(self.most, len(self.working))
        try:
            if not self.at_once:
                await self.working[entry.id].wait()
            self.done.append(entry.id)
        finally:
            del self.working[entry.id]


class Bench:
    """A runner on a played stage. Everything is awaited by what is seen, never by time."""

    def __init__(
        self,
        stage: PlayedStage,
        *,
        claim_size: int = 100,
        drain_s: float = 600,
        suspects: Suspects | None = None,
    ) -> None:
        self.stage, self.held, self.armed = stage, Held(), list[tuple[str, str, int]]()
        self.runner = StageRunner(
            stage,
            leases=self.held,  # type: ignore[arg-type]  # a stand-in for the two methods that are used
            claim_size=claim_size,
            drain_s=drain_s,
            arm=lambda *told: self.armed.append(told),
            suspects=suspects or Suspects(),
        )

    def fill(self, names: Iterable[str], **marks: bool) -> None:
        self.stage.queue.extend(entry(name, **marks) for name in names)

    def drain(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.runner.drain("lane"))

    async def finish(self, *names: str) -> None:
        for name in names:
            self.stage.working[name].set()
        await until(lambda: not set(names) & set(self.stage.working))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for is seen from outside only
            await asyncio.sleep(0.001)


async def ended(task: asyncio.Task[None] | asyncio.Task[int]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await task


async def test_places_are_topped_up_one_by_one() -> None:
    """A free place is filled while the other members still work: there is no barrier between claims."""
    bench = Bench(PlayedStage(limit=4))
    bench.fill("abcdef")
    drain = bench.drain()
    await until(lambda: set(bench.stage.working) == set("abcd"))
    await bench.finish("c")
    await until(lambda: set(bench.stage.working) == set("abde"))
    await bench.finish("a")
    await until(lambda: set(bench.stage.working) == set("bdef"))
    await bench.finish(*"bdef")
    await ended(drain)
    assert sorted(bench.stage.done) == list("abcdef")


@pytest.mark.parametrize(("limit", "claim_size"), [(1, 100), (3, 2), (8, 100), (64, 5)])
async def test_no_more_than_the_places_at_once(limit: int, claim_size: int) -> None:
    """Members never exceed the limit, and a claim never asks for more than its size or than there is room."""
    bench = Bench(PlayedStage(limit=limit, at_once=True), claim_size=claim_size)
    bench.fill(f"n{number}" for number in range(3 * limit + 1))
    await ended(bench.drain())
    await bench.runner.close(PATIENCE_S)
    assert len(bench.stage.done) == 3 * limit + 1
    assert bench.stage.most <= limit
    assert max(k for k, _ in bench.stage.claims) == min(limit, claim_size)


async def test_an_early_claim_waits_for_the_moment_of_its_permit() -> None:
    """It holds its lease and a place meanwhile, and keeps nobody else from working."""
    bench = Bench(PlayedStage(limit=8))
    early = replace(entry("early"), starts_in_s=3600)
    soon = replace(entry("soon"), starts_in_s=0.001)
    bench.stage.queue.extend([early, soon, entry("now")])
    await ended(bench.drain())
    await until(lambda: set(bench.stage.working) == {"soon", "now"})
    assert bench.held.now == {"early", "soon", "now"}
    await bench.finish("soon", "now")
    await bench.runner.close(0)
    assert (sorted(bench.stage.done), bench.held.now) == (["now", "soon"], set())


async def test_a_drain_ends_when_nothing_is_due() -> None:
    """Members go on without it; nobody is armed if only an event can bring more."""
    bench = Bench(PlayedStage(next_in_ms=-1))
    bench.fill("a")
    await ended(bench.drain())
    assert set(bench.stage.working) == {"a"}
    assert bench.armed == []
    await bench.finish("a")


async def test_what_is_due_later_is_armed() -> None:
    """The claim's next due time, which is too far to wait for, is told to the pacemaker."""
    bench = Bench(PlayedStage(next_in_ms=7000))
    await ended(bench.drain())
    assert bench.armed == [("store", "lane", 7000)]


async def test_a_drain_ends_after_its_time_and_asks_for_another() -> None:
    """However much is due, the task ends; the next drain is armed at once."""
    bench = Bench(PlayedStage(limit=1), drain_s=0)
    bench.fill("ab")
    await ended(bench.drain())
    assert bench.armed == [("store", "lane", 0)]
    assert not bench.stage.claims


async def test_a_drain_with_all_places_taken_ends_too() -> None:
    """Members that hang do not keep the drain for longer than its time."""
    bench = Bench(PlayedStage(limit=1), drain_s=0.05)
    bench.fill("ab")
    await ended(bench.drain())
    assert set(bench.stage.working) == {"a"}
    assert bench.armed == [("store", "lane", 0)]
    await bench.finish("a")


async def test_a_second_drain_only_wakes_the_first() -> None:
    """Two hints for one lane: one drain works, the other returns at once, and what came is taken."""
    bench = Bench(PlayedStage(next_in_ms=50))
    first = bench.drain()
    await until(lambda: bench.stage.claims)
    await ended(bench.drain())
    assert not first.done()
    bench.fill("a")
    bench.runner.tell("lane", 0)
    await until(lambda: "a" in bench.stage.working)
    bench.stage.next_in_ms = -1
    await bench.finish("a")
    await ended(first)


async def test_work_told_of_during_a_drain_is_armed_at_its_end() -> None:
    """A due time told to a running drain is not forgotten when it ends: the earliest counts."""
    bench = Bench(PlayedStage(limit=1))
    bench.fill("ab")
    drain = bench.drain()
    await until(lambda: bench.stage.working)
    assert bench.runner.tell("lane", 90_000)
    assert bench.runner.tell("lane", 60_000)
    assert bench.runner.tell("lane", 80_000)
    await bench.finish("a")
    await until(lambda: "b" in bench.stage.working)
    await bench.finish("b")
    await ended(drain)
    ((stage, lane, in_ms),) = bench.armed
    assert (stage, lane) == ("store", "lane")
    assert 0 < in_ms <= 60_000


async def test_telling_without_a_drain_is_for_the_pacemaker() -> None:
    """The caller hears that nobody listens."""
    assert Bench(PlayedStage()).runner.tell("lane", 0) is False


async def test_a_fault_of_one_member_is_its_own() -> None:
    """The others finish, the fault is logged without what it says, and every lease is dropped."""
    bench = Bench(PlayedStage(limit=4, faults={"b": ValueError("canary")}))
    bench.fill("abc")
    with capture_logs() as logs:
        await ended(bench.drain())
        await until(lambda: bench.held.now == {"a", "c"})
        await bench.finish("a", "c")
    await until(lambda: not bench.held.now)
    assert sorted(bench.stage.done) == ["a", "c"]
    (fault,) = [line for line in logs if line["event"] == "entry_fault"]
    assert (fault["id"], fault["cause"]) == ("b", "ValueError")


async def test_a_lease_is_held_from_claim_to_end() -> None:
    """Held before the handler runs, dropped when it has ended."""
    bench = Bench(PlayedStage())
    bench.fill("a")
    await ended(bench.drain())
    await until(lambda: "a" in bench.stage.working)
    assert bench.held.now == {"a"}
    await bench.finish("a")
    await until(lambda: not bench.held.now)
    assert bench.held.ever == ["a"]


async def test_a_state_server_that_is_away_is_asked_again_in_a_second() -> None:
    """A failed claim ends the drain, not the worker."""
    bench = Bench(PlayedStage(trouble=RedisConnectionError("away")))
    with capture_logs() as logs:
        await ended(bench.drain())
    assert bench.armed == [("store", "lane", 1000)]
    assert logs[0]["event"] == "stage_interrupted"
    assert bench.runner.tell("lane", 0) is False


async def test_a_suspect_works_alone() -> None:
    """While one runs, no claim of this process asks for another, in any stage; then one may again."""
    suspects = Suspects()
    one, other = (Bench(PlayedStage(name=name), suspects=suspects) for name in ("store", "poll"))
    one.fill("s", suspect=True)
    await ended(one.drain())
    await until(lambda: "s" in one.stage.working)
    await ended(other.drain())
    await ended(one.drain())
    assert not any(allowed for _, allowed in [*other.stage.claims, *one.stage.claims[2:]])
    await one.finish("s")
    other.stage.claims.clear()
    await ended(other.drain())
    assert other.stage.claims[0][1]


async def test_of_claims_side_by_side_one_may_bring_a_suspect() -> None:
    """Two stages that ask at the same moment cannot both be given one."""
    suspects, gate = Suspects(), asyncio.Event()
    one, other = (Bench(PlayedStage(gate=gate), suspects=suspects) for _ in range(2))
    drains = one.drain(), other.drain()
    await until(lambda: one.stage.claims and other.stage.claims)
    assert sorted(bench.stage.claims[0][1] for bench in (one, other)) == [False, True]
    gate.set()
    for drain in drains:
        await ended(drain)


async def test_an_expired_submit_does_not_count_as_a_suspect_at_work() -> None:
    """Taking over from a dead holder sends nothing, so it need not be alone."""
    bench = Bench(PlayedStage())
    bench.fill("s", suspect=True, expired=True)
    await ended(bench.drain())
    bench.stage.claims.clear()
    await ended(bench.drain())
    assert bench.stage.claims[0][1]
    await bench.finish("s")


async def test_no_claim_after_stop() -> None:
    """A running drain ends, a new one does not begin, and nobody is armed."""
    bench = Bench(PlayedStage(limit=1))
    bench.fill("ab")
    drain = bench.drain()
    await until(lambda: "a" in bench.stage.working)
    bench.runner.stop_claims()
    await ended(drain)
    await ended(bench.drain())
    assert len(bench.stage.claims) == 1
    assert [each.id for each in bench.stage.queue] == ["b"]
    assert bench.armed == []
    await bench.finish("a")


async def test_close_waits_for_members() -> None:
    """What was begun is finished within the grace."""
    bench = Bench(PlayedStage())
    bench.fill("a")
    await ended(bench.drain())
    await until(lambda: "a" in bench.stage.working)
    closing = asyncio.create_task(bench.runner.close(PATIENCE_S))
    await asyncio.sleep(0)
    assert not closing.done()
    await bench.finish("a")
    await ended(closing)
    assert closing.result() == 0
    assert bench.stage.done == ["a"]


async def test_close_cuts_off_what_takes_too_long() -> None:
    """After the grace members are cancelled and awaited; their leases are dropped and end by themselves."""
    bench = Bench(PlayedStage())
    bench.fill("ab")
    await ended(bench.drain())
    await until(lambda: len(bench.stage.working) == 2)
    with capture_logs() as logs:
        assert await bench.runner.close(0.01) == 2
    assert (bench.stage.working, bench.stage.done, bench.held.now) == ({}, [], set())
    assert [(line["event"], line["count"]) for line in logs] == [("members_cut_off", 2)]


async def test_close_waits_for_what_a_claim_under_way_brings() -> None:
    """A claim that was asked before the stop may still bring entries: they are worked on before close returns."""
    bench = Bench(PlayedStage(gate=asyncio.Event(), at_once=True))
    bench.fill("a")
    drain = bench.drain()
    await until(lambda: bench.stage.claims)
    closing = asyncio.create_task(bench.runner.close(PATIENCE_S))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    assert bench.stage.gate is not None
    bench.stage.gate.set()
    await ended(closing)
    assert drain.done()
    assert (bench.stage.done, bench.held.now) == (["a"], set())


async def test_close_does_not_wait_for_ever_for_a_claim() -> None:
    """A claim that hangs is cancelled after the grace."""
    bench = Bench(PlayedStage(gate=asyncio.Event()))
    drain = bench.drain()
    await until(lambda: bench.stage.claims)
    async with asyncio.timeout(PATIENCE_S):
        await bench.runner.close(0.01)
    assert drain.done()
