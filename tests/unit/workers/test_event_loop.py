"""The event loop thread: handing over, cancelling, stopping, and telling that it is stuck."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
import uvloop
from structlog.testing import capture_logs

from workers.event_loop import EventLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    running = EventLoop()
    running.start()
    yield running
    running.stop(grace_s=5)


async def where() -> tuple[str, bool]:
    return threading.current_thread().name, isinstance(asyncio.get_running_loop(), uvloop.Loop)


def test_coroutines_run_on_one_named_thread_on_uvloop(loop: EventLoop) -> None:
    """Clients and pools are opened on it once and used there for ever."""
    assert loop.run(where(), timeout_s=20) == ("darkroom-loop", True)
    assert loop.spawn(where()).result(20) == ("darkroom-loop", True)


def test_run_gives_the_failure_of_the_coroutine(loop: EventLoop) -> None:
    """The caller's thread sees what it would have seen awaiting."""

    async def fail() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        loop.run(fail(), timeout_s=20)


def test_run_cancels_what_takes_too_long(loop: EventLoop) -> None:
    """A caller that gave up must leave nothing running behind it."""
    ended = threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        loop.run(long(), timeout_s=0.05)
    assert ended.wait(20)


def test_run_on_its_own_thread_is_refused(loop: EventLoop) -> None:
    """It would wait for itself for ever."""

    async def nested() -> None:
        loop.run(where())

    with pytest.raises(RuntimeError, match="its own thread"):
        loop.run(nested(), timeout_s=20)


def test_a_spawned_failure_is_logged(loop: EventLoop) -> None:
    """Nobody awaits it, so nobody else would tell."""
    failed = threading.Event()

    async def fail() -> None:
        raise ValueError("its own")

    with capture_logs() as logged:
        future = loop.spawn(fail())
        future.add_done_callback(lambda _: failed.set())
        assert failed.wait(20)
    told = [entry for entry in logged if entry["event"] == "spawned_failed"]
    assert [entry["cause"] for entry in told] == ["ValueError"]


def test_stop_cancels_and_waits_for_clean_up() -> None:
    """A stage's `finally` gives leases back: it must get to its end, and so must what it starts."""
    loop = EventLoop()
    loop.start()
    steps: list[str] = []
    last: list[asyncio.Task[None]] = []
    started = threading.Event()

    async def give_back() -> None:
        await asyncio.sleep(0.01)
        steps.append("given back")

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")
            last.append(asyncio.create_task(give_back()))

    future = loop.spawn(work())
    assert started.wait(20)
    loop.stop(grace_s=20)
    assert future.cancelled()
    assert steps == ["cleaned up"]
    assert last[0].done()
    assert loop._thread is not None
    assert not loop._thread.is_alive()
    loop.stop()


def test_stop_gives_up_on_what_will_not_end_and_names_it() -> None:
    """SIGTERM must complete whatever a coroutine does."""
    loop = EventLoop()
    loop.start()
    started = threading.Event()

    async def stubborn() -> None:
        started.set()
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    loop.spawn(stubborn())
    assert started.wait(20)
    with capture_logs() as logged:
        loop.stop(grace_s=0.05)
    told = next(entry for entry in logged if entry["event"] == "tasks_not_ended")
    assert "stubborn" in told["coroutines"][0]
    assert loop._thread is not None
    assert not loop._thread.is_alive()


def test_after_stop_and_before_start_nothing_is_taken() -> None:
    """The refusal is an error of the caller's thread, and the coroutine is closed, not forgotten."""
    loop = EventLoop()
    with pytest.raises(RuntimeError, match="does not run"):
        loop.run(where())
    with pytest.raises(RuntimeError, match="does not run"):
        loop.spawn(where())
    loop.call_soon(lambda: None)
    assert loop.is_stuck(1e9)


def test_a_second_start_is_refused(loop: EventLoop) -> None:
    """One loop per process."""
    with pytest.raises(RuntimeError, match="already"):
        loop.start()


def test_a_loop_that_does_not_turn_is_seen_from_other_threads() -> None:
    """Lease renewal stops then: a process that cannot act must not keep its jobs."""
    now = [0.0]
    loop = EventLoop(clock=lambda: now[0], beat_s=0.01)
    loop.start()
    blocked, let_go = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        let_go.wait(60)

    try:
        assert not loop.is_stuck(4.0)
        loop.call_soon(block)
        assert blocked.wait(20)
        now[0] = 5.0
        assert loop.is_stuck(4.0)
        let_go.set()
        turned = threading.Event()
        loop.call_soon(lambda: loop.loop.call_later(0.1, turned.set))
        assert turned.wait(20)
        assert not loop.is_stuck(4.0)
    finally:
        let_go.set()
        loop.stop(grace_s=5)
