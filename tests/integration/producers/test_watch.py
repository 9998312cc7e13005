"""`darkroom watch` against a real state server: piped, on a narrow terminal, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
from decimal import Decimal
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING

from shared.money.caps import BatchCaps
from tests.integration.producers.conftest import FOX
from tests.servers import environment

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

DARKROOM = str(Path(sys.executable).with_name("darkroom"))
NARROW_COLUMNS = 40


def start(state: State, folder: Path, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start the command with the test's settings."""
    env = {**os.environ, **environment(state.settings), "NO_COLOR": "1", "TERM": "xterm"}
    env.pop("COLUMNS", None)  # it would outrank the terminal's own width
    return subprocess.Popen(
        [DARKROOM, "watch", *words],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def complete(worker: FakeWorker, job_id: str) -> None:
    worker.intend(job_id)
    worker.accept(job_id, f"g-{job_id}")
    worker.deliver(job_id)
    worker.complete(job_id)


def test_a_pipe_gets_a_line_per_change(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """The first line is the present; it ends with the last job, with exit code 0."""
    darkroom.enqueue_many([FOX, FOX], batch="foxes")
    with start(state, tmp_path, "foxes") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        for job_id in worker.claim(2):
            complete(worker, job_id)
        out, err = process.communicate(timeout=30)
    assert first.startswith("0 of 2 ended: 2 queued; 0 images"), err
    lines = out.splitlines()
    assert lines[-1].startswith("batch foxes completed; 2 of 2 ended: 2 completed; 2 images")
    assert len(lines) == len(set(lines))
    assert "\x1b" not in out
    assert process.returncode == 0


def test_failures_and_unknowns_say_what_to_do(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """It does not wait for unknown jobs for ever; exit code 1."""
    darkroom.enqueue_many([FOX, FOX], batch="foxes")
    worker.fail(worker.claim()[0])
    worker.make_unknown()
    with start(state, tmp_path, "foxes") as process:
        out, _ = process.communicate(timeout=30)
    assert "batch foxes stopped: only jobs with an unknown outcome are left" in out
    assert "1 failed (1 refused): see `darkroom status JOB`" in out
    assert "1 with an unknown outcome: see `darkroom unknown list`" in out
    assert process.returncode == 1


def test_a_narrow_terminal_is_redrawn_without_colour(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """On a terminal of 40 columns the bar fits, and NO_COLOR is obeyed."""
    darkroom.enqueue_many([FOX], batch="foxes")
    complete(worker, worker.claim()[0])
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, NARROW_COLUMNS, 0, 0))
    with start(state, tmp_path, "foxes", stdout=theirs) as process:
        assert process.wait(timeout=30) == 0
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert "█" * 20 + " 100 %" in shown
    assert "█" * 21 not in shown
    assert "\x1b[3" not in shown
    assert "batch foxes completed" in shown


def test_a_batch_that_is_not_there_is_one_sentence(state: State, tmp_path: Path) -> None:
    """A wrong name ends with a line of trouble, not a wait."""
    with start(state, tmp_path, "none") as process:
        out, err = process.communicate(timeout=30)
    assert (out, len(err.splitlines())) == ("", 1)
    assert process.returncode != 0


def test_without_a_batch_it_is_of_all_jobs(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """What ended before is left out; it ends when no job is on its way."""
    darkroom.enqueue_many([FOX, FOX, FOX])
    complete(worker, worker.claim()[0])
    with start(state, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0 of 2 ended: 2 queued\n"
        first, second = worker.claim(2)
        complete(worker, first)
        worker.fail(second)
        out, _ = process.communicate(timeout=30)
    assert "all jobs ended; 2 of 2 ended: 1 completed, 1 failed" in out
    assert process.returncode == 1


def test_a_tenant_alone_is_refused(state: State, tmp_path: Path) -> None:
    """It says whose batch is meant."""
    with start(state, tmp_path, "--tenant", "acme") as process:
        _, err = process.communicate(timeout=30)
    assert "--tenant is of a batch" in err
    assert process.returncode == 2


def test_it_says_what_the_batch_can_cost_at_most(
    state: State, tmp_path: Path, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """Queued, held and spent; what fails gives its part back, and at the end it is what was spent."""
    darkroom.enqueue_many([FOX, FOX, FOX], batch="foxes")

    def money() -> tuple[int, int]:
        found = darkroom.batch("foxes")
        return found.cost_micros, found.at_most_micros

    assert money() == (0, 600_000)
    first, second = worker.claim(2)
    assert money() == (0, 600_000)
    worker.fail(first)
    assert money() == (0, 400_000)
    complete(worker, second)
    assert money() == (200_000, 400_000)
    with start(state, tmp_path, "foxes", "--json") as process:
        assert process.stdout is not None
        before = json.loads(process.stdout.readline())
        darkroom.cancel(worker.claim()[0])
        out, _ = process.communicate(timeout=30)
    last = json.loads(out.splitlines()[-1])
    assert (before["cost_micros"], before["at_most_micros"], before["over"]) == (200_000, 400_000, False)
    assert (last["cost_micros"], last["at_most_micros"], last["over"]) == (200_000, 200_000, True)
    assert last["counts"] | {"completed": 1, "failed": 1, "cancelled": 1} == last["counts"]
    assert (last["errors"], process.returncode) == ({"refused": 1}, 1)


def test_a_capped_batch_costs_no_more_than_its_cap(darkroom: Darkroom) -> None:
    """Its queue could cost more, but it stops before."""
    darkroom.enqueue_many([FOX, FOX, FOX], batch="foxes", batch_caps=BatchCaps(max_cost=Decimal("0.5")))
    assert darkroom.batch("foxes").at_most_micros == 500_000
