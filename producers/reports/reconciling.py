"""Both sides of a reconciliation, read: the export as a stream, our records, ledger and object store. Changes nothing.

The export is read once. Per piece of it: whose generations they are, those jobs' records, and their objects in the
store. Then the jobs without a recorded answer, and the ledger of the same period.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from producers.reports.findings import DayTotal, OurJob
from producers.reports.journal import read_journal
from producers.reports.likeness import Suspect
from producers.reports.period import Period
from producers.reports.reconcile import Reconciliation
from producers.reports.usage import BrokenRow, prompt_hash
from shared.errors import ConfigurationError
from shared.jobs.store import JobStore
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from producers.reports.findings import Verdict
    from producers.reports.journal import Books
    from producers.reports.usage import UsageRow
    from shared.jobs.job import Job
    from shared.money.entry import Entry
    from shared.settings import AccountSettings
    from shared.storage import ObjectStore

    T = TypeVar("T")

PIECE: Final = 500
LOOKS: Final = 32  # at the object store, at once
NOT_LOOKED: Final = "objects were not looked for: what was delivered is what the records say"
_DAY_MS: Final = 86_400_000
KNOWN_MS: Final = 29 * _DAY_MS  # generation ids are kept 30 days
SLACK_MS: Final = 60_000  # between our clock and the provider's
SETTLED_WITHIN_MS: Final = 15 * 60_000  # of the submit, but for the slowest
_BILLING: Final = frozenset({"settle", "charge"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was asked: amounts' currency, only one account's jobs, whether to look at the object store."""

    currency: str
    account: str | None = None
    objects: bool = True

    def covers(self, lane: str | None) -> bool:
        """Say whether a lane is of the account."""
        return self.account is None or (lane or "").partition("/")[0] == self.account


@dataclass(slots=True)
class _Billed:
    """What the ledger billed for a job, when it began to."""

    tenant: str
    at_ms: int
    micros: int = 0


class _Ledger:
    """Takes entries: bills by job, jobs whose unknown submit was sent again, and sums to `until_ms` by day and model."""

    def __init__(self, asked: Asked, until_ms: int) -> None:
        self._asked, self._until_ms = asked, until_ms
        self.billed: dict[str, _Billed] = {}
        self.doubts: dict[str, int] = {}
        self.totals: dict[tuple[str, str], tuple[int, int]] = {}

    def clear(self) -> None:
        for each in (self.billed, self.doubts, self.totals):
            each.clear()

    def add(self, entry: Entry) -> None:
        if entry.currency != self._asked.currency or not self._asked.covers(entry.lane):
            return
        if entry.kind == "doubt":
            self.doubts[entry.job] = entry.at_ms
        elif entry.kind in _BILLING:
            self._bill(entry)

    def _bill(self, entry: Entry) -> None:
        first = entry.job not in self.billed
        self.billed.setdefault(entry.job, _Billed(entry.tenant, entry.at_ms)).micros += entry.micros
        if entry.at_ms <= self._until_ms:
            where = (entry.day.isoformat(), entry.model or "-")
            jobs, micros = self.totals.get(where, (0, 0))
            self.totals[where] = (jobs + first, micros + entry.micros)


def currency_of(accounts: Mapping[str, AccountSettings], account: str | None) -> str:
    """Give the currency of an account, or of all. Raises ConfigurationError."""
    if account is not None and account not in accounts:
        raise ConfigurationError(f"there is no account {account!r}; there are {', '.join(sorted(accounts))}.")
    found = {each.currency for name, each in accounts.items() if account in (None, name)}
    if len(found) != 1:
        raise ConfigurationError("the accounts have several currencies. Give --account or --currency.")
    return found.pop()


async def reconcile(books: Books, rows: Iterable[UsageRow | BrokenRow], asked: Asked) -> Verdict:
    """Read both sides and draw the conclusions. Raises StateUnavailable, StorageError, and what reading rows raises."""
    return await _Reader(books, asked).run(rows)


class _Reader:
    def __init__(self, books: Books, asked: Asked) -> None:
        self._books, self._asked = books, asked
        self._now_ms = books.now_ms()
        self._both = Reconciliation(asked.currency, self._now_ms - KNOWN_MS)
        self._jobs = JobStore(books.client, books.keys, books.settings.limits)
        self._store = self._open_store()
        self._totals: defaultdict[tuple[str, str], DayTotal] = defaultdict(lambda: DayTotal("", ""))
        self._broken: list[tuple[int, str]] = []

    def _open_store(self) -> ObjectStore | None:
        storage = self._books.settings.storage
        return open_store(storage) if self._asked.objects and storage.enabled else None

    async def run(self, rows: Iterable[UsageRow | BrokenRow]) -> Verdict:
        for piece in _pieces(self._whole(rows)):
            await self._match(piece)
        self._suspect_unknowns()
        notes = await self._read_ledger()
        verdict = self._both.report(self._orphans(), ledger_read=None not in self._both.period_ms)
        totals = (
            replace(total, day=day, model=model) for (day, model), total in sorted(self._totals.items())
        )
        return replace(verdict, broken=tuple(self._broken), totals=tuple(totals), notes=notes)

    def _whole(self, rows: Iterable[UsageRow | BrokenRow]) -> Iterator[UsageRow]:
        for row in rows:
            if not isinstance(row, BrokenRow):
                yield row
            else:
                self._broken.append((row.line, row.why))

    # --- rows of the export, and whose they are ---

    async def _match(self, piece: Sequence[UsageRow]) -> None:
        pipe = self._books.client.pipeline(transaction=False)
        for row in piece:
            pipe.get(self._books.keys.generation(row.generation_id))
        owners = [found.decode() if found else None for found in pipe.execute()]
        known = sorted({owner for owner in owners if owner is not None})
        records = dict(zip(known, self._jobs.read(known), strict=True))
        missing = await self._missing([job for job in records.values() if job is not None])
        for row, owner in zip(piece, owners, strict=True):
            record = records[owner] if owner is not None else None
            job = None if owner is None else _our(owner, record, missing.get(owner, 0))
            self._both.match(row, job)
            self._count_theirs(row, record.model if record else row.model)

    def _count_theirs(self, row: UsageRow, model: str) -> None:
        if row.running or not row.billed:
            return
        where = (_day(row.at_ms), row.model or model or "-")
        before = self._totals[where]
        self._totals[where] = replace(
            before,
            theirs_generations=before.theirs_generations + 1,
            theirs_images=before.theirs_images + (row.images or 0),
            theirs_micros=before.theirs_micros + (row.amount_micros or 0),
        )

    async def _missing(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Count objects that records name and the store does not have."""
        store = self._store
        if store is None:
            return {}

        async def count(job: Job) -> int:
            keys = [each.object_key for each in job.artifacts if each.object_key is not None]
            return sum([await store.head(key) is None for key in keys])

        return dict(zip((job.id for job in jobs), await _some_at_once(map(count, jobs)), strict=True))

    # --- submits without an answer ---

    def _suspect_unknowns(self) -> None:
        members: Any = self._books.client.zrange(self._books.keys.index("unknown"), 0, -1)
        for piece in _pieces(member.decode() for member in members):
            for job in self._jobs.read(piece):
                if job is not None and self._asked.covers(job.lane):
                    self._both.suspect(self._suspect(job, job.intent_at, None, unknown=True))

    def _suspect(self, job: Job, sent_ms: int | None, until_ms: int | None, *, unknown: bool) -> Suspect:
        """Make one of a job whose POST was sent at an instant, and had no answer."""
        since = sent_ms if sent_ms is not None else job.created_at
        timeout_ms = round(self._books.settings.worker.submit_timeout_s * 1000)
        prompt = job.request.get("prompt")
        return Suspect(
            job.id,
            since - SLACK_MS,
            (until_ms if until_ms is not None else since + timeout_ms) + SLACK_MS,
            job.n,
            model=job.model,
            size=str(job.request.get("size") or "").lower().replace("*", "x"),
            prompt_sha256=prompt_hash(prompt) if isinstance(prompt, str) and prompt else None,
            unknown=unknown,
            currency=job.currency,
            hold_micros=job.hold_micros if unknown else 0,
        )

    def _orphans(self) -> dict[str, str]:
        found: Any = self._books.client.hgetall(self._books.keys.orphans)
        return {name.decode(): value.decode().partition("|")[0] for name, value in found.items()}

    # --- the ledger ---

    async def _read_ledger(self) -> tuple[str, ...]:
        since_ms, until_ms = self._both.period_ms
        if since_ms is None or until_ms is None:
            return ("the export has no times: which of our jobs it should have is not known",)
        ledger = _Ledger(self._asked, until_ms + SETTLED_WITHIN_MS)

        def start() -> Any:
            ledger.clear()
            return ledger.add

        # What was submitted at the end of the period is settled after it, up to a day later.
        journal = await read_journal(self._books, Period(since_ms, until_ms + 2 * _DAY_MS), start)
        for piece in _pieces(ledger.billed):
            await self._expect(piece, ledger.billed, since_ms, until_ms)
        self._suspect_doubts(ledger.doubts)
        self._add_totals(ledger.totals)
        return (*journal.notes, *((NOT_LOOKED,) if self._store is None else ()))

    async def _expect(
        self, piece: Sequence[str], billed: dict[str, _Billed], since_ms: int, until_ms: int
    ) -> None:
        records = dict(zip(piece, self._jobs.read(piece), strict=True))
        gone = [job_id for job_id in piece if records[job_id] is None]
        stored = await self._stored(gone, billed)
        for job_id, record in records.items():
            bill = billed[job_id]
            sent_ms = record.submitted_at or record.intent_at if record else None
            at_ms = sent_ms if sent_ms is not None else bill.at_ms
            margin_ms = 0 if sent_ms is not None else SETTLED_WITHIN_MS
            covered = max(since_ms + margin_ms, self._now_ms - KNOWN_MS) <= at_ms <= until_ms
            job = OurJob(job_id, "", "", self._asked.currency, bill.micros, stored.get(job_id), gone=True)
            if record is not None:
                job = replace(_our(job_id, record, 0), cost_micros=bill.micros)
            self._both.expect(
                job, covered=covered, generation_id=record.generation_id or "" if record else ""
            )

    def _add_totals(self, ours: Mapping[tuple[str, str], tuple[int, int]]) -> None:
        for where, (jobs, micros) in ours.items():
            self._totals[where] = replace(self._totals[where], ours_jobs=jobs, ours_micros=micros)

    async def _stored(self, job_ids: Sequence[str], billed: dict[str, _Billed]) -> dict[str, int]:
        """Count the objects of jobs whose record is gone, where a row of the export asks for them."""
        store, wanted = self._store, [each for each in job_ids if self._both.is_gone(each)]
        if store is None:
            return {}

        async def count(job_id: str) -> int:
            return len([key async for key in store.list_keys(f"{billed[job_id].tenant}/{job_id}")])

        return dict(zip(wanted, await _some_at_once(map(count, wanted)), strict=True))

    def _suspect_doubts(self, doubts: dict[str, int]) -> None:
        for piece in _pieces(doubts):
            for job in self._jobs.read(piece):
                if job is not None:
                    self._both.suspect(self._suspect(job, None, doubts[job.id], unknown=False))


def _our(job_id: str, job: Job | None, missing: int) -> OurJob:
    if job is None:
        return OurJob(job_id, gone=True)
    return OurJob(
        job_id, job.state, job.error_code or "", job.currency, job.cost_micros, len(job.artifacts), missing,
        open=not job.ended or job.accounting_open, generation_id=job.generation_id or "",
    )  # fmt: skip


def _day(at_ms: int | None) -> str:
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def _pieces(items: Iterable[T]) -> Iterator[list[T]]:
    waiting = iter(items)
    while piece := list(islice(waiting, PIECE)):
        yield piece


async def _some_at_once(looks: Iterable[Awaitable[int]]) -> list[int]:
    turns = asyncio.Semaphore(LOOKS)

    async def one(look: Awaitable[int]) -> int:
        async with turns:
            return await look

    return await asyncio.gather(*map(one, looks))
