"""The pacemaker on a real server: a process that cannot act takes nothing from those who can."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from shared.redis.looks import Look, look
from workers.event_loop import EventLoop
from workers.pacemaker import HINT_TTL_MS, Pacemaker

if TYPE_CHECKING:
    from tests.conftest import State

LOOKS = (Look("store", "", ""),)


@dataclass
class Runtime:
    """Remembers what was to run here."""

    looks: tuple[Look, ...] = LOOKS
    spawned: list[tuple[str, str]] = field(default_factory=list)

    def spawn_stage(self, stage: str, lane: str) -> None:
        self.spawned.append((stage, lane))


def paced(state: State, worker: str, loop: EventLoop) -> tuple[Pacemaker, Runtime]:
    """A worker's pacemaker, whose thread is the test."""
    look_at = partial(
        look, state.client, state.keys, worker=worker, alive_ms=12_000, hint_ttl_ms=HINT_TTL_MS, k=10
    )
    pacemaker = Pacemaker(look_at, lambda *_: True, able=lambda: not loop.is_stuck(4))
    runtime = Runtime()
    pacemaker.attach(runtime)  # type: ignore[arg-type]  # as much of one as is asked
    return pacemaker, runtime


def test_a_worker_whose_loop_hangs_is_not_elected_to_sweep(state: State) -> None:
    """Its thread goes on, and would win every election; nor is it counted among the living."""
    state.client.zadd(state.keys.index("expiring"), {"job_late": 1})
    now, hangs, release = [1000.0], threading.Event(), threading.Event()
    hanging, well = EventLoop(clock=lambda: now[0]), EventLoop()
    hanging.start()
    well.start()
    try:
        hanging.call_soon(hangs.set)
        hanging.call_soon(release.wait)
        hangs.wait()
        now[0] += 60
        first, stuck = paced(state, "w1", hanging)
        second, able = paced(state, "w2", well)
        first.beat()
        second.beat()
        assert (stuck.spawned, able.spawned) == ([], [("sweep", "")])
        assert state.client.zrange(state.keys.workers, 0, -1) == [b"w2"]
    finally:
        release.set()
        hanging.stop()
        well.stop()
