"""The pacemaker: sees to it that due work is looked at, whatever becomes of Celery messages.

It runs on a thread of its own, since Celery's timer stops while the consumer has no broker. Once a tick it looks
everywhere this worker serves; in between, where a time is armed: a finished drain arms the moment its next entry
is due. What a look finds is hinted through the broker, so that any worker may take it. When the hint cannot be
published, or the same work is still unhinted a moment later (the message was lost), the stage runs in this process.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from redis.exceptions import RedisError

from shared.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.redis.looks import Look, Seen
    from workers.tasks import Runtime

log = structlog.get_logger(__name__)

Where = tuple[str, str]  # stage, lane
HINT_TTL_MS: Final = 300
CONFIRM_S: Final = HINT_TTL_MS / 1000 + 0.02  # just after the hint's flag has run out
GAP_S: Final = 0.01  # looks closer together than this are one look
SWEEP_WITHIN_S: Final = 600.0  # what is tidied, and not due at any time, waits for a sweep for no longer
HUNG_AFTER_S: Final = 60.0  # more than any look can take with the client's timeouts


class LookAt(Protocol):
    """Asks the state server what is due: (workers alive, whether to sweep now, what waits at each look)."""

    def __call__(self, looks: Sequence[Look], /, *, sweep: bool) -> tuple[int, bool, list[Seen]]: ...


class Hint(Protocol):
    """Takes hints to publish, at once; False when they cannot be."""

    def __call__(self, stage: str, lane: str, count: int, /) -> bool: ...


class Schedule:
    """When to look where: armed times, and a tick that looks everywhere. Times are seconds of the caller's clock."""

    def __init__(self, tick_s: float, now_s: float) -> None:
        self._tick_s, self._tick_at = tick_s, now_s
        self._quiet_until = now_s
        self._armed: dict[Where, float] = {}

    def arm(self, where: Where, at_s: float) -> bool:
        """Arm a time, unless an earlier one is; True if it is now the next of all. The tick covers what is later."""
        if at_s >= min(self._tick_at, self._armed.get(where, at_s + 1)):
            return False
        first = max(at_s, self._quiet_until) < self.next_at()
        self._armed[where] = at_s
        return first

    def next_at(self) -> float:
        """When to look next."""
        return max(self._quiet_until, min([self._tick_at, *self._armed.values()]))

    def take_due(self, now_s: float) -> tuple[set[Where], bool]:
        """Take the armed places that are due, and whether the tick is: then everything is, armed or not."""
        if now_s < self._quiet_until:
            return set(), False
        everywhere = now_s >= self._tick_at
        due = {where for where, at_s in self._armed.items() if everywhere or at_s <= now_s}
        for where in due:
            del self._armed[where]
        if everywhere:
            self._tick_at = now_s + self._tick_s
        if due or everywhere:
            self._quiet_until = now_s + GAP_S
        return due, everywhere


class Pacemaker:
    """The thread, its watch, and what a look leads to."""

    def __init__(
        self,
        look: LookAt,
        hint: Hint,
        *,
        tick_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        able: Callable[[], bool] = lambda: True,
    ) -> None:
        """`able` says whether this process can act on what it finds: its event loop may hang."""
        self._look, self._hint, self._tick_s, self._clock = look, hint, tick_s, clock
        self._able = able
        self._schedule, self._lock = Schedule(tick_s, clock()), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._halted = False
        self._hinted_at: dict[Where, float] = {}
        self._state_reachable = True
        self._runtime: Runtime | None = None
        self._looks: dict[Where, Look] = {}
        self._thread: threading.Thread | None = None
        self._turn = 0
        self._beat_at, self._sweep_at = clock(), clock() + SWEEP_WITHIN_S
        self.looks = self.faults = self.restarts = 0

    def arm(self, stage: str, lane: str, in_ms: int) -> None:
        """Look there in so many ms (and one more: server times are cut to whole ms). From any thread, never blocks."""
        with self._lock:
            first = self._schedule.arm((stage, lane), self._clock() + (max(0, in_ms) + 1) / 1000)
        if first:
            self._wake.set()

    def start(self, runtime: Runtime) -> None:
        """Start looking for this runtime."""
        self.attach(runtime)
        self._start_thread()
        threading.Thread(target=self._watch_for_ever, name="darkroom-pacemaker-watch", daemon=True).start()

    def attach(self, runtime: Runtime) -> None:
        """Serve this runtime, without a thread yet."""
        self._runtime = runtime
        self._looks = {(look.stage, look.lane): look for look in runtime.looks}

    def halt(self) -> None:
        """Look no more. Safe in a signal handler: it takes no lock."""
        self._halted = True

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop the threads; waits for a look in progress for at most `timeout_s`."""
        self.halt()
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=timeout_s)

    def beat(self) -> None:
        """Look where it is time to, and act on what is there.

        A process that cannot act does not look: it would count as living, and win the sweep from those who can.
        """
        self._beat_at = now = self._clock()
        with self._lock:
            due, everywhere = self._schedule.take_due(now)
        looks = (
            list(self._looks.values()) if everywhere else [self._looks[w] for w in due if w in self._looks]
        )
        if not looks or self._halted or not self._able():
            return
        try:
            _, sweep, seen = self._look(looks, sweep=everywhere)
        except (RedisError, StateUnavailable, OSError) as error:
            self._note_state(reachable=False, cause=type(error).__name__)
            return
        self._note_state(reachable=True)
        self.looks += 1
        for each in seen:
            self._act(each)
        if sweep or (everywhere and now >= self._sweep_at):
            self._sweep_at = now + SWEEP_WITHIN_S
            self._spawn("sweep", "")

    def _act(self, seen: Seen) -> None:
        """Hint what is due.

        What is still unhinted after the flag of our last hint ran out is run here as well: its message was lost,
        or went to a worker that does not serve the lane.
        """
        stage, lane = where = seen.look.stage, seen.look.lane
        now = self._clock()
        lost = now - self._hinted_at.pop(where, now) >= HINT_TTL_MS / 1000
        if seen.hints > 0:
            if not self._hint(stage, lane, seen.hints) or lost:
                self._spawn(stage, lane)
            if not lost:  # confirmed once, not for ever: the tick goes on with what nobody can take
                self._hinted_at[where] = now
                self._arm_at(where, now + CONFIRM_S)
        if seen.next_in_ms > 0:
            self._arm_at(where, now + (seen.next_in_ms + 1) / 1000)

    def _arm_at(self, where: Where, at_s: float) -> None:
        with self._lock:
            self._schedule.arm(where, at_s)

    def _spawn(self, stage: str, lane: str) -> None:
        if self._runtime is not None and not self._halted:
            self._runtime.spawn_stage(stage, lane)

    def _note_state(self, *, reachable: bool, cause: str = "") -> None:
        """Log a change, not every tick of an outage."""
        if reachable != self._state_reachable:
            log.warning("state_reached_again" if reachable else "state_unreachable", cause=cause)
        self._state_reachable = reachable

    def _start_thread(self) -> None:
        self._turn += 1
        self._beat_at = self._clock()
        self._thread = threading.Thread(
            target=self._run, args=(self._turn,), name=f"darkroom-pacemaker-{self._turn}", daemon=True
        )
        self._thread.start()

    def _run(self, turn: int) -> None:
        while turn == self._turn and not self._halted:
            with self._lock:
                wait_s = self._schedule.next_at() - self._clock()
            self._wake.wait(max(0.0, wait_s))
            self._wake.clear()
            try:
                self.beat()
            except Exception:  # it must go on: without looks nothing is ever polled
                self.faults += 1
                log.exception("pacemaker_fault", faults=self.faults)
                self._stopping.wait(self._tick_s)

    def _watch_for_ever(self) -> None:
        while not self._stopping.wait(self._tick_s):
            self.watch()

    def watch(self) -> bool:
        """Replace the thread if it died or hangs; True if it had to be."""
        alive = self._thread is not None and self._thread.is_alive()
        hung = self._clock() - self._beat_at > HUNG_AFTER_S
        if self._halted or (alive and not hung):
            return False
        self.restarts += 1
        log.error("pacemaker_restarted", reason="hung" if alive else "died", restarts=self.restarts)
        self._start_thread()
        return True
