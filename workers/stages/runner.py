"""Running one stage: claim, work on what was claimed side by side, top up as members finish.

A drain ends when nothing is due or its time is up; its members go on and are waited for at shutdown. One drain per
(stage, lane) runs in a process: a second hint only wakes it.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from redis.exceptions import RedisError

from workers.log_context import working_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workers.claims import Claim, Entry
    from workers.leases import Leases

log = structlog.get_logger(__name__)

LINGER_MS: Final = 100  # work due sooner than this is waited for in the drain: cheaper than a hint
GATHER_S: Final = 0.03  # due times are spread; claiming every entry alone would cost a call each
ROOM_SHARE: Final = 4  # claim when a quarter of the places is free, not for every single one


class Stage(Protocol):
    """What a stage does with claims; `handle` records what became of an entry and never sleeps for it."""

    name: str
    limit: int

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim: ...

    async def handle(self, entry: Entry) -> None: ...


class StageRunner:
    """Drains of one stage in this process."""

    def __init__(
        self,
        stage: Stage,
        *,
        leases: Leases,
        claim_size: int,
        drain_s: float,
        arm: Callable[[str, str, int], None],
        suspects: Suspects,
    ) -> None:
        self._stage, self._leases, self._arm, self._suspects = stage, leases, arm, suspects
        self._claim_size, self._drain_s = claim_size, drain_s
        self._members: set[asyncio.Task[None]] = set()
        self._drains: set[asyncio.Task[Any]] = set()
        self._freed = asyncio.Event()
        self._woken: dict[str, asyncio.Event] = {}
        self._told: dict[str, float] = {}
        self._accepting = True
        self.cut: list[Entry] = []  # what had to be left at the end

    def stop_claims(self) -> None:
        self._accepting = False
        self._freed.set()
        for woken in self._woken.values():
            woken.set()

    async def close(self, grace_s: float) -> int:
        """Wait for members; cancel what is left after the grace, and give how many. `cut` has what they worked on."""
        self.stop_claims()
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        # A drain may be waiting for the answer to a claim, which brings members yet.
        while (going := [*self._drains, *self._members]) and loop.time() < until:
            await asyncio.wait(going, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        late = [*self._drains, *self._members]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            log.warning("members_cut_off", stage=self._stage.name, count=len(late))
        return len(late)

    def tell(self, lane: str, in_ms: int) -> bool:
        """Tell the drain of this lane that work is due in in_ms; False if none runs."""
        woken = self._woken.get(lane)
        if woken is None:
            return False
        if in_ms <= 0:
            woken.set()
        else:
            due_at = asyncio.get_running_loop().time() + in_ms / 1000
            self._told[lane] = min(due_at, self._told.get(lane, due_at))
        return True

    async def drain(self, lane: str) -> None:
        """Work until nothing is due or drain_s have passed."""
        if self.tell(lane, 0) or not self._accepting:
            return
        woken = self._woken[lane] = asyncio.Event()
        try:
            with self._counted():
                next_in_ms = await self._drain(lane, woken)
        except (RedisError, OSError) as error:
            log.warning("stage_interrupted", stage=self._stage.name, lane=lane, cause=type(error).__name__)
            next_in_ms = 1000
        finally:
            del self._woken[lane]
            told_at = self._told.pop(lane, None)
        if not self._accepting:
            return
        if told_at is not None:
            told_ms = max(0, int(1000 * (told_at - asyncio.get_running_loop().time())))
            next_in_ms = told_ms if next_in_ms < 0 else min(next_in_ms, told_ms)
        if woken.is_set() or next_in_ms >= 0:
            self._arm(self._stage.name, lane, 0 if woken.is_set() else next_in_ms)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Let `close` know of this drain."""
        task = asyncio.current_task()
        assert task is not None
        self._drains.add(task)
        try:
            yield
        finally:
            self._drains.discard(task)

    async def _drain(self, lane: str, woken: asyncio.Event) -> int:
        loop = asyncio.get_running_loop()
        until, busy = loop.time() + self._drain_s, False
        while self._accepting and loop.time() < until:
            room = await self._room(until - loop.time())
            if room <= 0:
                continue
            claim = await self._claim(lane, room)
            next_in_ms, idle = claim.next_in_ms, not claim.entries
            soon = 0 <= next_in_ms <= LINGER_MS
            if idle and not soon and not busy:
                return next_in_ms
            busy = soon or not idle
            if next_in_ms != 0 or idle:
                await self._pause(woken, next_in_ms if soon else LINGER_MS, paced=claim.paced)
        return 0

    async def _pause(self, woken: asyncio.Event, pause_ms: int, *, paced: bool) -> None:
        """Wait for what is due next, or for news; without a rate to keep, a little longer, for more at once."""
        if not paced:
            await asyncio.sleep(GATHER_S)
            pause_ms -= int(1000 * GATHER_S)
        if not woken.is_set() and pause_ms > 0:
            await self._wait(woken, pause_ms / 1000)
        woken.clear()

    async def _room(self, patience_s: float) -> int:
        """Give the free places; wait for some if there are none, or a moment for more if there are few."""
        room = self._stage.limit - len(self._members)
        if room <= 0:
            await self._wait(self._freed, patience_s)
        elif room < self._stage.limit // ROOM_SHARE:
            await asyncio.sleep(GATHER_S)
        return self._stage.limit - len(self._members)

    async def _claim(self, lane: str, room: int) -> Claim:
        with self._suspects.reserve() as allowed:
            claim = await self._stage.claim(lane, min(room, self._claim_size), suspects=allowed)
            for entry in claim.entries:
                self._leases.hold(entry)
                member = asyncio.create_task(self._work(entry))
                self._members.add(member)
                member.add_done_callback(self._finish)
                if entry.suspect and not entry.expired:
                    self._suspects.occupy(member)
        return claim

    async def _work(self, entry: Entry) -> None:
        """Handle one entry. A fault of ours leaves its lease to expire: it comes back as a suspect."""
        working_on(
            self._stage.name, entry.kind, entry.id, entry.epoch
        )  # the task is its own: whatever logs in it says so
        try:
            if entry.starts_in_s:
                await asyncio.sleep(entry.starts_in_s)  # milliseconds: the claim was early by so much
            await self._stage.handle(entry)
        except asyncio.CancelledError:
            self.cut.append(entry)
            raise
        except Exception as error:
            log.exception("entry_fault", stage=self._stage.name, id=entry.id, cause=type(error).__name__)
        finally:
            self._leases.drop(entry)

    def _finish(self, member: asyncio.Task[None]) -> None:
        self._members.discard(member)
        self._freed.set()

    @staticmethod
    async def _wait(event: asyncio.Event, timeout_s: float) -> None:
        event.clear()
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await event.wait()
        except TimeoutError:
            return


class Suspects:
    """At most one suspect at a time in this process, over all stages."""

    def __init__(self) -> None:
        self._reserved = False
        self._holder: asyncio.Task[None] | None = None

    @contextmanager
    def reserve(self) -> Iterator[bool]:
        """Say whether a claim may ask for a suspect; of claims side by side only one may."""
        if self._reserved or self._holder is not None:
            yield False
            return
        self._reserved = True
        try:
            yield True
        finally:
            self._reserved = False

    def occupy(self, member: asyncio.Task[None]) -> None:
        self._holder = member
        member.add_done_callback(self._free)

    def _free(self, _member: asyncio.Task[None]) -> None:
        self._holder = None
