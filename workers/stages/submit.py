"""The submit stage: one billed POST per job, and never a second while the first may have been accepted.

1. Claimed with permit, slot and hold (claim_submit.lua).
2. The intent is written just before the POST. Refused (fenced)? Someone else decides; drop it.
3. The POST is sent only if less than SEND_WITHIN_S passed since the intent was asked for: a process that slept
in between may have been given up already. Too late means: proved not sent.
4. Its outcome is recorded by intent, so that it counts even if the lease was lost meanwhile. A generation id that
the state server does not take at once is kept on disk until it does (workers/spool.py).
5. A job found here after its holder died goes back to the queue without an intent, and to `unknown` with one.
"""

from __future__ import annotations

import random
import secrets
import time
from logging import INFO
from typing import TYPE_CHECKING, Any, Final, assert_never

import structlog

from shared.errors import StorageError
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Transition
from shared.retry import LEAST_WAIT_S, backoff_s, clamp_retry_after
from workers import crash_points, metrics
from workers.claims import POISON_DEATHS, Claim, Entry
from workers.providers.outcomes import (
    Accepted,
    Ambiguous,
    LaneBlocked,
    NotExecuted,
    NotSent,
    Refused,
    SubmitOutcome,
    Throttled,
    Unsendable,
)
from workers.spool import LateId
from workers.stages import submit_plans as plans
from workers.stages.attempts import attempt
from workers.stages.stage import shown, tell_redriven

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.settings import Settings
    from workers.http.port import HttpClient
    from workers.lanes import Lane
    from workers.spool import Spool
    from workers.stages.inputs import Inputs
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

SEND_WITHIN_S: Final = 3.0
BLOCK_PROBE_MS: Final = 30_000  # a paused lane tries one job this often; a corrected key heals it by itself
THROTTLE_S: Final = 5.0  # the lane's closure after a 429 without Retry-After, before backoff
# Why a job is back in its queue, as Flower shows it.
_WAITS: Final[dict[type, str]] = {
    NotSent: "not_sent",
    Throttled: "throttled",
    NotExecuted: "not_executed",
    LaneBlocked: "lane_paused",
}


class SubmitStage:
    """Submits claimed jobs of this process's lanes."""

    name = "submit"

    def __init__(
        self,
        shop: Shop,
        lanes: Mapping[str, Lane],
        client: HttpClient,
        inputs: Inputs,
        settings: Settings,
        spool: Spool,
    ) -> None:
        self._shop, self._lanes, self._client, self._inputs = shop, lanes, client, inputs
        self._settings, self._spool = settings, spool
        self._turned_away: set[str] = set()  # lanes whose last claim waits for POSTs that are under way
        self.limit = sum(lane.settings.max_outstanding_posts for lane in lanes.values())

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim:
        claim = await self._shop.claims.submit(self._lanes[lane], k, suspects=suspects)
        if claim.reason in {"posts", "blocked"}:
            self._turned_away.add(lane)
        return claim

    async def handle(self, entry: Entry) -> None:
        lane = self._lanes[entry.index.removeprefix("submit:")]
        if entry.expired:
            await self._recover(entry, lane)
            return
        crash_points.cross("submit.claimed")
        tell_redriven(self._shop.events, entry, lane.model)
        self._shop.events.emit("received", entry.id, **shown(entry, lane.model))
        try:
            wire = await self._inputs.wire(entry.request)
        except StorageError as error:
            await self._input_missing(entry, lane, error)
            return
        await self._submit(entry, lane, wire)

    async def _submit(self, entry: Entry, lane: Lane, wire: Mapping[str, Any]) -> None:
        intent_id = secrets.token_hex(16)
        request = lane.provider.submit_request(
            wire, idempotency_key=intent_id, deadline_s=self._settings.worker.submit_timeout_s
        )
        asked_at = time.monotonic()
        if await self._shop.recorder.apply(plans.plan_intent(entry, lane, intent_id)) is not Applied.FIRST:
            return
        crash_points.cross("submit.intent_written")
        self._shop.events.emit("started", entry.id, **shown(entry, lane.model, stage="submitting"))
        sent_at = time.monotonic()
        if sent_at - asked_at >= SEND_WITHIN_S:
            outcome: SubmitOutcome = NotSent("process slept after the intent")
        else:
            outcome = lane.provider.submit_outcome(await self._client.send(request))
            crash_points.cross("submit.posted")
            metrics.observe(metrics.SUBMIT, time.monotonic() - sent_at, lane.name)
        told = {} if not log.is_enabled_for(INFO) else attempt(
            "submit", entry, started_at=sent_at, lane=lane.name, outcome=type(outcome).__name__,
            cause=getattr(outcome, "cause", getattr(outcome, "code", "")),
            intent_id=intent_id, generation_id=getattr(outcome, "generation_id", ""),
        )  # fmt: skip
        await self._record(entry, lane, intent_id, outcome, told)

    async def _record(
        self, entry: Entry, lane: Lane, intent_id: str, outcome: SubmitOutcome, told: Mapping[str, Any]
    ) -> None:
        if not isinstance(outcome, Accepted):
            await self._record_now(entry, lane, intent_id, outcome, told)
            return
        late = LateId(
            intent_id=intent_id, job_id=entry.id, lane=lane.name, generation_id=outcome.generation_id
        )
        async with self._spool.keeping(late):
            await self._record_now(entry, lane, intent_id, outcome, told)

    async def _record_now(
        self, entry: Entry, lane: Lane, intent_id: str, outcome: SubmitOutcome, told: Mapping[str, Any]
    ) -> None:
        plan = self._plan(entry, lane, intent_id, outcome)
        _count(entry, lane.name, outcome)
        applied = await self._shop.recorder.apply(plan)
        crash_points.cross("submit.recorded")
        log.info("submit_attempted", job_id=entry.id, applied=applied.name, **told)
        if applied is Applied.ORPHAN:
            log.error(
                "generation_orphaned", job_id=entry.id, lane=lane.name
            )  # listed in Redis, for an operator
        if applied is Applied.FENCED and isinstance(outcome, Accepted):
            late = plans.plan_accepted_late(entry.id, lane.name, intent_id, outcome.generation_id)
            self._tell(entry, lane, late, await self._shop.recorder.apply(late))
            self._shop.arm("poll", lane.name, 0)
            return
        if applied is Applied.GENERATION_TAKEN and isinstance(outcome, Accepted):
            applied = await self._generation_taken(entry, lane, intent_id, outcome)
        else:
            self._tell(entry, lane, plan, applied, why=_WAITS.get(type(outcome), ""))
        await self._after(entry, lane, outcome, applied)

    def _plan(self, entry: Entry, lane: Lane, intent_id: str, outcome: SubmitOutcome) -> Transition:
        retry = self._settings.retry
        match outcome:
            case Accepted():
                first_poll_ms = int(self._settings.poll.first_s * 1000)
                return plans.plan_accepted(
                    entry, lane, intent_id, outcome.generation_id, first_poll_ms=first_poll_ms
                )
            case NotSent():
                note = f"not sent: {outcome.cause}"
                return plans.plan_requeue(
                    entry, lane, intent_id, note=note, delay_ms=self._backoff_ms(entry, "requeues")
                )
            case Unsendable():
                code, message = "refused:unsendable", outcome.detail
                return plans.plan_failed(entry, lane, intent_id, code, message, answered=False)
            case Throttled():
                asked = clamp_retry_after(outcome.retry_after_s, retry.retry_after_cap_s, LEAST_WAIT_S)
                close_ms = int(1000 * (THROTTLE_S * (0.5 + random.random()) if asked is None else asked))  # noqa: S311
                closed = (lane.name, "close", close_ms)
                return plans.plan_requeue(
                    entry, lane, intent_id, note=f"throttled: {outcome.cause}", lane_note=closed
                )
            case NotExecuted():
                return self._plan_not_executed(entry, lane, intent_id, outcome)
            case LaneBlocked():
                blocked = (lane.name, "block", outcome.cause, BLOCK_PROBE_MS)
                return plans.plan_requeue(
                    entry, lane, intent_id, note=f"lane paused: {outcome.cause}", lane_note=blocked
                )
            case Refused():
                return plans.plan_failed(
                    entry, lane, intent_id, f"refused:{outcome.code}"[:60], outcome.message
                )
            case Ambiguous():
                return plans.plan_unknown(
                    entry,
                    lane,
                    self._settings.worker,
                    cause=outcome.cause,
                    intent_id=intent_id,
                    generation_id=outcome.generation_id,
                )
        assert_never(outcome)

    def _plan_not_executed(
        self, entry: Entry, lane: Lane, intent_id: str, outcome: NotExecuted
    ) -> Transition:
        """Count the attempt: a provider that never has capacity must not be asked for ever."""
        attempts = entry.number("attempts") + 1
        if attempts >= self._settings.retry.submit_attempts:
            message = f"the provider did not execute it {attempts} times: {outcome.cause}"
            return plans.plan_failed(entry, lane, intent_id, "provider_unavailable", message)
        cap_s = self._settings.retry.retry_after_cap_s
        asked = clamp_retry_after(outcome.retry_after_s, cap_s, LEAST_WAIT_S)
        delay_ms = max(self._backoff_ms(entry, "attempts"), int(1000 * (asked or 0)))
        note = f"not executed: {outcome.cause}"
        return plans.plan_requeue(
            entry,
            lane,
            intent_id,
            note=note,
            delay_ms=delay_ms,
            counted=True,
            lane_note=(lane.name, "ok"),
        )

    def _backoff_ms(self, entry: Entry, counter: str) -> int:
        retry = self._settings.retry
        delay_s = backoff_s(
            entry.number(counter) + 1, base_s=retry.base_s, cap_s=retry.cap_s, rng=random.random
        )
        return max(1, int(1000 * delay_s))

    async def _after(self, entry: Entry, lane: Lane, outcome: SubmitOutcome, applied: Applied) -> None:
        if lane.name in self._turned_away:  # this POST has just given its place back
            self._turned_away.discard(lane.name)
            self._shop.arm("submit", lane.name, 0)
        if applied is Applied.FIRST and isinstance(outcome, Accepted):
            self._shop.arm("poll", lane.name, int(self._settings.poll.first_s * 1000))
        elif applied is Applied.FIRST and isinstance(outcome, Refused | Unsendable):
            self._shop.arm("notify", "", 0)
        elif applied is Applied.FIRST and isinstance(outcome, Ambiguous):
            await self._became_unknown(entry)

    def _tell(self, entry: Entry, lane: Lane, plan: Transition, applied: Applied, why: str = "") -> None:
        """Tell Flower where the job went; `why` it waits again, if it does."""
        if applied < Applied.FIRST:
            return
        change, emit = plan.changes[applied - 1], self._shop.events.emit
        if change.before is change.after is JobState.FAILED:
            return
        match change.after:
            case JobState.FAILED:
                emit("failed", entry.id, code=str(change.fields["error_code"]))
            case JobState.CANCELLED:
                emit("revoked", entry.id)
            case JobState.QUEUED:
                # Nothing may follow it here: the next event replaces RETRY, and nobody would have seen the reason.
                emit(
                    "retried", entry.id, code=why or "retried", **shown(entry, lane.model, stage=change.after)
                )
            case _:
                emit("started", entry.id, **shown(entry, lane.model, stage=change.after))

    async def _became_unknown(self, entry: Entry) -> None:
        metrics.count(metrics.UNKNOWNS, entry.index.removeprefix("submit:"))
        if entry.fields.get("on_unknown") == "fail":
            await self._shop.recorder.apply(plans.plan_give_up_unknown(entry))
            self._shop.events.emit("failed", entry.id, code="unknown_outcome")
        self._shop.arm("notify", "", 0)

    async def _generation_taken(self, entry: Entry, lane: Lane, intent_id: str, outcome: Accepted) -> Applied:
        """Never let two jobs share one result: the provider named a generation that another job owns."""
        log.error("generation_taken", job_id=entry.id, generation_id=outcome.generation_id)
        plan = plans.plan_unknown(
            entry,
            lane,
            self._settings.worker,
            cause="generation id belongs to another job",
            intent_id=intent_id,
            generation_id=outcome.generation_id,
        )
        applied = await self._shop.recorder.apply(plan)
        self._tell(entry, lane, plan, applied)
        return applied

    async def _recover(self, entry: Entry, lane: Lane) -> None:
        """Take over from a dead holder."""
        intent_id = entry.fields.get("intent_id")
        if intent_id:
            plan = plans.plan_unknown(
                entry, lane, self._settings.worker, cause="worker died during the submit", intent_id=None
            )
        else:
            wait_ms = int(1000 * self._settings.worker.lease_s)
            plan = plans.plan_orphaned(entry, lane, poison_deaths=POISON_DEATHS, wait_ms=wait_ms)
        applied = await self._shop.recorder.apply(plan)
        log.warning(
            "submit_recovered", job_id=entry.id, lane=lane.name, intent=bool(intent_id), applied=applied.name
        )
        self._tell(entry, lane, plan, applied, why="worker_died")
        if applied is Applied.FIRST and intent_id:
            await self._became_unknown(entry)
        self._shop.arm("submit", lane.name, 0)

    async def _input_missing(self, entry: Entry, lane: Lane, error: StorageError) -> None:
        """Without its input nothing can be sent: wait for the store, or fail if the object is gone."""
        if getattr(error, "kind", "") == "missing":
            plan = plans.plan_failed(entry, lane, None, "input_missing", str(error))
        else:
            delay_ms = self._backoff_ms(entry, "requeues")
            plan = plans.plan_requeue(entry, lane, None, note="input store unavailable", delay_ms=delay_ms)
        applied = await self._shop.recorder.apply(plan)
        self._tell(entry, lane, plan, applied, why="input_unavailable")
        log.warning("input_unavailable", job_id=entry.id, applied=applied.name)


def _count(entry: Entry, lane: str, outcome: SubmitOutcome) -> None:
    metrics.count(metrics.SUBMITS, lane, type(outcome).__name__)
    match outcome:
        case Accepted():
            waited_ms = entry.now_ms - (entry.number("created_at") or entry.now_ms)
            metrics.observe(metrics.WAIT, waited_ms / 1000, lane)
        case Throttled():
            metrics.count(metrics.THROTTLED, "submit", lane)
