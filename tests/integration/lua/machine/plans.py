"""What workers and operators ask of the scripts, for the machine: their real plans, at one lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from shared.jobs.lifecycle import JobState
from shared.jobs.transition import LEASE_FIELDS, Change, Transition
from shared.settings import AccountSettings, WorkerSettings
from tests.integration.lua.conftest import LANE
from tests.integration.lua.machine.model import PRICE
from workers.claims import POISON_DEATHS, Entry
from workers.lanes import Lane
from workers.providers.gateway import GatewayProvider
from workers.providers.outcomes import ResultImage
from workers.stages import poll_plans, submit_plans

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDER: Final = GatewayProvider("https://provider.test/v1", SecretStr("key"))
PLACE: Final = Lane(LANE, "main", "wan2.7-image", AccountSettings(), PROVIDER, PRICE)
WORKER: Final = WorkerSettings()
# What a POST and a poll may come to, the usual more often.
ANSWERS: Final = ("accepted",) * 4 + ("lost", "lost", "not sent", "refused", "dies")
POLLED: Final = ("delivered", "delivered", "failed", "lost", "generating", "dies")


def entry_of(row: Mapping[str, Any], index: str, now_ms: int) -> Entry:
    """Give what a claim handed over as a worker has it."""
    fields = {name: value for name, value in row.items() if isinstance(value, str)}
    expired = bool(row.get("expired"))
    return Entry(row["id"], index, "j", int(row["epoch"]), fields, expired=expired, now_ms=now_ms)


def intent(entry: Entry, intent_id: str) -> Transition:
    return submit_plans.plan_intent(entry, PLACE, intent_id)


def accepted(entry: Entry, intent_id: str, generation_id: str) -> tuple[Transition, Transition]:
    """Give the plan for a job that is still submitting, and the one for any other."""
    now = submit_plans.plan_accepted(entry, PLACE, intent_id, generation_id, first_poll_ms=0)
    return now, submit_plans.plan_accepted_late(entry.id, PLACE.name, intent_id, generation_id)


def lost(entry: Entry, intent_id: str | None) -> Transition:
    return submit_plans.plan_unknown(entry, PLACE, WORKER, cause="timeout", intent_id=intent_id)


def not_sent(entry: Entry, intent_id: str, delay_ms: int) -> Transition:
    return submit_plans.plan_requeue(entry, PLACE, intent_id, note="not sent", delay_ms=delay_ms)


def refused(entry: Entry, intent_id: str) -> Transition:
    return submit_plans.plan_failed(entry, PLACE, intent_id, "refused:400", "no")


def given_up(job_id: str) -> Transition:
    return submit_plans.plan_give_up_unknown(job_id)


def orphaned(entry: Entry) -> Transition:
    return submit_plans.plan_orphaned(entry, PLACE, poison_deaths=POISON_DEATHS, wait_ms=1000)


def delivered(entry: Entry, count: int) -> Transition:
    images = [ResultImage(url="https://results.test/a.png") for _ in range(count)]
    return poll_plans.plan_delivered(entry, PLACE, images, None, store=True)


def failed(entry: Entry, micros: int) -> Transition:
    return poll_plans.plan_failed(entry, PLACE, "provider", "no", settle_micros=micros)


def snoozed(entry: Entry, wait_ms: int) -> Transition:
    return poll_plans.plan_snooze(entry, PLACE, wait_ms)


def stored(entry: Entry, images: int) -> Transition:
    """Images 0: they could not be copied."""
    after = JobState.COMPLETED if images else JobState.FAILED
    change = Change(
        before=JobState.STORING, after=after, clear=LEASE_FIELDS, leave=("store", "expiring"), images=images
    )
    return Transition(job_id=entry.id, epoch=entry.epoch, held="store", changes=(change,))
