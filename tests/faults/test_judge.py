"""The judge is judged: a build that is broken on purpose is caught, in the scenario that the true build passes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults.judge import judge
from tests.faults.table import note_row
from tests.process import ROOT
from tests.servers import WorkerProc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

JOBS = 6
LOST_ANSWERS = 3  # fewer than open the breaker

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Break:
    """One sentence of the source and what a careless hand makes of it."""

    file: str
    before: str
    after: str


_SEND = "            outcome = lane.provider.submit_outcome(await self._client.send(request))\n"
POSTS_AGAIN = Break(
    "workers/stages/submit.py",
    _SEND,
    _SEND + "            if isinstance(outcome, Ambiguous):\n    " + _SEND,
)


class BrokenWorkerProc(WorkerProc):
    """A worker of a patched copy of the sources: production code has no switch for this."""

    def break_at(self, broken: Break) -> None:
        self._tree = self.folder / "tree"
        for package in ("workers", "shared"):
            shutil.copytree(ROOT / package, self._tree / package)
        path = self._tree / broken.file
        source = path.read_text()
        assert source.count(broken.before) == 1, "the sentence to break has moved"
        path.write_text(source.replace(broken.before, broken.after))

    def command(self) -> Sequence[str]:
        return ["env", "-C", str(self._tree), f"PYTHONPATH={self._tree}", *super().command()]


def _answers_lost(faults: FaultHouse) -> tuple[Verdict, float]:
    """Let the provider accept some POSTs and answer none of them."""
    rule = {"on": "submit", "kind": "lost_answer", "times": LOST_ANSWERS}
    faults.provider.post("/control/faults", {"rules": [rule]})
    ids = faults.enqueue_for_judgement(JOBS)
    recovered_s = faults.quiet(JOBS)
    return judge(faults, ids), recovered_s


def test_lost_answers_become_unknown(faults: FaultHouse) -> None:
    """The true build: each lost answer is one unknown job, and nothing is charged twice."""
    faults.worker()
    verdict, recovered_s = _answers_lost(faults)
    note_row("answers of the provider lost", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert verdict.unknown == LOST_ANSWERS, verdict


def test_a_build_that_posts_again_is_caught(faults: FaultHouse, tmp_path: Path) -> None:
    """A second POST after an unclear first: the ledger shows it, and the judge says so."""
    worker = BrokenWorkerProc(tmp_path / "broken", faults.settings, name="broken")
    worker.break_at(POSTS_AGAIN)
    with worker:
        verdict, _ = _answers_lost(faults)
    assert verdict.double_charged > 0, verdict
    assert not verdict.clean
