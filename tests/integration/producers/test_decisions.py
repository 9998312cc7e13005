"""What operators decide of jobs, and the audit of it: cancel by selection, decisions on unknown jobs, `darkroom audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_changes import brought_to
from tests.integration.producers.test_cli import Cli, cli

if TYPE_CHECKING:
    import pytest

    from producers import Darkroom
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]  # the fixture is used by name


def test_cancel_takes_a_selection(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A dry run counts by what it would cost; the cancel says it of each job, and the audit has how many and why."""
    ended = brought_to("completed", darkroom, worker)
    begun = darkroom.enqueue(FOX, batch="b").job_id
    worker.claim()
    worker.intend(begun)
    queued = darkroom.enqueue(FOX, batch="b").job_id
    other = darkroom.enqueue(FOX).job_id
    dry = cli.run("cancel", "--batch", "b", "--dry-run")
    assert dry.stdout == "would cancel 2 jobs: 1 free, 1 settled when the provider is done\n"
    assert darkroom.get(queued).state == "queued"
    done = cli.run("cancel", "--batch", "b", "--as", "anna", "--why", "typo in the prompt")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted([
        f"{begun}: cancelled; its submit had begun, so it is settled when the provider is done (at most ¥0.20)",
        f"{queued}: cancelled, free",
    ])  # fmt: skip
    assert "2 jobs: 1 free, 1 settled when the provider is done" in done.stderr
    assert (darkroom.get(other).state, darkroom.get(ended).state) == ("queued", "completed")
    (entry,) = darkroom.audit()
    assert (entry.who, entry.what, entry.on, entry.why, entry.jobs) == (
        "anna", "cancel", "jobs: batch b", "typo in the prompt", 2,
    )  # fmt: skip
    assert cli.run("cancel", "--batch", "b").stdout == "no job was cancelled\n"
    assert len(darkroom.audit()) == 1


def test_cancel_says_what_ended_jobs_cost(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Finished anyway: its state and its cost; nothing is audited, for nothing changed."""
    job_id = brought_to("completed", darkroom, worker)
    assert cli.run("cancel", job_id).stdout == f"{job_id}: had ended already (completed, ¥0.20)\n"
    assert darkroom.audit() == []


def test_cancel_of_an_unknown_job_is_refused(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """By id it is said; by a selection it is left out, unless its state was named."""
    darkroom.enqueue(FOX, batch="b")
    job_id = worker.make_unknown()
    done = cli.run("cancel", job_id)
    assert (done.returncode, "has an unknown outcome" in done.stderr) == (1, True)
    assert cli.run("cancel", "--batch", "b").stdout == "no job was cancelled\n"
    assert cli.run("cancel", "--batch", "b", "--state", "unknown").returncode == 1
    told = cli.run("cancel", "--state", "unknown", "--dry-run").stdout
    assert told == "would cancel 1 jobs: 1 with an unknown outcome: see `darkroom unknown list`\n"
    assert darkroom.audit() == []


def test_many_need_a_yes(cli: Cli, darkroom: Darkroom) -> None:
    """More than 100, with nobody to ask: nothing happens without --yes, and one entry tells of all."""
    darkroom.enqueue_many([FOX] * 101, batch="b", keep=False)
    refused = cli.run("cancel", "--batch", "b")
    assert (refused.returncode, "Add --yes" in refused.stderr) == (2, True)
    assert darkroom.batch("b").counts["queued"] == 101
    done = cli.json("cancel", "--batch", "b", "--yes")
    assert (done["counts"], done["refused"]) == ({"free": 101}, 0)
    assert [entry.jobs for entry in darkroom.audit()] == [101]


def test_cancel_needs_to_know_which(cli: Cli) -> None:
    """Without any option it is no cancel of everything."""
    done = cli.run("cancel")
    assert (done.returncode, "no job is selected" in done.stderr) == (2, True)


def test_decisions_on_unknown_jobs_are_audited(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with who, which job and why; what was refused, or done already, is not in it."""
    darkroom.enqueue_many([FOX] * 3)
    found, again, gone = (worker.make_unknown() for _ in range(3))
    assert cli.run("unknown", "resubmit", again).returncode == 1  # its POST may be in flight
    resolved = cli.run(
        "unknown", "resolve", found, "--generation-id", "g1", "--as", "anna", "--why", "in their list"
    )
    assert resolved.stdout == f"{found}: generating\n"
    assert cli.run("unknown", "release", gone, "--as", "ben").returncode == 0
    assert cli.run("unknown", "release", gone, "--as", "ben").returncode == 0
    monkeypatch.setattr(type(darkroom._core), "resubmit_wait_ms", 0)
    darkroom.resubmit(again, by="cleo", why="it never arrived")
    told = [(each.who, each.what, each.on, each.jobs, each.why) for each in darkroom.audit()]
    assert told == [
        ("cleo", "resubmit", f"job {again}", 1, "it never arrived"),
        ("ben", "release", f"job {gone}", 1, ""),
        ("anna", "resolve", f"job {found}", 1, "in their list"),
    ]


def test_the_audit_is_filtered(cli: Cli, darkroom: Darkroom) -> None:
    """By who, by what and since when, newest first."""
    lane = darkroom.overview().lanes[0].name
    darkroom.pause(lane, by="anna", why="odd bill")
    darkroom.pause_tenant("acme", by="ben")
    darkroom.pause_tenant("acme", False, by="anna")
    by_anna = cli.json("audit", "--by", "anna")["entries"]
    assert [(row["what"], row["on"]) for row in by_anna] == [
        ("resume", "tenant acme"),
        ("pause", f"lane {lane}"),
    ]
    assert [row["who"] for row in cli.json("audit", "--what", "pause")["entries"]] == ["ben", "anna"]
    assert len(cli.json("audit", "--since", "1h")["entries"]) == 3
    assert cli.run("audit", "--since", "2999-01-01").stdout == "no such entry\n"
    assert len(cli.json("audit", "--what", "pause", "--limit", "1")["entries"]) == 1
    table = cli.run("audit").stdout
    assert "pause tenant acme" in table
    assert "odd bill" in table


def test_the_audit_names_the_first_of_many(cli: Cli, darkroom: Darkroom) -> None:
    """Ids are enough to find the rest by."""
    ids = darkroom.enqueue_many([FOX] * 5).job_ids
    cli.run("cancel", *ids[:4])
    cli.run("cancel", ids[4])
    assert [(entry.on, entry.jobs) for entry in darkroom.audit()] == [
        (f"job {ids[4]}", 1),
        (f"jobs {', '.join(ids[:3])} and 1 more", 4),
    ]


def test_a_cancel_that_says_by_whom_or_why_is_audited(darkroom: Darkroom) -> None:
    """`owner` unless named; not one that changes nothing, nor a program that takes its own job back without a word."""
    first, second, third = darkroom.enqueue_many([FOX] * 3).job_ids
    darkroom.cancel(third)
    for _ in range(2):
        darkroom.cancel(first, why="no longer wanted")
    darkroom.cancel(second, by="anna", why="typo in the prompt")
    told = [(each.who, each.what, each.on, each.jobs, each.why) for each in darkroom.audit()]
    assert told == [
        ("anna", "cancel", f"job {second}", 1, "typo in the prompt"),
        ("owner", "cancel", f"job {first}", 1, "no longer wanted"),
    ]


def test_a_freeze_can_be_tried(cli: Cli, darkroom: Darkroom) -> None:
    """--dry-run changes nothing; --as and --why are kept."""
    assert cli.run("freeze", "spending", "--dry-run").stdout.startswith("would be frozen: spending")
    assert darkroom.overview().frozen is None
    cli.run("freeze", "spending", "--as", "anna", "--why", "odd bill")
    assert cli.json("freeze", "off", "--dry-run") == {
        "frozen": "spending", "before": "spending", "dry_run": True,
    }  # fmt: skip
    frozen = darkroom.overview().frozen
    assert frozen is not None
    assert (frozen.by, frozen.why) == ("anna", "odd bill")
    assert [(entry.who, entry.on) for entry in darkroom.audit()] == [("anna", "spending")]
