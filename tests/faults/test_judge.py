"""The judge is judged: a build that is broken on purpose is caught, in the scenario that the true build passes."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from shared.money.ledger import read_entries
from shared.redis.keys import Keys
from tests.faults.campaign import STOPPED_S, is_gone
from tests.faults.judge import judge
from tests.faults.proxy import FAIR, LOSE_TO_CLIENT
from tests.faults.table import note_row
from tests.process import ROOT
from tests.servers import WorkerProc
from workers.crash_points import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

    Start = Callable[..., WorkerProc]  # (name, **environment): a worker of the build that is tried

JOBS = 6
LOST_ANSWERS = 3  # fewer than open the breaker
SLOTS = LOST_ANSWERS
SUBMIT_PER_S = 10.0

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Break:
    """One sentence of the source and what a careless hand makes of it."""

    file: str
    before: str
    after: str


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


# --- the scenarios: each of them the true build passes ---------------------------------------------------------------


def _answers_lost(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Let the provider accept some POSTs and answer none of them."""
    start("w")
    rule = {"on": "submit", "kind": "lost_answer", "times": LOST_ANSWERS}
    faults.provider.post("/control/faults", {"rules": [rule]})
    ids = faults.enqueue_for_judgement(JOBS)
    recovered_s = faults.quiet(JOBS)
    return judge(faults, ids), recovered_s


def _sleeper_wakes(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Pause a worker that has claimed and not yet written its intent; wake it while its heir's POST is under way."""
    sleeper = start("sleeper", **{VARIABLE: "submit.claimed:1:STOP"})
    ids = faults.enqueue_for_judgement(2)
    faults.until(lambda: faults.counts().get("submitting") == 2, 30, "the sleeper holds both")
    time.sleep(STOPPED_S)
    faults.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "3"}]})
    start("heir")
    intents = Keys.of("darkroom").index("intents:main/wan2.7-image")
    faults.until(lambda: faults.state.client().zcard(intents) > 0, 30, "the heir's POST is under way")
    sleeper.resume()
    recovered_s = faults.quiet(2)
    return judge(faults, ids), recovered_s


def _settled_unheard(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Let the bill of jobs that were cancelled while they ran be settled, and lose the answer to that."""
    proxy = faults.through("state")
    # The first poll finds it done, and cancelled, and nothing else of it is under way: an answer to that would be lost
    # first, and a worker that waits for one writes no settlement.
    poll = faults.settings.poll.model_copy(update={"first_s": 6.0})
    faults.settings = faults.settings.model_copy(update={"poll": poll})
    worker = start("w", **{VARIABLE: "poll.answered:1:STOP"})
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: faults.counts().get("generating") == JOBS, 30, "all accepted")
    for job_id in ids:
        faults.darkroom.cancel(job_id)
    faults.quiet(JOBS)
    faults.until(lambda: is_gone(worker), 30, "a poll is answered")
    proxy.turn(LOSE_TO_CLIENT)
    worker.resume()
    faults.until(lambda: any(_settlements(faults)), 10, "a settlement is written")
    proxy.turn(FAIR)
    proxy.reset_all()
    recovered_s = faults.until(lambda: not _open_accounts(faults, ids), 60, "every bill is settled")
    faults.quiet(JOBS)
    return judge(faults, ids), recovered_s


def _settlements(faults: FaultHouse) -> Iterator[bool]:
    entries = read_entries(faults.state.client(), Keys.of("darkroom"))
    return (True for entry in entries if entry.kind == "settle")


def _open_accounts(faults: FaultHouse, ids: list[str]) -> int:
    return sum(job is not None and job.accounting_open for job in faults.darkroom.get_many(ids))


def _first_try_refused(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Refuse the first try of each event."""
    start("w")
    faults.hook = f"{faults.sink.url}/fail-first/1"
    ids = faults.enqueue_for_judgement(JOBS)
    recovered_s = faults.quiet(JOBS)
    return judge(faults, ids), recovered_s


def _slots_full(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Lose the answers of as many POSTs as the lane has slots: the provider works on all of them."""
    account = faults.settings.accounts["main"].model_copy(update={"max_in_flight": SLOTS})
    worker = faults.settings.worker.model_copy(update={"generation_max_s": 5.0})
    faults.settings = faults.settings.model_copy(update={"accounts": {"main": account}, "worker": worker})
    faults.provider.post("/control/settings", {"latency": 2})
    return _answers_lost(faults, start)


def _many_at_a_rate(faults: FaultHouse, start: Start) -> tuple[Verdict, float]:
    """Let two workers share a lane's rate, with jobs for three seconds of it."""
    faults.lane(submit_per_s=SUBMIT_PER_S)
    jobs = int(3 * SUBMIT_PER_S)
    ids = faults.enqueue_for_judgement(jobs)
    for name in ("one", "two"):
        start(name)
    recovered_s = faults.quiet(jobs)
    return judge(faults, ids), recovered_s


@dataclass(frozen=True, slots=True)
class Trial:
    """A scenario, the break that it shows, and the columns of the verdict that must say so."""

    what: str
    scenario: Callable[[FaultHouse, Start], tuple[Verdict, float]]
    broken: Break
    columns: tuple[str, ...]
    unknown: int = 0  # in the true build


_SEND = "            outcome = lane.provider.submit_outcome(await self._client.send(request))\n"
_SETTLED = '  if job.settled == "1" then return 0 end\n'
TRIALS = {
    "posts again": Trial(
        "answers of the provider lost",
        _answers_lost,
        Break(
            "workers/stages/submit.py",
            _SEND,
            _SEND + "            if isinstance(outcome, Ambiguous):\n    " + _SEND,
        ),
        ("double_charged",),
        LOST_ANSWERS,
    ),
    "no epoch": Trial(  # nor the intent that is there: either of them alone stops the second POST
        "worker paused before its intent, woken during its heir's POST",
        _sleeper_wakes,
        Break(
            "shared/redis/lua/guard.lua",
            "  if t.e and job.epoch ~= tostring(t.e) then return nil, 0 end\n"
            "  if t.ni and job.intent_id and job.intent_id ~= t.ni then return nil, 0 end\n",
            "",
        ),
        ("double_charged",),
    ),
    "settles twice": Trial(
        "answer of the state server to a settlement lost",
        _settled_unheard,
        Break("shared/redis/lua/money.lua", _SETTLED, ""),
        ("wrong_bill",),
    ),
    "an id per try": Trial(
        "first try of each event refused",
        _first_try_refused,
        Break(
            "workers/stages/notify.py",
            "endpoint, event_id=entry.id, body",
            "endpoint, event_id=f'{entry.id}_{entry.epoch}', body",
        ),
        ("duplicate_events",),
    ),
    "frees the slot": Trial(
        "answers lost while the slots are full",
        _slots_full,
        Break(
            "workers/stages/submit_plans.py",
            "            keep_slot=(lane.name, int(settings.generation_max_s * 1000)),\n",
            "            free_slot=lane.name,\n",
        ),
        ("over_limit",),
        LOST_ANSWERS,
    ),
    "permits twice as often": Trial(
        "two workers share a rate",
        _many_at_a_rate,
        Break(
            "shared/redis/lua/permits.lua",
            "before + taken * rate.interval_us",
            "before + taken * rate.interval_us / 2",
        ),
        ("over_limit",),
    ),
}


@pytest.mark.parametrize("trial", TRIALS.values(), ids=TRIALS)
def test_the_true_build_passes(faults: FaultHouse, trial: Trial) -> None:
    """Nothing lost, nothing paid twice, no limit passed: every column of the verdict is 0."""
    verdict, recovered_s = trial.scenario(faults, faults.worker)
    note_row(trial.what, faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert verdict.unknown == trial.unknown, verdict


@pytest.mark.parametrize("trial", TRIALS.values(), ids=TRIALS)
def test_the_broken_build_is_caught(faults: FaultHouse, tmp_path: Path, trial: Trial) -> None:
    """One sentence of the sources is changed, the scenario is the same, and the judge names what is wrong."""

    def start(name: str, **env: str) -> WorkerProc:
        worker = BrokenWorkerProc(tmp_path / f"broken-{name}", faults.settings, name=name, env=env)
        worker.break_at(trial.broken)
        faults.join(worker)
        return worker

    verdict, _ = trial.scenario(faults, start)
    assert not verdict.clean
    for column in trial.columns:
        assert getattr(verdict, column) > 0, verdict
