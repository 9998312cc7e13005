"""`darkroom dev`, run as users run it, with other commands beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.local_stack import CommandProc, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(180)

READY = "other commands find this stack"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def dev(terminal: Terminal, *options: str) -> CommandProc:
    arguments = ["dev", "--latency", "0.2", "--artifacts", str(terminal.folder / "images"), *options]
    return CommandProc(terminal, arguments, ready_when=READY)


def pid_of(running: CommandProc, part: str) -> int:
    """Read a process id off the table."""
    found = re.search(rf"^{part} +\S+ +(\d+)", running.log(), re.MULTILINE)
    assert found, running.log()
    return int(found[1])


def until(true: Callable[[], bool], what: str, within_s: float = 40) -> None:
    give_up_at = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


def workers(terminal: Terminal) -> int:
    """Count the workers that `darkroom status` shows."""
    done = terminal.run("status", "--json")
    assert done.returncode == 0, done.stderr
    return len(json.loads(done.stdout)["workers"])


def test_other_commands_find_it_and_nothing_is_left(terminal: Terminal) -> None:
    """From another terminal jobs are enqueued and completed without any setting; SIGTERM ends all but the images."""
    with dev(terminal) as running:
        enqueued = terminal.run("enqueue", "--prompt", "a cat", "--batch", "b", "--wait", "--n", "2")
        assert enqueued.returncode == 0, enqueued.stderr
        batch = json.loads(terminal.run("batch", "b", "--json").stdout)
        assert (batch["counts"]["completed"], batch["images"]) == (1, 2)
        assert terminal.dev_file.stat().st_mode & 0o077 == 0
        assert "sandbox-" not in terminal.dev_file.read_text()  # the key is in a file of its own
        assert "whsec_" not in terminal.dev_file.read_text()
        assert "flower" in running.log()
        assert running.stop() == 0
    assert running.log().splitlines()[-1] == "stopped; all that was started has ended"
    assert len(list((terminal.folder / "images").rglob("[0-9].png"))) == 2
    assert not terminal.dev_file.exists()
    assert terminal.left_running() == []
    assert terminal.left_behind() == []


def test_its_flower_is_that_of_darkroom_flower(terminal: Terminal) -> None:
    """On loopback without a login, so that its button cancels; it is not told where the secrets are."""
    with dev(terminal) as running, httpx.Client(trust_env=False, timeout=30) as http:
        process = Path(f"/proc/{pid_of(running, 'flower')}")  # [proc(5)]
        assert b"producers.flower_app" in (process / "cmdline").read_bytes()
        assert b"darkroom.toml" not in (process / "environ").read_bytes()
        url = re.search(r"^flower +(\S+) ", running.log(), re.MULTILINE)
        assert url, running.log()
        enqueued = terminal.run("enqueue", "--prompt", "a cat", "--not-before", "1h", "--json")
        (job_id,) = re.findall(r"job_[a-z0-9]{20,}", enqueued.stdout)
        http.post(f"{url[1]}/api/task/revoke/{job_id}").raise_for_status()
        until(
            lambda: f"job {job_id}" in terminal.run("audit", "--by", "flower", "--json").stdout, "cancelled"
        )
        assert running.stop() == 0
    assert terminal.left_running() == []
    assert terminal.left_behind() == []


def test_a_second_one_is_told_of_the_first(terminal: Terminal) -> None:
    """It starts nothing, names the process that runs, and leaves the first one as it was."""
    with dev(terminal, "--no-flower", "--workers", "0") as running:
        before = terminal.dev_file.read_text()
        second = terminal.run("dev")
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert line.startswith(f"darkroom: `darkroom dev` runs already, as process {running.pid}. ")
        assert terminal.dev_file.read_text() == before
        running.signal(signal.SIGINT)
        assert running.stop() == 0


def test_a_killed_worker_is_reported_and_not_replaced(terminal: Terminal) -> None:
    """It is a place to see what a death does: the operator decides, and the others go on."""
    with dev(terminal, "--no-flower", "--workers", "2") as running:
        victim = pid_of(running, "worker2")
        os.kill(victim, signal.SIGKILL)
        until(
            lambda: f"worker2 (process {victim}) was ended by SIGKILL" in running.log(), "the death is told"
        )
        done = terminal.run("enqueue", "--prompt", "a cat", "--batch", "b", "--wait")
        assert done.returncode == 0, done.stderr
        until(lambda: workers(terminal) == 1, "one worker is left")
        assert "started again" not in running.log()
        assert running.stop() == 0


def test_a_killed_worker_is_replaced_if_asked_for(terminal: Terminal) -> None:
    """With --restart-workers another takes its place."""
    with dev(terminal, "--no-flower", "--restart-workers") as running:
        os.kill(pid_of(running, "worker1"), signal.SIGKILL)
        until(lambda: "worker1 was started again, as process " in running.log(), "it is started again")
        done = terminal.run("enqueue", "--prompt", "a cat", "--batch", "b", "--wait")
        assert done.returncode == 0, done.stderr
        assert running.stop() == 0
    assert terminal.left_running() == []


def test_its_own_death_ends_all_and_the_next_one_starts(terminal: Terminal) -> None:
    """SIGKILL of `darkroom dev` itself: its parts end by themselves, and what it announced is in nobody's way."""
    first = dev(terminal, "--no-flower")
    first.start()
    first.kill()
    until(lambda: terminal.left_running() == [], "no part outlives it")
    assert terminal.dev_file.exists()
    with dev(terminal, "--no-flower", "--workers", "0") as second:
        assert f"pid = {second.pid}\n" in terminal.dev_file.read_text()
        assert second.stop() == 0
    assert not terminal.dev_file.exists()


def test_a_part_that_dies_is_reported_with_its_log(terminal: Terminal) -> None:
    """The sandbox dies: that is told, with the process and how it ended."""
    with dev(terminal, "--no-flower", "--workers", "0") as running:
        victim = pid_of(running, "provider")
        os.kill(victim, signal.SIGTERM)
        until(lambda: f"sandbox (process {victim}) ended with status 0" in running.log(), "the end is told")
        assert running.stop() == 0


def test_settings_that_outrank_it_are_named(terminal: Terminal) -> None:
    """A darkroom.toml in this folder would lead other commands elsewhere: `dev` says so, and runs."""
    (terminal.cwd / "darkroom.toml").write_text("[redis]\nurl = 'redis://127.0.0.1:9/0'\n")
    with dev(terminal, "--no-flower", "--workers", "0") as running:
        until(lambda: "darkroom.toml outranks this stack" in running.log(), "the warning")
        assert running.stop() == 0
