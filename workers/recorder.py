"""Recording transitions: gathered for a few milliseconds and applied in one script call, each with its own result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from pydantic_core import to_json
from redis.exceptions import ClusterDownError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import StateUnavailable
from shared.jobs.transition import AnyTransition, Applied, Transition, context_json
from shared.redis.scripts import run_async
from workers import metrics

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from shared.redis.keys import Keys
    from shared.settings import LimitSettings

log = structlog.get_logger(__name__)

WINDOW_S: Final = 0.005
RUN_MAX: Final = 200
RETRY_FOR_S: Final = 120.0  # an answer of the provider is worth waiting for Redis; leases bound the rest
RETRY_EVERY_S: Final = 0.25
# Refusals that pass by themselves or with an operator's help: a failover, a full disk, a script that runs long.
_PASSING: Final = ("MISCONF", "NOREPLICAS", "BUSY ", "TRYAGAIN")

Pending = tuple[str, bytes, "asyncio.Future[Applied]"]  # id, encoded transition, who waits


class Recorder:
    """Applies transitions for one process. Must be used on one event loop."""

    def __init__(self, client: Redis, keys: Keys, limits: LimitSettings) -> None:
        self._client, self._keys = client, keys
        self._context = context_json(limits)
        self._retain_ms = limits.retain_jobs_s * 1000
        self._pending: list[Pending] = []
        self._flushes: dict[asyncio.Task[None], list[Pending]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def apply(self, transition: AnyTransition) -> Applied:
        """Apply one transition; several asked for within the window share a call.

        Raises IllegalTransition, or ValueError for text that has no bytes, at once; StateUnavailable if Redis stays
        away for RETRY_FOR_S, or until the end of `close`.
        """
        encoded = transition.encode(self._retain_ms)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Applied] = loop.create_future()
        self._pending.append((encoded["id"], to_json(encoded), future))
        if len(self._pending) >= RUN_MAX:
            self._start_flush()
        elif self._timer is None:
            self._timer = loop.call_later(WINDOW_S, self._start_flush)
        applied = await future  # cancelled or not, the transition is on its way
        _count(transition, applied)
        return applied

    async def close(self, grace_s: float = RETRY_FOR_S) -> int:
        """Flush what is pending and wait for it; give up what is not recorded after `grace_s`, and give how many."""
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        self._start_flush()
        while self._flushes and loop.time() < until:
            await asyncio.wait(self._flushes, timeout=until - loop.time())
            self._start_flush()
        late = dict(self._flushes)
        for flush in late:
            flush.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        given_up = sum(map(len, late.values()))
        if late:
            log.warning("transitions_given_up", count=given_up)
        return given_up

    def _start_flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            run, self._pending = self._pending, []
            task = asyncio.create_task(self._flush(run))
            self._flushes[task] = run
            task.add_done_callback(self._ended)

    def _ended(self, flush: asyncio.Task[None]) -> None:
        """Let nobody wait for a call that is over, however it ended."""
        run = self._flushes.pop(flush)
        if flush.cancelled():
            _fail(run, StateUnavailable("state Redis was away when this worker ended"))
        elif (error := flush.exception()) is not None:
            _fail(run, error)

    async def _flush(self, run: list[Pending]) -> None:
        try:
            results = await self._call([encoded for _, encoded, _ in run])
        except ResponseError as error:
            await self._flush_singly(run, error)
        else:
            for (_, _, future), result in zip(run, results, strict=True):
                if not future.done():
                    future.set_result(Applied(result))

    async def _flush_singly(self, run: list[Pending], error: ResponseError) -> None:
        """Find the one that the server refuses: guards make a second application of the others a no-op."""
        if len(run) == 1:
            log.error("transition_refused_by_server", id=run[0][0], error=str(error)[:200])
            _fail(run, error)
            return
        for pending in run:
            await self._flush([pending])

    async def _call(self, encoded: list[bytes]) -> list[int]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + RETRY_FOR_S
        body = b"[" + b",".join(encoded) + b"]"
        while True:
            try:
                reply: list[int] = await run_async(
                    self._client, "apply_transitions", self._keys.prefix, self._context, body
                )
            except (RedisConnectionError, RedisTimeoutError, ResponseError, OSError) as error:
                # The call may have been applied: its guards then fence the second, and nothing happens twice.
                if isinstance(error, ResponseError) and not _passes(error):
                    raise
                if loop.time() > give_up_at:
                    raise StateUnavailable(f"state Redis away for {RETRY_FOR_S:.0f} s") from error
                await asyncio.sleep(RETRY_EVERY_S)
            else:
                return reply


def _count(transition: AnyTransition, applied: Applied) -> None:
    if isinstance(transition, Transition):
        change = transition.changes[max(0, applied - 1)]
        metrics.count_transition("job", change.after, applied)
    else:
        metrics.count_transition("delivery", transition.after, applied)


def _passes(error: ResponseError) -> bool:
    """Say whether the server refuses for now, and not this call."""
    return isinstance(error, ReadOnlyError | ClusterDownError) or str(error).startswith(_PASSING)


def _fail(run: list[Pending], error: BaseException) -> None:
    for _, _, future in run:
        if not future.done():
            future.set_exception(error)
