"""Freezing by hand: the client and `darkroom freeze`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from producers import Darkroom, Freeze, Frozen, InvalidRequest
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import Cli, cli

if TYPE_CHECKING:
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]  # the fixture is used by name


def test_a_freeze_says_who_and_why_and_holds(darkroom: Darkroom, worker: FakeWorker) -> None:
    """Nothing is claimed while it holds; jobs keep their order and are claimed after it."""
    ids = [darkroom.enqueue(FOX).job_id for _ in range(3)]
    before_ms = darkroom.now_ms()
    assert darkroom.freeze(Frozen.SPENDING, by="anna", why="a bill looks wrong") is None
    assert worker.claim() == []
    frozen = darkroom.overview().frozen
    assert frozen is not None
    assert frozen == Freeze("spending", "anna", frozen.at_ms, "a bill looks wrong")
    assert before_ms <= frozen.at_ms <= darkroom.now_ms()
    assert darkroom.freeze(None) is Frozen.SPENDING
    assert darkroom.overview().frozen is None
    assert worker.claim(3) == ids


def test_a_reason_has_a_limit(darkroom: Darkroom) -> None:
    """The message names it, and nothing is frozen."""
    with pytest.raises(InvalidRequest, match="at most 200 characters"):
        darkroom.freeze(Frozen.EVERYTHING, why="x" * 201)
    assert darkroom.overview().frozen is None


def test_the_command_is_shown_by_status_and_doctor(cli: Cli, darkroom: Darkroom) -> None:
    """Who looks is told what stands still, why, and how to let go."""
    done = cli.run("freeze", "spending", "--why", "bill looks wrong")
    assert (done.returncode, done.stdout) == (
        0, "frozen: spending: no worker submits; polls, copies and webhooks go on\n"
    )  # fmt: skip
    told = " ".join(cli.run("status").stdout.split())
    assert "frozen: spending since" in told
    assert "(bill looks wrong). `darkroom freeze off` lets work go on" in told
    assert "already frozen: spending" in cli.run("freeze", "spending").stdout
    off = cli.run("freeze", "off", "--json")
    assert json.loads(off.stdout) == {"frozen": None, "before": "spending", "dry_run": False}
    assert darkroom.overview().frozen is None


def test_a_wrong_word_is_named(cli: Cli) -> None:
    """One line with the words there are."""
    done = cli.run("freeze", "all")
    assert done.returncode == 2
    assert "'all' is none of spending, everything and off" in done.stderr
