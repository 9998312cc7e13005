"""What was spent, is held and is in doubt, by whatever an entry of the ledger knows. Pure.

Spending counts on the day it was posted: when the provider was done. A hold counts where it was taken, until it is
resolved; holds and doubts are what is left of them at the end of the period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from producers.reports.amount import decimal_text
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shared.money.entry import Entry

NONE: Final = "-"
_OF_ENTRY: Final[Mapping[str, Callable[[Entry], str]]] = {
    "tenant": lambda entry: entry.tenant,
    "batch": lambda entry: entry.batch or NONE,
    "model": lambda entry: entry.model or NONE,
    "account": lambda entry: entry.lane.partition("/")[0] or NONE,
    "day": lambda entry: entry.day.isoformat(),
}
DIMENSIONS: Final = tuple(_OF_ENTRY)

Group = tuple[str, ...]


@dataclass(slots=True)
class SpendRow:
    """One group and currency; micros. `jobs` have been billed."""

    group: Group
    currency: str
    jobs: int = 0
    spent_micros: int = 0
    held_micros: int = 0
    doubt_micros: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.jobs or self.spent_micros or self.held_micros or self.doubt_micros)

    def add(self, other: SpendRow) -> None:
        self.jobs += other.jobs
        self.spent_micros += other.spent_micros
        self.held_micros += other.held_micros
        self.doubt_micros += other.doubt_micros

    def figures(self) -> dict[str, Any]:
        """Give currency, jobs and amounts, these as exact decimal text and as micros."""
        amounts = {"spent": self.spent_micros, "held": self.held_micros, "in_doubt": self.doubt_micros}
        return {
            "currency": self.currency,
            "jobs": self.jobs,
            **{name: decimal_text(micros) for name, micros in amounts.items()},
            **{f"{name}_micros": micros for name, micros in amounts.items()},
        }


def parse_by(text: str) -> tuple[str, ...]:
    """Read `tenant,day`. Raises ConfigurationError."""
    by = tuple(name.strip() for name in text.split(",") if name.strip())
    wrong = [name for name in by if name not in _OF_ENTRY]
    if wrong or not by or len(set(by)) < len(by):
        raise ConfigurationError(f"--by takes some of {', '.join(DIMENSIONS)}, each once, got {text!r}.")
    return by


class Spend:
    """Takes entries in their order; only those of `tenant`, if given."""

    def __init__(self, by: tuple[str, ...], tenant: str | None = None) -> None:
        self.by, self._tenant = by, tenant
        self._of = [_OF_ENTRY[name] for name in by]
        self._rows: dict[tuple[Group, str], SpendRow] = {}
        self._holds: dict[str, tuple[SpendRow, int]] = {}  # what is left of a job's hold, and where it counts
        self._billed = ""

    def add(self, entry: Entry) -> None:
        if self._tenant is not None and entry.tenant != self._tenant:
            return
        match entry.kind:
            case "hold":
                row = self._row(entry)
                row.held_micros += entry.micros
                self._holds[entry.job] = (row, entry.micros)
            case "settle" | "charge":
                self._spend(entry)
            case "doubt":
                self._row(entry).doubt_micros += entry.micros
            case _:
                pass
        if entry.debit.startswith("held:") and (hold := self._holds.pop(entry.job, None)):
            self._take(entry, *hold)

    def _take(self, entry: Entry, row: SpendRow, left: int) -> None:
        row.held_micros -= entry.micros
        if left > entry.micros:
            self._holds[entry.job] = (row, left - entry.micros)

    def _row(self, entry: Entry) -> SpendRow:
        place = (tuple(of(entry) for of in self._of), entry.currency)
        return self._rows.get(place) or self._rows.setdefault(place, SpendRow(*place))

    def _spend(self, entry: Entry) -> None:
        row = self._row(entry)
        row.spent_micros += entry.micros
        if (
            self._billed != entry.job
        ):  # what exceeds a hold is charged by a second entry, right after the first
            row.jobs += 1
            self._billed = entry.job

    def rows(self) -> list[SpendRow]:
        """Give the groups in which money moved or stands, sorted."""
        return [row for _, row in sorted(self._rows.items()) if not row.is_empty]


def totals(rows: Iterable[SpendRow]) -> list[SpendRow]:
    """Add rows up, a total per currency."""
    found: dict[str, SpendRow] = {}
    for row in rows:
        found.setdefault(row.currency, SpendRow((), row.currency)).add(row)
    return [found[currency] for currency in sorted(found)]
