"""Deliveries that ended without an acknowledgement: found, shown and made pending again.

They are found by the jobs or the batch whose events they are, or else by a walk over all deliveries. An endpoint is
known by its host or its name in the settings; its URL may hold the consumer's own token and is never shown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from producers.freezes import check_why
from producers.selection import Walk, connected, scan_ids, server_now_ms
from producers.webhooks import batch_event_ids, job_event_ids
from shared.errors import InvalidRequest, Issue
from shared.jobs.lifecycle import DELIVERY_REDRIVES, DeliveryState
from shared.jobs.transition import LEASE_FIELDS
from shared.redis.client import translated
from shared.redis.keys import Keys
from shared.redis.scripts import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from redis import Redis

    from producers.selection import Progress, Selection
    from shared.settings import Settings

DEAD: Final = tuple(sorted(before for before, _ in DELIVERY_REDRIVES))
_FIELDS: Final = (
    "event", "state", "tenant", "job", "batch", "attempts", "last_status", "created_at", "ended_at",
)  # fmt: skip
_OUTCOMES: Final = {1: "redriven", 0: "changed", -1: "missing", 2: "gone"}


@dataclass(frozen=True, slots=True)
class DeadDelivery:
    """One delivery that ended without a 2xx. Instants are unix ms; `endpoint` is a host, "" if nobody knows it any more.

    `last_status` is the endpoint's last answer as a number or a word, or why the delivery ended.
    """

    event_id: str
    event: str
    state: str
    tenant: str
    job: str | None
    batch: str | None
    endpoint: str
    webhook: str = field(repr=False)
    attempts: int
    last_status: str
    created_at: int
    ended_at: int | None


class DeliveryWalk:
    """One walk over the dead deliveries of a selection. Its ages are those of the events, or of the deliveries' ends."""

    def __init__(
        self,
        client: Redis,
        settings: Settings,
        selection: Selection,
        endpoint: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._client, self._settings, self._selection = client, settings, selection
        self._endpoint, self._progress = endpoint, progress
        self._keys = Keys.of(settings.redis.namespace)
        self.missing: list[str] = []

    def chunks(self) -> Iterator[list[DeadDelivery]]:
        """Give them a chunk at a time. Raises BatchNotFound, StateUnavailable."""
        now_ms, given = server_now_ms(self._client, self._settings), set[str]()
        for ids in self._ids():
            fresh = [each for each in self._read(ids, now_ms) if each.event_id not in given]
            given.update(each.event_id for each in fresh)
            if fresh:
                yield fresh

    def _ids(self) -> Iterator[list[str]]:
        chosen = self._selection
        by_job = (chosen.ids, chosen.lane, chosen.model, chosen.states, chosen.codes)
        if not any(by_job) and chosen.batch is None:
            stem = self._keys.delivery("")
            yield from scan_ids(self._client, self._settings, stem, self._progress)
            return
        if chosen.batch is not None and not any(by_job):
            tenant = chosen.tenant or self._settings.tenant
            yield batch_event_ids(self._client, self._settings, tenant, chosen.batch)
        jobs = replace(chosen, older_ms=None, newer_ms=None)
        walk = Walk(self._client, self._settings, jobs, ("events",), self._progress)
        for chunk in walk.chunks():
            yield [event for job in chunk for event in job_event_ids(job.id, job.number("events"))]
        self.missing = walk.missing

    def _read(self, event_ids: Sequence[str], now_ms: int) -> list[DeadDelivery]:
        pipe = self._client.pipeline(transaction=False)
        for event_id in event_ids:
            pipe.hmget(self._keys.delivery(event_id), _FIELDS)
        with translated(self._settings.redis.url):
            rows = pipe.execute()
        found = {
            event_id: {name: value.decode() for name, value in zip(_FIELDS, row, strict=True) if value is not None}
            for event_id, row in zip(event_ids, rows, strict=True)
        }  # fmt: skip
        dead = {event_id: each for event_id, each in found.items() if self._is_meant(each, now_ms)}
        webhooks = self._webhooks(list(dead.values()))
        deliveries = [
            self._delivery(event_id, each, webhook)
            for (event_id, each), webhook in zip(dead.items(), webhooks, strict=True)
        ]
        return [each for each in deliveries if self._endpoint in (None, each.endpoint, each.webhook)]

    def _is_meant(self, record: dict[str, str], now_ms: int) -> bool:
        chosen = self._selection
        if record.get("state") not in DEAD or chosen.tenant not in (None, record.get("tenant")):
            return False
        age_ms = now_ms - int(record.get("created_at" if chosen.age_of == "created" else "ended_at", now_ms))
        return (chosen.older_ms is None or age_ms >= chosen.older_ms) and (
            chosen.newer_ms is None or age_ms < chosen.newer_ms
        )

    def _webhooks(self, records: Sequence[dict[str, str]]) -> list[str]:
        """Read where each goes: the webhook of its batch, or of its job's spec; "" if that is gone."""
        pipe = self._client.pipeline(transaction=False)
        for record in records:
            if "batch" in record:
                pipe.hget(self._keys.batch(record["tenant"], record["batch"]), "webhook")
            else:
                pipe.get(self._keys.spec(record.get("job", "")))
        with translated(self._settings.redis.url):
            replies = pipe.execute()
        return [
            (reply or b"").decode() if "batch" in record else _webhook_of(reply)
            for record, reply in zip(records, replies, strict=True)
        ]

    def _delivery(self, event_id: str, record: dict[str, str], webhook: str) -> DeadDelivery:
        named = self._settings.webhooks.endpoints.get(webhook)
        ended_at = record.get("ended_at")
        return DeadDelivery(
            event_id=event_id,
            event=record["event"],
            state=record["state"],
            tenant=record["tenant"],
            job=record.get("job"),
            batch=record.get("batch"),
            endpoint=urlsplit(webhook if named is None else str(named.url)).hostname or "",
            webhook=webhook,
            attempts=int(record.get("attempts", "0")),
            last_status=record.get("last_status", ""),
            created_at=int(record["created_at"]),
            ended_at=None if ended_at is None else int(ended_at),
        )


def _webhook_of(spec: bytes | None) -> str:
    return str(from_json(spec).get("webhook") or "") if spec else ""


@dataclass(slots=True)
class DeliveriesReport:
    """What became of them: counts by (state and last status, outcome). Outcomes: redriven, changed, missing, gone."""

    dry_run: bool
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: int = 0
    refused: int = 0

    def add(self, reason: str, outcome: str) -> None:
        self.outcomes[reason, outcome] += 1
        if outcome == "redriven":
            self.done += 1
        else:
            self.refused += 1


def redrive_deliveries(
    settings: Settings,
    selection: Selection,
    *,
    by: str,
    endpoint: str | None = None,
    why: str = "",
    dry_run: bool = False,
    progress: Progress | None = None,
    on_item: Callable[[DeadDelivery, str], object] = lambda _each, _outcome: None,
) -> DeliveriesReport:
    """Have dead deliveries sent again, at once and then on the schedule, under the ids that consumers know.

    Raises InvalidRequest if neither the selection nor `endpoint` narrows anything, BatchNotFound, StateUnavailable.
    """
    if selection.is_empty and endpoint is None:
        what = "no delivery is selected. Give job ids, --batch, --tenant, --endpoint, an age or another criterion"
        raise InvalidRequest((Issue("selection", "empty", what),))
    check_why(why)
    report = DeliveriesReport(dry_run)
    parts = ["" if selection.is_empty else selection.words(), f"endpoint {endpoint}" if endpoint else ""]
    words, audited = "; ".join(filter(None, parts)), ""
    with connected(settings) as client:
        walk = DeliveryWalk(client, settings, selection, endpoint, progress)
        for chunk in walk.chunks():
            question = {"who": by, "why": why, "words": words, "dry": dry_run}
            question |= {"earlier": audited, "done": report.done}
            audited, results = _apply(client, settings, chunk, question)
            for each, outcome in zip(chunk, (_OUTCOMES[result] for result in results), strict=True):
                report.add(f"{each.state}: {each.last_status}", outcome)
                on_item(each, outcome)
        for _ in walk.missing:
            report.add("", "missing")
    return report


def _apply(
    client: Redis, settings: Settings, chunk: Sequence[DeadDelivery], question: Mapping[str, Any]
) -> tuple[str, list[int]]:
    """Redrive a chunk; give the command's audit entry and each one's result."""
    states = {"before": DEAD, "after": DeliveryState.PENDING, "clear": ("ended_at", *LEASE_FIELDS)}
    asked = to_json({**question, **states})
    prefix = Keys.of(settings.redis.namespace).prefix
    with translated(settings.redis.url):
        audited, *results = run(
            client, "redrive_deliveries", prefix, asked, *(each.event_id for each in chunk)
        )
    return audited.decode(), results
