"""The event loop of a worker process: one named thread, on which every stage runs.

Other threads hand it coroutines. A heartbeat on the loop tells them whether it still turns: a process whose loop
is stuck cannot act, and must not go on renewing its leases.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

log = structlog.get_logger(__name__)

T = TypeVar("T")
BEAT_S: Final = 0.25


class EventLoop:
    """A uvloop in a daemon thread. Use: start, run or spawn from any other thread, stop."""

    def __init__(
        self,
        name: str = "darkroom-loop",
        *,
        clock: Callable[[], float] = time.monotonic,
        beat_s: float = BEAT_S,
    ) -> None:
        self._name, self._clock, self._beat_s = name, clock, beat_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._beat_at = clock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Raises RuntimeError before start and after stop."""
        if self._loop is None:
            raise RuntimeError(f"the event loop {self._name} does not run")
        return self._loop

    def start(self) -> None:
        """Start the thread; returns when the loop turns."""
        if self._loop is not None:
            raise RuntimeError(f"the event loop {self._name} runs already")
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(_report)
        turning = threading.Event()
        self._loop.call_soon(self._beat)
        self._loop.call_soon(turning.set)
        self._thread = threading.Thread(target=self._turn, args=(self._loop,), name=self._name, daemon=True)
        self._thread.start()
        turning.wait()

    def run(self, coro: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run to completion and give the result. After `timeout_s` it is cancelled and TimeoutError raised."""
        if threading.current_thread() is self._thread:
            coro.close()
            raise RuntimeError("run() would wait for its own thread; await instead")
        future = self._hand_over(coro)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    def spawn(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine and return at once. A failure that nobody awaits is logged."""
        future = self._hand_over(coro)
        future.add_done_callback(_log_failure)
        return future

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call it on the loop soon. From any thread, also in a signal handler; nothing happens after stop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback)

    def _hand_over(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(coro, self.loop)
        except RuntimeError:
            coro.close()
            raise

    def stop(self, grace_s: float = 10.0) -> None:
        """Cancel every task, wait for their clean-up for at most `grace_s`, close the loop. Idempotent."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_cancel_all(grace_s), loop).result(grace_s + 5)
        except TimeoutError:
            # The thread is a daemon: it does not hold up the exit of the process.
            log.error("event_loop_stuck_at_stop", loop=self._name)  # noqa: TRY400 - the traceback is ours, not its
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)

    def is_stuck(self, threshold_s: float) -> bool:
        """Whether the loop has not turned for longer than `threshold_s`, or does not run. From any thread."""
        return self._loop is None or self._clock() - self._beat_at > threshold_s + self._beat_s

    def _beat(self) -> None:
        self._beat_at = self._clock()
        if self._loop is not None:
            self._loop.call_later(self._beat_s, self._beat)

    @staticmethod
    def _turn(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _cancel_all(grace_s: float) -> None:
    """Cancel every other task and wait for them, then for those that their clean-up started."""
    loop = asyncio.get_running_loop()
    until = loop.time() + grace_s
    while late := asyncio.all_tasks() - {asyncio.current_task()}:
        if loop.time() >= until:
            names = sorted({getattr(task.get_coro(), "__qualname__", "?") for task in late})
            log.warning("tasks_not_ended", count=len(late), coroutines=names)
            return
        for task in late:
            task.cancel()
        await asyncio.wait(late, timeout=until - loop.time())


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("event_loop_fault", what=context.get("message"), cause=type(error).__name__, exc_info=error)


def _log_failure(future: Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("spawned_failed", cause=type(error).__name__, exc_info=error)
