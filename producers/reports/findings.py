"""What a reconciliation finds, and what it is told of our jobs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Table(StrEnum):
    """What a finding belongs to."""

    PAID_NOT_DELIVERED = "paid_not_delivered"
    DELIVERED_NOT_BILLED = "delivered_not_billed"
    DOUBLE_SUBMITS = "double_submits"
    UNKNOWNS = "unknowns"
    AMOUNTS_DIFFER = "amounts_differ"


@dataclass(frozen=True, slots=True)
class OurJob:
    """A job as our books have it. `delivered` images have a record, or are in the store; None is not known.

    `missing`: delivered by the record, and not in the object store. `open`: under way, or its accounting is.
    `generation_id` is its last, "" if there is none or it is not known. `gone`:
    its record has expired; then the ledger has its cost, and the object store its images.
    """

    job_id: str
    state: str = ""
    why: str = ""
    currency: str = ""
    cost_micros: int | None = None
    delivered: int | None = None
    missing: int = 0
    open: bool = False
    gone: bool = False
    generation_id: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree. Amounts in micros of `currency`; `line` of the export; `at_ms` by the provider.

    `likelihood` and `candidates` (generation ids): see `likeness`. `command` is for a person who has looked.
    """

    table: Table
    why: str
    job_id: str = ""
    generation_id: str = ""
    line: int | None = None
    at_ms: int | None = None
    currency: str = ""
    ours_micros: int | None = None
    theirs_micros: int | None = None
    ours_images: int | None = None
    theirs_images: int | None = None
    command: str = ""
    likelihood: str = ""
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DayTotal:
    """One day (UTC) and model: the export's generations and amount, and what our ledger billed on it; micros.

    The days of the two may differ by what ran over midnight: they count when the provider says, and when we settled.
    """

    day: str
    model: str
    theirs_generations: int = 0
    theirs_images: int = 0
    theirs_micros: int = 0
    ours_jobs: int = 0
    ours_micros: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, and how much agreed. `unjudged` rows: by reason, such as one that is still running."""

    rows: int
    agree: int
    findings: tuple[Finding, ...]
    unjudged: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[tuple[int, str], ...] = ()
    totals: tuple[DayTotal, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, table: Table) -> list[Finding]:
        return [finding for finding in self.findings if finding.table is table]

    @property
    def agrees(self) -> bool:
        return not (self.findings or self.broken)
