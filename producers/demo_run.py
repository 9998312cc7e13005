"""The demo without its terminal: enqueue the examples, wait for all there is to come, look at both sides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from producers.demo_jobs import demo_jobs
from producers.demo_result import BATCH_EVENTS, OwnBooks, ProviderLedger, SinkSummary
from shared.errors import ConfigurationError, StorageError
from shared.jobs.lifecycle import JobState
from shared.redis.client import make_client
from shared.redis.keys import Keys
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from producers.client import Darkroom
    from producers.demo_jobs import DemoJob
    from producers.receipt import BatchReceipt, ItemReceipt
    from producers.stack import Stack
    from shared.jobs.job import Artifact, Job
    from shared.settings import Settings

BATCH: Final = "demo"
WITHIN_S: Final = 180.0  # for the jobs; a few seconds are usual
SETTLE_WITHIN_S: Final = 20.0  # for the last webhooks and the provider's last generation
STUCK_S: Final = 5.0  # only unknown jobs are left for this long
EVERY_S: Final = 0.2


@dataclass(slots=True)
class DemoRun:
    """The examples on a running stack."""

    stack: Stack
    darkroom: Darkroom
    http: httpx.Client
    examples: list[DemoJob] = field(default_factory=demo_jobs)
    enqueued: list[tuple[DemoJob, str]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def enqueue(self) -> BatchReceipt:
        """Enqueue all as one batch, with what each shows as its metadata."""
        hook = f"{self.stack.urls['sink']}/ok"
        items = ((example.request, {"metadata": {"shows": example.shows}}) for example in self.examples)
        receipt = self.darkroom.enqueue_many(items, batch=BATCH, webhook=hook)
        for example, item in zip(self.examples, receipt.items, strict=True):
            if item.job_id is None:
                self.rejected.append(_why(example, item))
            else:
                self.enqueued.append((example, item.job_id))
        return receipt

    def jobs(self) -> list[Job]:
        """Read the jobs as they are now."""
        found = self.darkroom.get_many([job_id for _, job_id in self.enqueued])
        return [job for job in found if job is not None]

    def wait(self, show: Callable[[Sequence[Job]], object]) -> list[Job]:
        """Wait until all jobs have ended (or cannot), all events have come and the provider is done."""
        until, stuck_since = time.monotonic() + WITHIN_S, None
        while True:
            show(jobs := self.jobs())
            left = [job for job in jobs if not job.ended]
            stuck = all(job.state is JobState.UNKNOWN for job in left)
            stuck_since = (stuck_since or time.monotonic()) if left and stuck else None
            now = time.monotonic()
            if not left or now > until or (stuck_since and now - stuck_since > STUCK_S):
                break
            self._pause()
        self._settle(len(jobs) + BATCH_EVENTS)
        return self.jobs()

    def _settle(self, events: int) -> None:
        until = time.monotonic() + SETTLE_WITHIN_S
        while self.sink().verified < events or self.provider().in_flight:
            if time.monotonic() > until:
                return  # what is missing is found missing by the comparison
            self._pause()

    def _pause(self) -> None:
        self.stack.check()
        time.sleep(EVERY_S)

    # --- both sides ---

    def provider(self) -> ProviderLedger:
        """Ask the sandbox what it did and charged."""
        ledger = self._get(f"{self.stack.urls['provider']}/ledger")
        return ProviderLedger(
            accepted=ledger["submits_accepted"],
            charged_images=ledger["charged_images"],
            charged_micros=ledger["charged_micros"],
            in_flight=ledger["in_flight"],
            twice=tuple(group["marker"] for group in ledger["groups"] if group["accepted"] > 1),
        )

    def sink(self) -> SinkSummary:
        """Ask the sink what it received; it verifies with the standardwebhooks library."""
        summary = self._get(f"{self.stack.urls['sink']}/summary")
        return SinkSummary(summary["verified_unique_ids"], summary["bad_signature"], summary["by_type"])

    def books(self) -> OwnBooks:
        """Read the sums of our ledger."""
        with make_client(self.stack.settings.redis) as client:
            found: Any = client.hgetall(Keys.of(self.stack.settings.redis.namespace).balances)
        sums = {name.decode().partition("|")[2].partition(":")[0]: 0 for name in found}
        for name, micros in found.items():
            sums[name.decode().partition("|")[2].partition(":")[0]] += int(micros)
        return OwnBooks(spent_micros=sums.get("spent", 0), held_micros=sums.get("held", 0))

    def _get(self, url: str) -> Any:
        try:
            return self.http.get(url).raise_for_status().json()
        except httpx.HTTPError as error:
            self.stack.check()
            raise ConfigurationError(f"the sandbox does not answer ({type(error).__name__}).") from None


def count_verified(settings: Settings, jobs: Sequence[Job]) -> int:
    """Read every object back; count those with the size and sha256 of their record."""
    return asyncio.run(_count_verified(settings, [artifact for job in jobs for artifact in job.artifacts]))


async def _count_verified(settings: Settings, artifacts: Sequence[Artifact]) -> int:
    store = open_store(settings.storage)

    async def verified(artifact: Artifact) -> bool:
        if artifact.object_key is None:
            return False
        try:
            size_bytes = await store.head(artifact.object_key)
            return (
                size_bytes == artifact.size_bytes
                and await store.sha256_of(artifact.object_key) == artifact.sha256
            )
        except StorageError:
            return False

    return sum([await verified(artifact) for artifact in artifacts])


def _why(example: DemoJob, item: ItemReceipt) -> str:
    return f"{example.shows}: " + "; ".join(issue.message for issue in item.issues)
