"""The notify stage: tell an endpoint of an event, again and again on a schedule, under one id.

A delivery never moves a job. One slow endpoint cannot delay others: each may hold only a share of the places, and an
endpoint whose last try failed by silence holds very few until it answers again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from logging import INFO
from typing import TYPE_CHECKING, Final, assert_never
from urllib.parse import urlsplit

import structlog

from shared.errors import ConfigurationError
from shared.jobs.job import Job
from shared.jobs.lifecycle import DeliveryState
from shared.jobs.transition import Applied, DeliveryTransition
from shared.webhooks.endpoints import resolve_endpoint
from shared.webhooks.events import to_body
from workers import crash_points, metrics
from workers.delivery.webhook import Delivered, Disabled, TryLater, next_delivery_delay
from workers.http.port import FailureCause
from workers.stages.attempts import attempt
from workers.stages.notify_events import batch_event, image_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.settings import Settings
    from shared.storage import ObjectStore
    from shared.webhooks.endpoints import Endpoint
    from shared.webhooks.events import Event
    from workers.claims import Claim, Entry
    from workers.delivery.webhook import DeliveryOutcome, WebhookSender
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

HEALTHY_SHARE: Final = 0.75
SILENT_PLACES: Final = 4
CROWDED_MS: Final = 1000
UNCONFIGURED_MS: Final = 60_000
# Dropped packets and a name server that does not answer hold a place as an endpoint does that never answers.
_SILENCE: Final = frozenset({FailureCause.TIMEOUT, FailureCause.CONNECT_TIMEOUT, FailureCause.DNS_FAILED})
REMEMBER_S: Final = 10.0
REMEMBER_MAX: Final = 1000


class NotifyStage:
    """Delivers events to endpoints."""

    name = "notify"

    def __init__(
        self, shop: Shop, sender: WebhookSender, store: ObjectStore | None, settings: Settings
    ) -> None:
        self._shop, self._sender, self._store, self._settings = shop, sender, store, settings
        self.limit = settings.worker.notify_concurrency
        self._busy: Counter[str] = Counter()
        self._silent: set[str] = set()
        self._endpoints: dict[str, tuple[float, Endpoint]] = {}

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim:
        assert not lane
        return await self._shop.claims.notify(k, suspects=suspects)

    async def handle(self, entry: Entry) -> None:
        crash_points.cross("notify.claimed")
        if entry.poisoned:
            await self._apply(entry, DeliveryState.EXHAUSTED, cause="poison", counted=False)
            return
        told = self._told(entry)
        if told is None:
            await self._apply(entry, DeliveryState.DISABLED, cause="its job or batch is gone")
            return
        event, webhook = told
        if event.type == "image.cancelled" and not entry.number("attempts"):
            self._shop.events.emit("revoked", entry.fields["job"])  # no worker may have touched it since
        try:
            endpoint = self._endpoint(webhook)
        except ConfigurationError as error:
            log.warning("delivery_unconfigured", event_id=entry.id, error=str(error))
            await self._again(entry, UNCONFIGURED_MS, "unconfigured", host=_host(webhook))
            return
        await self._deliver(entry, event, endpoint)

    def _endpoint(self, webhook: str) -> Endpoint:
        """Resolve, remembering for a few seconds: a rotated secret is picked up without a restart."""
        now_s = time.monotonic()
        known = self._endpoints.get(webhook)
        if known is None or now_s - known[0] > REMEMBER_S:
            if len(self._endpoints) >= REMEMBER_MAX:
                self._endpoints.clear()
            known = self._endpoints[webhook] = (now_s, resolve_endpoint(self._settings.webhooks, webhook))
        return known[1]

    def _told(self, entry: Entry) -> tuple[Event, str] | None:
        """Give the event and where it goes; None if what it tells of is no more, or never had a webhook."""
        if entry.fields.get("batch"):
            batch = _pairs(entry.subject[0])
            webhook = batch.get("webhook")
            return (batch_event(entry, batch), webhook) if webhook else None
        record, spec, detail = entry.subject
        if not record:
            return None
        job = Job.parse(entry.fields["job"], _raw_pairs(record), spec or None, _raw_pairs(detail), ())
        return (image_event(entry, job, self._link), job.webhook) if job.webhook else None

    def _link(self, object_key: str) -> str | None:
        return self._store.link(object_key) if self._store is not None else None

    async def _deliver(self, entry: Entry, event: Event, endpoint: Endpoint) -> None:
        host = _host(endpoint.url)
        places = SILENT_PLACES if host in self._silent else max(1, int(HEALTHY_SHARE * self.limit))
        if self._busy[host] >= places:
            await self._again(entry, CROWDED_MS, "endpoint busy", host=host)
            return
        self._busy[host] += 1
        sent_at = time.monotonic()
        try:
            outcome = await self._sender.send(
                endpoint, event_id=entry.id, body=to_body(event), timestamp_s=entry.now_ms // 1000
            )
        finally:
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]  # owners choose the hosts: those of all time would be too many
        crash_points.cross("notify.sent")
        self._note_silence(host, outcome)
        if isinstance(outcome, Delivered):
            waited_ms = entry.now_ms - (entry.number("created_at") or entry.now_ms)
            metrics.observe(metrics.NOTIFY, waited_ms / 1000 + time.monotonic() - sent_at)
        await self._record(entry, outcome, host)

    def _note_silence(self, host: str, outcome: DeliveryOutcome) -> None:
        """Remember who holds a place for as long as may be; one who is forgotten is found out again."""
        self._silent.discard(host)
        if isinstance(outcome, TryLater) and outcome.cause in _SILENCE:
            if len(self._silent) >= REMEMBER_MAX:
                self._silent.clear()
            self._silent.add(host)

    async def _record(self, entry: Entry, outcome: DeliveryOutcome, host: str) -> None:
        match outcome:
            case Delivered():
                await self._apply(entry, DeliveryState.DELIVERED, cause=str(outcome.status))
            case Disabled():
                await self._apply(entry, DeliveryState.DISABLED, cause=outcome.cause, host=host)
            case TryLater():
                await self._try_later(entry, outcome, host)
            case _:
                assert_never(outcome)

    async def _try_later(self, entry: Entry, outcome: TryLater, host: str) -> None:
        schedule = self._settings.webhooks.schedule_s
        delay_s = next_delivery_delay(
            schedule, entry.number("attempts") + 1, outcome.retry_after_s, random.random
        )
        if delay_s is None:
            await self._apply(entry, DeliveryState.EXHAUSTED, cause=outcome.cause, host=host)
        else:
            await self._again(entry, int(1000 * delay_s), outcome.cause, host=host, counted=True)

    async def _again(
        self, entry: Entry, delay_ms: int, cause: str, *, host: str, counted: bool = False
    ) -> None:
        await self._apply(
            entry, DeliveryState.PENDING, cause=cause, host=host, delay_ms=delay_ms, counted=counted
        )
        self._shop.arm("notify", "", delay_ms)

    async def _apply(
        self,
        entry: Entry,
        after: DeliveryState,
        *,
        cause: str,
        host: str = "",
        delay_ms: int | None = None,
        counted: bool = True,
    ) -> Applied:
        plan = DeliveryTransition(
            event_id=entry.id,
            epoch=entry.epoch,
            after=after,
            retry_in_ms=delay_ms,
            counted=counted,
            status=cause,
            host=host,
            waited_at=entry.fields.get("waits_at", ""),
            failed=entry.number("attempts") > 0,
            created_at=entry.number("created_at"),
        )
        applied = await self._shop.recorder.apply(plan)
        crash_points.cross("notify.recorded")
        if counted and applied is Applied.FIRST:
            metrics.count(metrics.DELIVERIES, after)
        if log.is_enabled_for(INFO):
            log.info(
                "delivery_attempted",
                event_id=entry.id,
                job_id=entry.fields.get("job", ""),
                event_type=entry.fields["event"],
                applied=applied.name,
                **attempt("notify", entry, outcome=str(after), cause=cause),
            )
        return applied


def _host(webhook: str) -> str:
    """Give the host of a URL, or the name of an endpoint that no setting knows any more."""
    return urlsplit(webhook).netloc if "://" in webhook else webhook


def _raw_pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in _raw_pairs(flat).items()}
