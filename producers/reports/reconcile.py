"""A provider's usage export against our books: what agrees, and what does not. Pure.

Rows are matched to jobs by generation id, which our books have for every submit whose answer was recorded. What is
left on the provider's side is compared with jobs whose submit has no recorded answer: by the prompt's hash, if the
export has prompts, else by time. A likely match is a suggestion, and nothing here acts on it.

1. `match` takes each row with the job that has its generation, or none.
2. `suspect` takes each job of ours that may have a generation we do not know of.
3. `expect` takes each job that was billed by our books in the period.
4. `report` draws the conclusions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from producers.reports.likeness import Likely, likely

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from producers.reports.likeness import Suspect
    from producers.reports.usage import UsageRow


class Table(StrEnum):
    """What a finding belongs to."""

    PAID_NOT_DELIVERED = "paid_not_delivered"
    DELIVERED_NOT_BILLED = "delivered_not_billed"
    DOUBLE_SUBMITS = "double_submits"
    UNKNOWNS = "unknowns"
    AMOUNTS_DIFFER = "amounts_differ"


@dataclass(frozen=True, slots=True)
class OurJob:
    """A job as our books have it. `delivered` images have a record; of them `missing` are not in the object store.

    `open`: under way, or its accounting is. `gone`: its record has expired; then only `cost_micros` may be known.
    """

    job_id: str
    state: str = ""
    why: str = ""
    currency: str = ""
    cost_micros: int | None = None
    delivered: int = 0
    missing: int = 0
    open: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree. Amounts in micros of `currency`; `line` of the export; `at_ms` by the provider."""

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, and how much agreed. `unjudged` rows: by reason, such as a record that has expired."""

    rows: int
    agree: int
    findings: tuple[Finding, ...]
    unjudged: Mapping[str, int] = field(default_factory=dict)

    def of(self, table: Table) -> list[Finding]:
        return [finding for finding in self.findings if finding.table is table]


RUNNING: Final = "still running at the provider"
OPEN: Final = "still under way here"
GONE: Final = "record expired"
OTHER_CURRENCY: Final = "amount in another currency"


class Reconciliation:
    """Takes both sides; `currency` is that of the export's amounts.

    Memory grows with the generations of the export and with what does not agree.
    """

    def __init__(self, currency: str) -> None:
        self._currency = currency
        self._lines: dict[str, int] = {}
        self._generations: dict[str, str] = {}  # of matched jobs: the first generation
        self._findings: list[Finding] = []
        self._strays: list[UsageRow] = []
        self._suspects: list[Suspect] = []
        self._unjudged: Counter[str] = Counter()
        self._agree = 0
        self._since_ms: int | None = None
        self._until_ms: int | None = None

    @property
    def period_ms(self) -> tuple[int | None, int | None]:
        """Give the instants of the first and last row."""
        return self._since_ms, self._until_ms

    def match(self, row: UsageRow, job: OurJob | None) -> None:
        """Take a row with the job that has its generation."""
        self._stretch(row)
        known = self._lines.setdefault(row.generation_id, row.line)
        if known != row.line:
            self._add(Table.AMOUNTS_DIFFER, row, job, f"billed on line {known} already")
        elif job is None:
            self._strays.append(row)
        else:
            self._compare(row, job)

    def _stretch(self, row: UsageRow) -> None:
        if row.at_ms is not None:
            self._since_ms = min(row.at_ms, row.at_ms if self._since_ms is None else self._since_ms)
            self._until_ms = max(row.at_ms, row.at_ms if self._until_ms is None else self._until_ms)

    def _compare(self, row: UsageRow, job: OurJob) -> None:
        first = self._generations.setdefault(job.job_id, row.generation_id)
        if first != row.generation_id:
            self._add(Table.DOUBLE_SUBMITS, row, job, f"its generation {first} is in the export too")
        elif row.running:
            self._unjudged[RUNNING] += 1
        elif job.open:
            self._unjudged[OPEN] += 1
        elif not self._judge(row, job):
            self._agree += 1

    def _judge(self, row: UsageRow, job: OurJob) -> bool:
        """Note what differs; False if nothing does."""
        before = len(self._findings)
        if job.gone:
            self._unjudged[GONE] += 1
        else:
            self._judge_images(row, job)
        self._judge_amount(row, job)
        return job.gone or len(self._findings) > before

    def _judge_images(self, row: UsageRow, job: OurJob) -> None:
        if row.billed and not job.delivered:
            why = f"the job is {job.state}" + (f" ({job.why})" if job.why else "")
            self._add(Table.PAID_NOT_DELIVERED, row, job, why)
        elif not row.billed and job.delivered:
            self._add(Table.DELIVERED_NOT_BILLED, row, job, "the export bills nothing for it")
        elif row.images is not None and row.images > job.delivered:
            self._add(
                Table.PAID_NOT_DELIVERED, row, job, f"{row.images} images billed, {job.delivered} delivered"
            )
        elif row.images is not None and row.billed and row.images < job.delivered:
            self._add(
                Table.DELIVERED_NOT_BILLED, row, job, f"{job.delivered} images delivered, {row.images} billed"
            )
        if row.billed and job.missing:
            self._add(
                Table.PAID_NOT_DELIVERED, row, job, f"{job.missing} of its objects are not in the store"
            )

    def _judge_amount(self, row: UsageRow, job: OurJob) -> None:
        if row.amount_micros is None or job.cost_micros is None:
            return
        if job.currency not in ("", self._currency):
            self._unjudged[OTHER_CURRENCY] += 1
        elif row.amount_micros != job.cost_micros:
            self._add(Table.AMOUNTS_DIFFER, row, job, "the provider's amount is not ours")

    def suspect(self, suspect: Suspect) -> None:
        """Take a job that may have a generation we do not know of."""
        self._suspects.append(suspect)

    def expect(self, job: OurJob, generation_id: str = "") -> None:
        """Take a job that our books billed in the period."""
        if job.job_id not in self._generations and generation_id not in self._lines:
            finding = Finding(
                Table.DELIVERED_NOT_BILLED,
                "the export does not have its generation",
                job.job_id,
                generation_id,
                currency=job.currency,
                ours_micros=job.cost_micros,
                ours_images=None if job.gone else job.delivered,
            )
            self._findings.append(finding)

    def _add(self, table: Table, row: UsageRow, job: OurJob | None, why: str) -> None:
        ours = job or OurJob("")
        self._findings.append(
            Finding(
                table, why, ours.job_id, row.generation_id, row.line, row.at_ms, ours.currency or self._currency,
                ours.cost_micros, row.amount_micros, ours.delivered if job and not job.gone else None, row.images,
            )
        )  # fmt: skip

    # --- conclusions ---

    def report(self, orphans: Mapping[str, str]) -> Verdict:
        """Draw the conclusions. `orphans`: generation ids that came too late for their job's record, with the job."""
        strays: list[UsageRow] = []
        known: list[UsageRow] = []
        for row in self._strays:
            (known if row.generation_id in orphans else strays).append(row)
        guesses, left = likely(self._suspects, strays, covered_until_ms=self._until_ms)
        findings = [
            *self._findings,
            *(self._orphan(row, orphans[row.generation_id]) for row in known),
            *(self._guess(guess) for guess in guesses if guess.row or guess.suspect.unknown),
            *self._unclaimed(left),
        ]
        order = {table: at for at, table in enumerate(Table)}
        findings.sort(key=lambda finding: (order[finding.table], finding.line or 0, finding.job_id))
        return Verdict(len(self._lines), self._agree, tuple(findings), dict(self._unjudged))

    def _orphan(self, row: UsageRow, job_id: str) -> Finding:
        return self._of_row(
            row, Table.DOUBLE_SUBMITS, "its answer came after the job was submitted again", job_id
        )

    def _guess(self, guess: Likely) -> Finding:
        suspect, row = guess.suspect, guess.row
        if not suspect.unknown:
            assert row is not None
            why = f"probably the first submit of a job that was submitted twice: {guess.why}"
            return self._of_row(row, Table.DOUBLE_SUBMITS, why, suspect.job_id)
        found = Finding(Table.UNKNOWNS, guess.why, suspect.job_id)
        if row is not None:
            found = self._of_row(row, Table.UNKNOWNS, guess.why, suspect.job_id)
        return replace(
            found, currency=suspect.currency, ours_micros=suspect.hold_micros, command=guess.command
        )

    def _unclaimed(self, left: list[UsageRow]) -> Iterator[Finding]:
        """Say of rows that fit nothing whether they cost: a free one is of no interest."""
        for row in left:
            if row.running:
                self._unjudged[RUNNING] += 1
            elif row.billed:
                yield self._of_row(row, Table.PAID_NOT_DELIVERED, "no job of ours has this generation", "")

    def _of_row(self, row: UsageRow, table: Table, why: str, job_id: str) -> Finding:
        return Finding(
            table, why, job_id, row.generation_id, row.line, row.at_ms, self._currency,
            theirs_micros=row.amount_micros, theirs_images=row.images,
        )  # fmt: skip
