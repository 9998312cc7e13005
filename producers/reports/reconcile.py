"""A provider's usage export against our books: what agrees, and what does not. Pure.

Rows are matched to jobs by generation id, which our books have for every submit whose answer was recorded. What is
left on the provider's side is compared with jobs whose submit has no recorded answer: see `likeness`. A likely match is
a suggestion, and nothing here acts on it.

1. `match` takes each row with the job that has its generation, or none.
2. `suspect` takes each job of ours that may have a generation we do not know of.
3. `expect` takes each job that our books billed in the period; of jobs whose record is gone they are all there is.
4. `report` draws the conclusions.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from producers.reports.findings import Finding, OurJob, Table, Verdict
from producers.reports.likeness import likely

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.reports.likeness import Likely, Suspect
    from producers.reports.usage import UsageRow

RUNNING: Final = "still running at the provider"
OPEN: Final = "still under way here"
FORGOTTEN: Final = "older than 29 days: whose generation it was is no longer known"
OTHER_CURRENCY: Final = "amount in another currency"
REPEATED: Final = "a further line of a generation, which costs nothing"
NO_LEDGER: Final = "its record has expired, and without times the ledger was not read"
NO_TIME: Final = "without a time, and no job has its generation any more"


class Reconciliation:
    """Takes both sides; `currency` is that of the export's amounts, `known_since_ms` how far generations are known.

    Memory grows with the ids of the export's generations, and with what does not agree.
    """

    def __init__(self, currency: str, known_since_ms: int = 0) -> None:
        self._currency, self._known_since_ms = currency, known_since_ms
        self._lines: dict[str, int] = {}  # of generations; less than 0 while its lines cost nothing
        self._generations: dict[str, str] = {}  # of matched jobs: the first generation that costs, or ""
        self._gone: dict[str, UsageRow] = {}  # matched by id, but the record has expired
        self._prompts: dict[str, str] = {}  # hash of a matched row's prompt: the job
        self._findings: list[Finding] = []
        self._strays: list[UsageRow] = []
        self._suspects: list[Suspect] = []
        self._unjudged: Counter[str] = Counter()
        self._rows = self._agree = 0
        self._since_ms: int | None = None
        self._until_ms: int | None = None

    @property
    def period_ms(self) -> tuple[int | None, int | None]:
        """Give the instants of the first and last row."""
        return self._since_ms, self._until_ms

    def match(self, row: UsageRow, job: OurJob | None) -> None:
        """Take a row with the job that has its generation."""
        self._rows += 1
        self._stretch(row)
        known = self._lines.get(row.generation_id)
        if known is None or (known < 0 and row.costs):
            self._lines[row.generation_id] = row.line if row.costs else -row.line
        elif not row.costs:
            self._unjudged[REPEATED] += 1
            return
        else:
            given_back = "" if row.billed else "; here, some of it is given back"
            self._add(
                Table.DOUBLE_SUBMITS,
                row,
                job,
                f"this generation is billed on line {known} already{given_back}",
            )
            return
        if job is None:
            self._stray(row)
        else:
            self._compare(row, job)

    def _stretch(self, row: UsageRow) -> None:
        if row.at_ms is not None:
            self._since_ms = row.at_ms if self._since_ms is None else min(row.at_ms, self._since_ms)
            self._until_ms = row.at_ms if self._until_ms is None else max(row.at_ms, self._until_ms)

    def _stray(self, row: UsageRow) -> None:
        if row.at_ms is not None and row.at_ms < self._known_since_ms:
            self._unjudged[FORGOTTEN] += 1
        else:
            self._strays.append(row)

    def _compare(self, row: UsageRow, job: OurJob) -> None:
        first = self._generations.get(job.job_id, "")
        self._generations[job.job_id] = first or (row.generation_id if row.costs else "")
        if row.generation_id != (job.generation_id or first or row.generation_id):
            self._compare_former(row, job, job.generation_id or first)
            return
        if row.prompt_sha256 is not None:
            self._prompts.setdefault(row.prompt_sha256, job.job_id)
        if row.running:
            self._unjudged[RUNNING] += 1
        elif job.open:
            self._unjudged[OPEN] += 1
        elif job.gone:
            self._agree += job.job_id in self._gone  # by a generation that cost nothing, before this one
            self._gone[job.job_id] = row
        else:
            self._judge(row, job)

    def _compare_former(self, row: UsageRow, job: OurJob, other: str) -> None:
        """Take a generation that is not the one the job is compared by: it was submitted twice."""
        if row.running:
            self._unjudged[RUNNING] += 1
        elif row.costs:
            self._add(Table.DOUBLE_SUBMITS, row, job, f"its job was submitted again, as {other}")
        else:  # the provider failed it, and the job was redriven
            self._agree += 1

    def _judge(self, row: UsageRow, job: OurJob) -> None:
        """Note what differs, or that nothing does."""
        before = len(self._findings)
        if job.delivered is not None:
            self._judge_images(row, job, job.delivered)
        self._judge_amount(row, job)
        self._agree += len(self._findings) == before

    def _judge_images(self, row: UsageRow, job: OurJob, delivered: int) -> None:
        images = row.images
        if row.billed and not delivered:
            self._add(Table.PAID_NOT_DELIVERED, row, job, _fate(job))
        elif not row.billed and delivered:
            self._add(Table.DELIVERED_NOT_BILLED, row, job, "the export bills nothing for it")
        elif images is not None and images > delivered:
            self._add(Table.PAID_NOT_DELIVERED, row, job, f"{images} images billed, {delivered} delivered")
        elif images is not None and row.billed and images < delivered:
            self._add(Table.DELIVERED_NOT_BILLED, row, job, f"{delivered} images delivered, {images} billed")
        if row.billed and job.missing:
            why = f"{job.missing} of its objects are not in the store"
            self._add(Table.PAID_NOT_DELIVERED, row, job, why)

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

    def is_gone(self, job_id: str) -> bool:
        """Say whether a row waits for what the books know of a job whose record has expired."""
        return job_id in self._gone

    def expect(self, job: OurJob, *, covered: bool, generation_id: str = "") -> None:
        """Take a job that our books billed. `covered`: its submit was in the period of the export."""
        if (row := self._gone.pop(job.job_id, None)) is not None:
            self._judge(row, job)
        elif covered and job.job_id not in self._generations and generation_id not in self._lines:
            self._findings.append(
                Finding(
                    Table.DELIVERED_NOT_BILLED, "the export does not have its generation", job.job_id, generation_id,
                    currency=job.currency, ours_micros=job.cost_micros, ours_images=job.delivered,
                )
            )  # fmt: skip

    # --- conclusions ---

    def report(self, orphans: Mapping[str, str], *, ledger_read: bool = True) -> Verdict:
        """Draw the conclusions. `orphans`: generation ids that came too late for their job's record, with the job.

        Without the ledger, nothing is known of jobs whose record is gone.
        """
        for job_id, row in self._gone.items():
            if ledger_read:
                self._judge(row, _unbilled(job_id, row, self._currency))
            else:
                self._unjudged[NO_LEDGER] += 1
        known = [row for row in self._strays if row.generation_id in orphans]
        strays = [row for row in self._strays if row.generation_id not in orphans]
        guesses, left = likely(self._suspects, strays, covered_until_ms=self._until_ms)
        for row in known:
            why = "its answer came after the job was submitted again"
            self._of_row(row, Table.DOUBLE_SUBMITS, why, orphans[row.generation_id])
        for guess in guesses:
            self._guess(guess)
        for row in left:
            self._unclaimed(row)
        order = {table: at for at, table in enumerate(Table)}
        findings = sorted(self._findings, key=lambda each: (order[each.table], each.line or 0, each.job_id))
        return Verdict(self._rows, self._agree, tuple(findings), dict(self._unjudged))

    def _guess(self, guess: Likely) -> None:
        suspect, row = guess.suspect, guess.row
        if suspect.unknown:
            self._findings.append(_unknown(guess, self._currency))
        elif row is not None:
            why = f"probably the first submit of a job that was submitted twice: {guess.why}"
            self._of_row(row, Table.DOUBLE_SUBMITS, why, suspect.job_id, guess.likelihood)

    def _unclaimed(self, row: UsageRow) -> None:
        """Say of a row that fits nothing whether it costs: a free one is of no interest."""
        twin = self._prompts.get(row.prompt_sha256 or "")
        if row.running:
            self._unjudged[RUNNING] += 1
        elif not row.billed:
            self._agree += 1
        elif twin is not None:
            why = f"no job of ours has this generation, and {twin} sent the same prompt"
            self._of_row(row, Table.DOUBLE_SUBMITS, why, twin, "medium")
        elif row.at_ms is None and self._known_since_ms:
            self._unjudged[NO_TIME] += 1
        else:
            self._of_row(row, Table.PAID_NOT_DELIVERED, "no job of ours has this generation", "")

    def _add(self, table: Table, row: UsageRow, job: OurJob | None, why: str) -> None:
        ours = job or OurJob("")
        self._findings.append(
            Finding(
                table, why, ours.job_id, row.generation_id, row.line, row.at_ms, ours.currency or self._currency,
                ours.cost_micros, row.amount_micros, ours.delivered, row.images,
            )
        )  # fmt: skip

    def _of_row(self, row: UsageRow, table: Table, why: str, job_id: str, likelihood: str = "") -> None:
        self._findings.append(
            Finding(
                table, why, job_id, row.generation_id, row.line, row.at_ms, self._currency,
                theirs_micros=row.amount_micros, theirs_images=row.images, likelihood=likelihood,
            )
        )  # fmt: skip


def _unbilled(job_id: str, row: UsageRow, currency: str) -> OurJob:
    """Give a job whose record is gone and that the ledger never billed; its images count where amounts do not tell."""
    why = "our ledger billed nothing for it; its record has expired"
    return OurJob(job_id, "", why, currency, 0, 0 if row.amount_micros is None else None, gone=True)


def _fate(job: OurJob) -> str:
    if job.gone:
        return job.why or "none of its objects is in the store; its record has expired"
    return f"the job is {job.state}" + (f" ({job.why})" if job.why else "")


def _unknown(guess: Likely, currency: str) -> Finding:
    suspect, row = guess.suspect, guess.row
    return Finding(
        Table.UNKNOWNS, guess.why, suspect.job_id, row.generation_id if row else "", row.line if row else None,
        row.at_ms if row else None, suspect.currency or currency, suspect.hold_micros,
        row.amount_micros if row else None, None, row.images if row else None, guess.command, guess.likelihood,
        guess.candidates,
    )  # fmt: skip
