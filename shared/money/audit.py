"""Whether the ledger adds up: pure, one entry at a time, in their order.

What must hold: opening balances and entries make the running balances; the accounts of a currency sum to 0; a job's
hold is resolved (settled, released or put in doubt) once at most, and no second one is taken before. A job's record
may be gone: the ledger needs none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shared.money.entry import Entry

KINDS: Final = ("budget", "held", "spent", "doubt")
SHOWN_JOBS: Final = 1000  # a broken ledger must not fill the memory of who looks at it
_RESOLVING: Final = frozenset({"settle", "release", "doubt"})
_ACCOUNTS: Final = {
    "hold": ("budget", "held"),
    "settle": ("held", "spent"),
    "release": ("held", "budget"),
    "doubt": ("held", "doubt"),
    "charge": ("budget", "spent"),
}

Rule = Literal["balance", "sum", "held_twice", "resolved_twice", "posting"]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """All accounts of one kind in one currency; micros. `running` should be opening + entries."""

    currency: str
    kind: str
    opening: int
    entries: int
    running: int

    @property
    def difference(self) -> int:
        return self.running - self.opening - self.entries


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not add up.

    rule      `about`                  expected, found (micros)
    balance   currency|account         opening + entries, the running balance
    sum       currency                 0, the sum of its running balances
    held_twice, resolved_twice         what the job still held, what the entry moved; `about` is the job
    posting   the entry's id           0, its micros: unknown kind, wrong accounts or an amount that is not positive
    """

    rule: Rule
    about: str
    currency: str
    expected: int
    found: int
    entry_id: str = ""


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a verification found. `entries` were read up to `through_id` ("": none), at `at_ms` (unix ms).

    `open_holds` counts jobs whose hold is in the entries and not resolved; `unlisted` differences of single jobs are
    counted and not kept.
    """

    entries: int
    through_id: str
    at_ms: int
    open_holds: int
    lines: tuple[LedgerLine, ...]
    differences: tuple[Difference, ...]
    unlisted: int = 0

    @property
    def adds_up(self) -> bool:
        return not self.differences


class Audit:
    """Takes entries one by one; `report` compares with the running balances."""

    def __init__(self, opening: Mapping[str, int]) -> None:
        self._opening = opening
        self._moved: Counter[str] = Counter()
        self._held: dict[str, int] = {}
        self._older = any("|held:" in name and micros for name, micros in opening.items())
        self._resolved: set[str] = set()  # jobs; kept only while a closed day may hold the hold
        self._settled_last = ""  # the job of the entry before, if that was a settlement
        self._found: list[Difference] = []
        self._count = self._unlisted = 0

    def add(self, entry: Entry) -> None:
        self._count += 1
        self._moved[f"{entry.currency}|{entry.debit}"] -= entry.micros
        self._moved[f"{entry.currency}|{entry.credit}"] += entry.micros
        if not _is_posting(entry):
            self._note("posting", entry, entry.id, 0)
        elif entry.kind == "hold":
            self._hold(entry)
        elif entry.kind in _RESOLVING:
            self._resolve(entry)
        self._settled_last = entry.job if entry.kind == "settle" else ""

    def _hold(self, entry: Entry) -> None:
        still = self._held.get(entry.job, 0)
        if still:
            self._note("held_twice", entry, entry.job, still)
        self._resolved.discard(entry.job)
        self._held[entry.job] = still + entry.micros

    def _resolve(self, entry: Entry) -> None:
        still = self._held.get(entry.job)
        if still is None:
            self._resolve_older(entry)
        elif entry.micros > still:
            self._note("resolved_twice", entry, entry.job, still)
            self._end(entry)
        elif entry.micros == still:
            self._end(entry)
        else:  # settled in part: the release of the rest is next
            self._held[entry.job] = still - entry.micros

    def _end(self, entry: Entry) -> None:
        del self._held[entry.job]
        if self._older:
            self._resolved.add(entry.job)

    def _resolve_older(self, entry: Entry) -> None:
        """Judge a resolution without a hold in the entries: it must be of a closed day, and the only one.

        What settles a part and releases the rest is two entries of one script: nothing stands between them.
        """
        rest = entry.kind == "release" and entry.job == self._settled_last
        again = entry.job in self._resolved and not rest
        self._resolved.add(entry.job)
        if not self._older or again:
            self._note("resolved_twice", entry, entry.job, 0)

    def _note(self, rule: Rule, entry: Entry, about: str, expected: int) -> None:
        if len(self._found) < SHOWN_JOBS:
            self._found.append(Difference(rule, about, entry.currency, expected, entry.micros, entry.id))
        else:
            self._unlisted += 1

    def report(self, balances: Mapping[str, int], *, through_id: str, at_ms: int) -> LedgerReport:
        """Compare with the running balances (micros by `currency|account`)."""
        accounts = sorted({*balances, *self._opening, *self._moved})
        return LedgerReport(
            entries=self._count,
            through_id=through_id,
            at_ms=at_ms,
            open_holds=len(self._held),
            lines=tuple(self._lines(accounts, balances)),
            differences=(*self._balances(accounts, balances), *_sums(balances), *self._found),
            unlisted=self._unlisted,
        )

    def _lines(self, accounts: list[str], balances: Mapping[str, int]) -> Iterator[LedgerLine]:
        rows: dict[tuple[str, str], list[int]] = {}
        for account in accounts:
            currency, _, name = account.partition("|")
            row = rows.setdefault((currency, name.partition(":")[0]), [0, 0, 0])
            row[0] += self._opening.get(account, 0)
            row[1] += self._moved[account]
            row[2] += balances.get(account, 0)
        for (currency, kind), row in sorted(rows.items(), key=_by_kind):
            yield LedgerLine(currency, kind, *row)

    def _balances(self, accounts: list[str], balances: Mapping[str, int]) -> Iterator[Difference]:
        for account in accounts:
            expected = self._opening.get(account, 0) + self._moved[account]
            found = balances.get(account, 0)
            if expected != found:
                yield Difference("balance", account, account.partition("|")[0], expected, found)


def _is_posting(entry: Entry) -> bool:
    kinds = (entry.debit.partition(":")[0], entry.credit.partition(":")[0])
    return entry.micros > 0 and _ACCOUNTS.get(entry.kind) == kinds


def _sums(balances: Mapping[str, int]) -> Iterator[Difference]:
    """Give the currencies whose accounts do not sum to 0."""
    sums: Counter[str] = Counter()
    for account, micros in balances.items():
        sums[account.partition("|")[0]] += micros
    return (
        Difference("sum", currency, currency, 0, micros)
        for currency, micros in sorted(sums.items())
        if micros
    )


def _by_kind(row: tuple[tuple[str, str], list[int]]) -> tuple[str, int, str]:
    (currency, kind), _ = row
    return currency, KINDS.index(kind) if kind in KINDS else len(KINDS), kind
