"""What the demo found, from both sides, and whether it adds up. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.jobs.lifecycle import JobState
from shared.money.price import format_money

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from producers.demo_jobs import DemoJob
    from shared.jobs.job import Job

BATCH_EVENTS: Final = 1
_REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class ProviderLedger:
    """What the sandbox says it accepted and charged. `twice` are markers of prompts that it accepted again."""

    accepted: int
    charged_images: int
    charged_micros: int
    in_flight: int
    twice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SinkSummary:
    """What the consumer of webhooks received: events with a good signature (each counted once), and bad ones."""

    verified: int
    bad_signature: int
    by_type: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OwnBooks:
    """The running sums of our ledger, in micros."""

    spent_micros: int
    held_micros: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All of it. `rejected` says why an example was not even enqueued."""

    jobs: tuple[tuple[DemoJob, Job], ...]
    rejected: tuple[str, ...]
    artifacts_verified: int
    books: OwnBooks
    provider: ProviderLedger
    sink: SinkSummary
    wall_s: float
    contact_sheet: Path

    def count(self, state: JobState) -> int:
        return sum(job.state is state for _, job in self.jobs)

    @property
    def images(self) -> int:
        return sum(len(job.artifacts) for _, job in self.jobs)

    @property
    def cost_micros(self) -> int:
        return sum(job.cost_micros for _, job in self.jobs)

    @property
    def accepted(self) -> int:
        """Jobs of which we know that the provider took them."""
        return sum(job.generation_id is not None for _, job in self.jobs)

    @property
    def currency(self) -> str:
        return next((job.currency for _, job in self.jobs if job.currency), "")

    def figures(self) -> dict[str, Any]:
        """Give what `darkroom demo --json` prints."""
        return {
            "jobs": len(self.jobs),
            "completed": self.count(JobState.COMPLETED),
            "failed": self.count(JobState.FAILED),
            "cancelled": self.count(JobState.CANCELLED),
            "unknown": self.count(JobState.UNKNOWN),
            "images": self.images,
            "artifacts_verified": self.artifacts_verified,
            "webhooks_verified": self.sink.verified,
            "provider_submits": self.provider.accepted,
            "provider_charged_images": self.provider.charged_images,
            "cost_micros": self.cost_micros,
            "provider_charged_micros": self.provider.charged_micros,
            "wall_s": round(self.wall_s, 2),
            "contact_sheet": str(self.contact_sheet),
        }


def differences(result: DemoResult) -> list[str]:
    """Give a sentence for each thing that does not add up."""
    return [
        *(f"An example was not enqueued: {reason}." for reason in result.rejected),
        *(line for shown, job in result.jobs if (line := _unexpected(shown, job))),
        *_images(result),
        *_money(result),
        *_submits(result),
        *_webhooks(result),
    ]


def _unexpected(shown: DemoJob, job: Job) -> str | None:
    wanted, got = _wanted(shown), _got(job)
    return None if wanted == got else f"{job.id} ({shown.shows}) should be {wanted}, and is {got}."


def _wanted(shown: DemoJob) -> str:
    if shown.refused:
        return f"{JobState.FAILED} ({_REFUSED})"
    partial = ", partial" if shown.partial else ""
    return f"{JobState.COMPLETED} with images: {shown.images}{partial}"


def _got(job: Job) -> str:
    if job.state is JobState.FAILED:
        reason = (job.error_code or "").partition(":")[0]
        return f"{JobState.FAILED} ({reason})"
    if job.state is JobState.COMPLETED:
        return f"{JobState.COMPLETED} with images: {len(job.artifacts)}" + ", partial" * job.partial
    return job.state


def _images(result: DemoResult) -> Iterator[str]:
    if result.artifacts_verified != result.images:
        yield (
            f"{result.images} images are recorded, but {result.artifacts_verified} could be read back with "
            "the checksum of their record."
        )
    if result.provider.charged_images != result.images:
        yield f"{result.images} images are recorded, but the provider charged {result.provider.charged_images}."


def _money(result: DemoResult) -> Iterator[str]:
    ours, currency = result.cost_micros, result.currency
    if result.books.spent_micros != ours:
        spent = format_money(result.books.spent_micros, currency)
        yield f"The jobs cost {format_money(ours, currency)}, but our ledger says {spent}."
    if result.books.held_micros:
        yield f"{format_money(result.books.held_micros, currency)} is still held, though no job is under way."
    if result.provider.charged_micros != ours:
        charged = format_money(result.provider.charged_micros, currency)
        yield f"The jobs cost {format_money(ours, currency)}, but the provider charged {charged}."


def _submits(result: DemoResult) -> Iterator[str]:
    if result.provider.accepted != result.accepted:
        yield f"{result.accepted} jobs were accepted, but the provider accepted {result.provider.accepted} submits."
    if result.provider.twice:
        yield f"The provider accepted these more than once: {', '.join(result.provider.twice)}."
    if result.provider.in_flight:
        yield f"The provider still works on {result.provider.in_flight} generations."


def _webhooks(result: DemoResult) -> Iterator[str]:
    expected = len(result.jobs) + BATCH_EVENTS
    if result.sink.verified != expected:
        yield f"{expected} webhooks should have arrived and been verified, but {result.sink.verified} were."
    if result.sink.bad_signature:
        yield f"Webhooks with a bad signature: {result.sink.bad_signature}."
    if not result.sink.by_type.get("batch.completed"):
        yield "The webhook batch.completed did not arrive."
