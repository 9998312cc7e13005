"""Which generation of the provider probably belongs to which submit without an answer. Pure.

By the hash of the prompt, if both sides have it: jobs with the same prompt may share their generations in any order.
Else by time, model, images and size, and only if one submit and one generation fit nobody else: a wrong guess delivers
somebody else's image. How likely:

    high     the generation has the job's prompt, and nothing else of it differs
    medium   it is the only generation of its time, model and size, and the job the only one that it fits
    low      one of several generations, or of several jobs
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from producers.reports.usage import UsageRow

Likelihood = Literal["", "high", "medium", "low"]
SHOWN: Final = 5
_PIXELS: Final = re.compile(r"[0-9]+x[0-9]+")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A submit whose answer was not recorded: the provider may have accepted it between two instants (unix ms).

    `unknown`: the job waits for a decision; else it was submitted again, and this is its first submit.
    """

    job_id: str
    from_ms: int
    to_ms: int
    n: int
    model: str = ""
    size: str = ""
    prompt_sha256: str | None = None
    unknown: bool = True
    currency: str = ""
    hold_micros: int = 0


@dataclass(frozen=True, slots=True)
class Likely:
    """What is likely of a suspect. `command` is one that a person may run after looking; none if it is a guess.

    `row` is the one generation that fits; if there are several, the nearest by time are `candidates`.
    """

    suspect: Suspect
    row: UsageRow | None
    likelihood: Likelihood
    why: str
    command: str = ""
    candidates: tuple[str, ...] = ()


def likely(
    suspects: Iterable[Suspect], strays: Sequence[UsageRow], *, covered_until_ms: int | None
) -> tuple[list[Likely], list[UsageRow]]:
    """Give what is likely of each suspect, and the rows that fit none.

    `covered_until_ms` is the last instant of the export: what is younger may be missing from it.
    """
    waiting = sorted(suspects, key=lambda each: (each.from_ms, each.job_id))
    matching = _Matching(strays)
    found, rest = [], []
    for each in waiting:
        guess = matching.by_prompt(each)
        if guess is None:
            rest.append(each)
        else:
            found.append(guess)
    found += matching.by_time(rest, covered_until_ms)
    return found, matching.left


class _Matching:
    def __init__(self, strays: Sequence[UsageRow]) -> None:
        self._free = {row.generation_id: row for row in strays}
        self._of_prompt: dict[str, list[UsageRow]] = defaultdict(list)
        for row in sorted(strays, key=lambda each: (each.at_ms or 0, each.line)):
            if row.prompt_sha256 is not None:
                self._of_prompt[row.prompt_sha256].append(row)
        self._named: set[str] = set()  # of somebody, though it is not known of whom

    @property
    def left(self) -> list[UsageRow]:
        return [row for row in self._free.values() if row.generation_id not in self._named]

    def by_prompt(self, suspect: Suspect) -> Likely | None:
        rows = self._of_prompt.get(suspect.prompt_sha256 or "", [])
        for row in rows:
            if _is_possible(suspect, row) and (row.at_ms is None or row.at_ms >= suspect.from_ms):
                rows.remove(row)
                del self._free[row.generation_id]
                return _resolved(suspect, row, "high", "it has the job's prompt")
        return None

    def by_time(self, suspects: list[Suspect], covered_until_ms: int | None) -> list[Likely]:
        timed = sorted(
            (row for row in self._free.values() if row.at_ms is not None), key=lambda row: row.at_ms or 0
        )
        instants = [row.at_ms or 0 for row in timed]
        fitting = {each.job_id: _fitting(each, timed, instants) for each in suspects}
        wooers: dict[str, int] = defaultdict(int)
        for rows in fitting.values():
            for row in rows:
                wooers[row.generation_id] += 1
        self._named.update(wooers)
        return [_judged(each, fitting[each.job_id], wooers, covered_until_ms) for each in suspects]


def _fitting(suspect: Suspect, timed: Sequence[UsageRow], instants: Sequence[int]) -> list[UsageRow]:
    """Give the rows of the suspect's time that may be its. With both prompts known, they have been compared."""
    start, end = bisect_left(instants, suspect.from_ms), bisect_left(instants, suspect.to_ms + 1)
    return [
        row
        for row in timed[start:end]
        if not (suspect.prompt_sha256 and row.prompt_sha256) and _is_possible(suspect, row)
    ]


def _is_possible(suspect: Suspect, row: UsageRow) -> bool:
    """Say whether nothing but the time speaks against it. A size in pixels is not compared with one in words."""
    if row.images is not None and row.images > suspect.n:
        return False
    if suspect.model and row.model and suspect.model != row.model:
        return False
    ours, theirs = suspect.size, row.size
    alike = bool(_PIXELS.fullmatch(ours)) == bool(_PIXELS.fullmatch(theirs))
    return not (ours and theirs and alike and ours != theirs)


def _judged(
    suspect: Suspect, rows: list[UsageRow], wooers: dict[str, int], covered_until_ms: int | None
) -> Likely:
    if len(rows) == 1 and wooers[rows[0].generation_id] == 1:
        return _resolved(suspect, rows[0], "medium", f"the only generation of its time{_beside(rows[0])}")
    if rows:
        jobs = max(wooers[row.generation_id] for row in rows)
        nearest = sorted(rows, key=lambda row: abs((row.at_ms or 0) - suspect.from_ms))[:SHOWN]
        ids = tuple(row.generation_id for row in nearest)
        why = f"{len(rows)} generations of its time for {jobs} jobs: {', '.join(ids)}. Compare their prompts"
        return Likely(suspect, None, "low", why, candidates=ids)
    if covered_until_ms is None or covered_until_ms < suspect.to_ms:
        return Likely(suspect, None, "", "the export may end before its generation")
    command = f"darkroom unknown release {suspect.job_id}" if suspect.unknown else ""
    return Likely(suspect, None, "", "the export has no generation for it: probably never accepted", command)


def _beside(row: UsageRow) -> str:
    said = [name for name, value in (("model", row.model), ("size", row.size)) if value]
    return "".join(f" and {name}" for name in said)


def _resolved(suspect: Suspect, row: UsageRow, likelihood: Likelihood, why: str) -> Likely:
    command = shlex.join(
        ("darkroom", "unknown", "resolve", suspect.job_id, "--generation-id", row.generation_id)
    )
    return Likely(suspect, row, likelihood, why, command if suspect.unknown else "", (row.generation_id,))
