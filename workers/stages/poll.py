"""The poll stage: ask the provider about generations whose time has come, within the account's poll permits."""

from __future__ import annotations

import random
from logging import DEBUG
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from shared.jobs.lifecycle import JobState
from shared.jobs.transition import Applied, Transition
from shared.quota.poll_schedule import is_given_up, is_long_sequential, next_delay_s
from shared.retry import LEAST_WAIT_S, clamp_retry_after
from workers import crash_points, metrics
from workers.providers.outcomes import (
    ANOTHER_GENERATION,
    Missing,
    PollBlocked,
    PollOutcome,
    PollThrottled,
    PollUnclear,
    ProviderFailed,
    Running,
    Succeeded,
)
from workers.stages import poll_plans as plans
from workers.stages.attempts import attempt
from workers.stages.stage import succeeded
from workers.stages.submit import BLOCK_PROBE_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.settings import Settings
    from workers.claims import Claim, Entry
    from workers.http.port import HttpClient
    from workers.lanes import Lane
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

THROTTLED_S: Final = 5.0
_OTHER: Final = "the provider answered about another generation"


class PollStage:
    """Polls generations of this process's lanes."""

    name = "poll"

    def __init__(self, shop: Shop, lanes: Mapping[str, Lane], client: HttpClient, settings: Settings) -> None:
        self._shop, self._lanes, self._client, self._settings = shop, lanes, client, settings
        self.limit = settings.worker.poll_concurrency

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim:
        return await self._shop.claims.poll(self._lanes[lane], k, suspects=suspects)

    async def handle(self, entry: Entry) -> None:
        crash_points.cross("poll.claimed")
        lane = self._lanes[entry.index.removeprefix("poll:")]
        if entry.poisoned:
            plan = self._poison(entry, lane)
            outcome: PollOutcome | None = None
        else:
            generation_id = entry.fields["generation_id"]
            request = lane.provider.poll_request(
                generation_id, deadline_s=self._settings.worker.poll_timeout_s
            )
            outcome = lane.provider.poll_outcome(await self._client.send(request), generation_id)
            crash_points.cross("poll.answered")
            plan = self._plan(entry, lane, outcome)
            _count(entry, lane.name, outcome)
        told = {} if not log.is_enabled_for(DEBUG) else attempt(
            "poll", entry, lane=lane.name, outcome=type(outcome).__name__ if outcome else "Poisoned",
            cause=getattr(outcome, "cause", getattr(outcome, "code", "")),
        )  # fmt: skip
        applied = await self._shop.recorder.apply(plan)
        crash_points.cross("poll.recorded")
        log.debug("poll_attempted", job_id=entry.id, applied=applied.name, **told)
        self._after(entry, plan, applied)

    def _plan(self, entry: Entry, lane: Lane, outcome: PollOutcome) -> Transition:
        answered = isinstance(outcome, Succeeded | ProviderFailed)
        if not answered and is_given_up(self._settings.poll, _age_s(entry)):
            return self._lost(entry, lane)
        match outcome:
            case Running():
                return plans.plan_snooze(entry, lane, self._delay_ms(entry))
            case Succeeded():
                return self._succeeded(entry, lane, outcome)
            case ProviderFailed():
                return plans.plan_failed(entry, lane, f"provider:{outcome.code}"[:60], outcome.message)
            case Missing():
                return self._missing(entry, lane)
            case PollThrottled():
                cap_s = self._settings.retry.retry_after_cap_s
                asked = clamp_retry_after(outcome.retry_after_s, cap_s, LEAST_WAIT_S)
                delay_s = THROTTLED_S * (0.5 + random.random()) if asked is None else asked  # noqa: S311
                return plans.plan_snooze(entry, lane, int(delay_s * 1000))
            case PollBlocked():
                return plans.plan_snooze(entry, lane, BLOCK_PROBE_MS, note=f"poll refused: {outcome.cause}")
            case PollUnclear():
                note = _OTHER if outcome.cause == ANOTHER_GENERATION else ""
                return plans.plan_snooze(entry, lane, self._delay_ms(entry), note=note)
        assert_never(outcome)

    def _succeeded(self, entry: Entry, lane: Lane, outcome: Succeeded) -> Transition:
        """Take what came. The end may be told before its images: one more question costs nothing, a paid image does."""
        if outcome.images:
            store = self._settings.storage.enabled
            return plans.plan_delivered(entry, lane, outcome.images, outcome.provider_cost, store=store)
        if not entry.number("empty_polls"):
            note = "completed without an image, asked once more"
            return plans.plan_snooze(entry, lane, self._delay_ms(entry), note=note, empty=True)
        return plans.plan_failed(entry, lane, "no_images", "the provider completed it without an image")

    def _missing(self, entry: Entry, lane: Lane) -> Transition:
        """Wait a grace for a task the provider may not show yet; then as past the deadline."""
        poll, age_s = self._settings.poll, _age_s(entry)
        if age_s < poll.missing_grace_s:
            return plans.plan_snooze(entry, lane, self._delay_ms(entry))
        slot_ms = max(0, int(1000 * (self._settings.worker.generation_max_s - age_s)))
        return plans.plan_snooze(
            entry, lane, int(1000 * poll.late_every_s), note="the provider does not know it", slot_ms=slot_ms
        )

    def _lost(self, entry: Entry, lane: Lane) -> Transition:
        settle = plans.full_price_micros(entry, lane)
        message = "the provider never finished it; settled at the full price, check the provider's bill"
        return plans.plan_failed(entry, lane, "lost", message, settle_micros=settle, flag="lost")

    def _poison(self, entry: Entry, lane: Lane) -> Transition:
        settle = plans.full_price_micros(entry, lane)
        message = "its worker died three times while polling it alone; settled at the full price"
        return plans.plan_failed(entry, lane, "poison", message, settle_micros=settle, flag="poison")

    def _delay_ms(self, entry: Entry) -> int:
        long = is_long_sequential(sequential=entry.fields.get("sequential") == "1", n=entry.number("n"))
        delay_s = next_delay_s(self._settings.poll, _age_s(entry), long_sequential=long, rng=random.random)
        return max(1, int(1000 * delay_s))

    def _after(self, entry: Entry, plan: Transition, applied: Applied) -> None:
        if applied is not Applied.FIRST:
            return
        change = plan.changes[0]
        if change.before is JobState.CANCELLED:
            self._shop.events.emit("revoked", entry.id)  # who cancelled it may not be one who tells Flower
        if change.after is JobState.STORING:
            self._shop.arm("store", "", 0)
        elif change.after is JobState.FAILED and change.before is not JobState.FAILED:
            self._shop.events.emit("failed", entry.id, code=str(change.fields["error_code"]))
            self._shop.arm("notify", "", 0)
        elif change.after is JobState.COMPLETED:
            cost_micros = entry.number("cost_micros") + (change.settle_micros or 0)
            self._shop.events.emit("succeeded", entry.id, **succeeded(entry, change.images, cost_micros))
            self._shop.arm("notify", "", 0)
        if change.free_slot:
            self._shop.arm("submit", change.free_slot, 0)
        else:
            for index, delay_ms in change.due_in:
                self._shop.arm("poll", index.removeprefix("poll:"), delay_ms)


def _age_s(entry: Entry) -> float:
    """Give the time since the submit was recorded, by the state server's clock at the claim."""
    return (entry.now_ms - (entry.number("submitted_at") or entry.now_ms)) / 1000


def _count(entry: Entry, lane: str, outcome: PollOutcome) -> None:
    metrics.count(metrics.POLLS, lane, type(outcome).__name__)
    match outcome:
        case Succeeded() | ProviderFailed():
            metrics.observe(metrics.GENERATE, _age_s(entry), lane)
            metrics.observe(metrics.POLLS_PER_JOB, entry.number("polls") + 1, lane)
        case PollThrottled():
            metrics.count(metrics.THROTTLED, "poll", lane)
