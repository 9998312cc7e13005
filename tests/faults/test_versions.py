"""Two versions at once: the older one leaves the newer one's records alone, the newer one takes both."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final, cast

import pytest

from producers.exporter import StoreCollector
from shared.errors import RecordTooNew
from tests.faults.judge import judge
from tests.faults.table import note_row
from tests.process import ROOT
from tests.servers import WorkerProc, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.campaign import FaultHouse

JOBS = 6
SCHEMA: Final = "SCHEMA: Final = 1"
ENQUEUE: Final = """
from producers import Darkroom
with Darkroom() as darkroom:
    jobs = [{"model": "wan2.7-image", "prompt": f"[[m:next-{at}]]", "size": "1K"} for at in range(%d)]
    print(darkroom.enqueue_many(jobs, batch="next", webhook="%s").enqueued)
"""

pytestmark = pytest.mark.timeout(180)


def next_version(folder: Path) -> Path:
    """Copy the sources, as they would be with records of version 2."""
    tree = folder / "next"
    for package in ("workers", "shared", "producers"):
        shutil.copytree(ROOT / package, tree / package)
    path = tree / "shared/jobs/schema.py"
    source = path.read_text()
    assert source.count(SCHEMA) == 1, "the version has moved: make this test go from it to the next"
    path.write_text(source.replace(SCHEMA, "SCHEMA: Final = 2"))
    return tree


class NextWorkerProc(WorkerProc):
    """A worker of the next version."""

    tree: Path

    def command(self) -> Sequence[str]:
        return ["env", "-C", str(self.tree), f"PYTHONPATH={self.tree}", *super().command()]


def next_enqueue(faults: FaultHouse, tree: Path) -> None:
    """Enqueue with a client of the next version."""
    env = environment(faults.settings) | {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin"}
    program = ENQUEUE % (JOBS, f"{faults.sink.url}/ok")
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tree, env=env, check=False, capture_output=True, text=True
    )
    assert ran.stdout.strip() == str(JOBS), ran.stderr


def members(faults: FaultHouse, batch: str) -> list[str]:
    found = cast("list[bytes]", faults.state.client().lrange(f"{{darkroom}}:bj:default:{batch}", 0, -1))
    return [member.decode() for member in found]


def newer(faults: FaultHouse) -> float:
    families = StoreCollector(faults.state.client(), faults.settings).collect()
    return next(each.samples[0].value for each in families if each.name == "darkroom_newer_records")


def test_an_upgrade_half_way(faults: FaultHouse, tmp_path: Path) -> None:
    """N serves its own jobs and shows what it leaves; N+1 comes, serves the rest, and reads what N wrote; N goes."""
    tree = next_version(tmp_path)
    old = faults.worker("old")
    next_enqueue(faults, tree)
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: faults.counts() == {"completed": JOBS}, 30, "the old version's jobs")
    faults.until(lambda: newer(faults) == JOBS, 10, "the next version's are left, and shown")
    assert faults.counts("next") == {"queued": JOBS}
    with pytest.raises(RecordTooNew):
        faults.darkroom.get(members(faults, "next")[0])

    upgraded = NextWorkerProc(tmp_path / "upgraded", faults.settings, name="upgraded")
    upgraded.tree = tree
    with upgraded:
        faults.until(lambda: faults.counts("next") == {"completed": JOBS}, 30, "both versions serve")
        old.stop()
        ids += faults.enqueue_for_judgement(JOBS, "more")
        faults.until(lambda: faults.counts("more") == {"completed": JOBS}, 30, "the next version reads ours")
        recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row("two versions at once", faults.seed, verdict, recovered_s)
    # The judge of this version cannot read the next one's records: their markers are judged by the ledger alone.
    assert (verdict.lost, verdict.double_charged, verdict.unknown, verdict.failed) == (0, 0, 0, 0), verdict
    assert verdict.forgotten == JOBS, verdict
    assert faults.charged_twice() == []
