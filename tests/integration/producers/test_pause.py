"""Pausing a lane by hand: `darkroom pause` and `darkroom resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers import Frozen
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import Cli, cli

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]  # the fixture is used by name


def test_a_paused_lane_is_shown_and_resumed(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A dry run changes nothing; a pause keeps the job queued; resume lets it be claimed."""
    job_id = darkroom.enqueue(FOX).job_id
    lanes = [lane.name for lane in darkroom.overview().lanes]
    assert f"{lanes[0]}: would be paused" in cli.run("pause", *lanes, "--dry-run").stdout
    assert {lane.condition(0) for lane in darkroom.overview().lanes} == {"open"}
    assert cli.run("pause", *lanes, "--as", "anna", "--why", "odd bill").stdout.startswith(
        f"{lanes[0]}: paused\n"
    )
    assert "by anna since" in " ".join(cli.run("status").stdout.split())
    assert worker.claim() == []
    assert f"{lanes[0]}: resumed" in cli.run("resume", *lanes).stdout
    assert worker.claim() == [job_id]


def test_a_wrong_lane_is_named(cli: Cli) -> None:
    """The message lists the lanes there are."""
    done = cli.run("pause", "nowhere/nothing")
    assert done.returncode == 2
    assert "lane must be one of" in done.stderr


def test_nothing_changes_if_one_of_the_lanes_is_wrong(cli: Cli, darkroom: Darkroom) -> None:
    """Names are judged before the first lane is paused."""
    lane = darkroom.overview().lanes[0].name
    assert cli.run("pause", lane, "nowhere/nothing").returncode == 2
    assert {each.condition(0) for each in darkroom.overview().lanes} == {"open"}
    assert darkroom.audit() == []


def test_the_audit_says_who_did_what(cli: Cli, darkroom: Darkroom) -> None:
    """Newest first; what changed nothing is not in it."""
    assert "no operator has changed anything yet" in cli.run("audit").stdout
    lane = darkroom.overview().lanes[0].name
    darkroom.pause(lane, by="anna", why="odd bill")
    darkroom.pause(lane, by="ben")
    darkroom.freeze(Frozen.EVERYTHING, by="cleo")
    darkroom.freeze(None, by="cleo", why="all clear")
    told = [(entry.who, entry.what, entry.on, entry.why) for entry in darkroom.audit()]
    assert told == [
        ("cleo", "freeze", "off", "all clear"),
        ("cleo", "freeze", "everything", ""),
        ("anna", "pause", f"lane {lane}", "odd bill"),
    ]
    assert [row["who"] for row in cli.json("audit", "--limit", "2")["entries"]] == ["cleo", "cleo"]
    assert "odd bill" in cli.run("audit").stdout
