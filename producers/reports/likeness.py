"""Which generation of the provider probably belongs to which submit without an answer. Pure.

By the hash of the prompt, if both sides have it: jobs with the same prompt may share their generations in any order.
Else by time, and only if one submit and one generation fit nobody else: a wrong guess delivers somebody else's image.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from producers.reports.usage import UsageRow


@dataclass(frozen=True, slots=True)
class Suspect:
    """A submit whose answer was not recorded: the provider may have accepted it between two instants (unix ms).

    `unknown`: the job waits for a decision; else it was submitted again, and this is its first submit.
    """

    job_id: str
    from_ms: int
    to_ms: int
    n: int
    prompt_sha256: str | None = None
    unknown: bool = True
    currency: str = ""
    hold_micros: int = 0


@dataclass(frozen=True, slots=True)
class Likely:
    """What is likely of a suspect. `command` is one that a person may run after looking; none if it is a guess."""

    suspect: Suspect
    row: UsageRow | None
    why: str
    command: str = ""


def likely(
    suspects: Iterable[Suspect], strays: Sequence[UsageRow], *, covered_until_ms: int | None
) -> tuple[list[Likely], list[UsageRow]]:
    """Give what is likely of each suspect, and the rows that fit none.

    `covered_until_ms` is the last instant of the export: what is younger may be missing from it.
    """
    waiting = sorted(suspects, key=lambda each: (each.from_ms, each.job_id))
    matching = _Matching(strays)
    found = [guess for each in waiting if (guess := matching.by_prompt(each)) is not None]
    done = {id(guess.suspect) for guess in found}
    rest = [each for each in waiting if id(each) not in done]
    found += matching.by_time(rest, covered_until_ms)
    return found, matching.left


class _Matching:
    def __init__(self, strays: Sequence[UsageRow]) -> None:
        self._free = {row.generation_id: row for row in strays}
        self._of_prompt: dict[str, list[UsageRow]] = defaultdict(list)
        for row in sorted(strays, key=lambda each: (each.at_ms or 0, each.line)):
            if row.prompt_sha256 is not None:
                self._of_prompt[row.prompt_sha256].append(row)
        self._named: set[str] = (
            set()
        )  # candidates of somebody: not without an owner, though it is not known who

    @property
    def left(self) -> list[UsageRow]:
        return [row for row in self._free.values() if row.generation_id not in self._named]

    def by_prompt(self, suspect: Suspect) -> Likely | None:
        rows = self._of_prompt.get(suspect.prompt_sha256 or "", [])
        for row in rows:
            if _is_possible(suspect, row, early_only=True):
                rows.remove(row)
                del self._free[row.generation_id]
                return _resolved(suspect, row, "it has the job's prompt")
        return None

    def by_time(self, suspects: list[Suspect], covered_until_ms: int | None) -> list[Likely]:
        fitting = {each.job_id: [row for row in self._free.values() if _fits(each, row)] for each in suspects}
        wooers: dict[str, int] = defaultdict(int)
        for rows in fitting.values():
            for row in rows:
                wooers[row.generation_id] += 1
        found = []
        for each in suspects:
            rows = fitting[each.job_id]
            self._named.update(row.generation_id for row in rows)
            found.append(_judged(each, rows, wooers, covered_until_ms))
        return found


def _fits(suspect: Suspect, row: UsageRow) -> bool:
    """Say whether a row may be the suspect's by time and images. With both prompts known, they have been compared."""
    compared = suspect.prompt_sha256 is not None and row.prompt_sha256 is not None
    return not compared and row.at_ms is not None and _is_possible(suspect, row, early_only=False)


def _is_possible(suspect: Suspect, row: UsageRow, *, early_only: bool) -> bool:
    if row.images is not None and row.images > suspect.n:
        return False
    if row.at_ms is None:
        return True
    return row.at_ms >= suspect.from_ms and (early_only or row.at_ms <= suspect.to_ms)


def _judged(
    suspect: Suspect, rows: list[UsageRow], wooers: dict[str, int], covered_until_ms: int | None
) -> Likely:
    if len(rows) == 1 and wooers[rows[0].generation_id] == 1:
        return _resolved(suspect, rows[0], "the only generation of its time")
    if rows:
        ids = ", ".join(row.generation_id for row in rows[:5])
        jobs = max(wooers[row.generation_id] for row in rows)
        why = f"{len(rows)} generations of its time for {jobs} jobs: {ids}. Compare their prompts"
        return Likely(suspect, None, why)
    if covered_until_ms is None or covered_until_ms < suspect.to_ms:
        return Likely(suspect, None, "the export may end before its generation")
    command = f"darkroom unknown release {suspect.job_id}" if suspect.unknown else ""
    return Likely(suspect, None, "the export has no generation for it: probably never accepted", command)


def _resolved(suspect: Suspect, row: UsageRow, why: str) -> Likely:
    command = f"darkroom unknown resolve {suspect.job_id} --generation-id {row.generation_id}"
    return Likely(suspect, row, why, command if suspect.unknown else "")
