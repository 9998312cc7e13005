"""`darkroom pause` and `resume` of tenants, batches and jobs: what they say, what they hold, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from producers import AsyncDarkroom, BatchNotFound, InvalidRequest, JobPause, Pause, TransitionRefused
from tests.integration.producers.conftest import FOX, LANE
from tests.integration.producers.test_cli import Cli, cli

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]  # the fixture is used by name


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_tenant_is_paused_shown_and_resumed(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Its jobs wait, those of others do not; status, top and the job itself say who and why."""
    mine = darkroom.enqueue(FOX, tenant="acme").job_id
    other = darkroom.enqueue(FOX).job_id
    dry = cli.run("pause", "--tenant", "acme", "--dry-run")
    assert dry.stdout == "tenant acme: would be paused; 1 of its jobs are queued\n"
    assert darkroom.pauses_of("acme") == ()
    done = cli.run("pause", "--tenant", "acme", "--as", "anna", "--why", "odd bill")
    assert done.stdout == "tenant acme: paused; 1 of its jobs are queued\n"
    assert "paused already" in cli.run("pause", "--tenant", "acme").stdout
    assert worker.claim(5) == [other]
    assert "tenant acme is paused since" in words(cli.run("status").stdout)
    assert "`darkroom resume --tenant acme`" in words(cli.run("status").stdout)
    assert "queued (tenant acme is paused by anna: odd bill)" in cli.run("status", mine).stdout
    assert "acme (paused)" in cli.run("top", "--once").stdout
    assert cli.json("resume", "--tenant", "acme")["tenants"] == [
        {"tenant": "acme", "paused": False, "changed": True, "waiting": 1}
    ]
    assert worker.claim(5) == [mine]


def test_a_batch_is_paused_shown_and_resumed(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """`darkroom batch` says who paused it; the tenant's other jobs go on."""
    foxes = darkroom.enqueue_many([FOX] * 3, batch="foxes").job_ids
    single = darkroom.enqueue(FOX).job_id
    assert "batch foxes: paused; 3 of its jobs" in cli.run("pause", "--batch", "foxes", "--as", "anna").stdout
    assert worker.claim(5) == [single]
    assert "batch foxes of default since" in words(cli.run("batch", "foxes").stdout)
    (pause,) = darkroom.batch("foxes").paused
    assert pause == Pause("default", "foxes", "anna", pause.at_ms, "")
    assert darkroom.overview().paused == (pause,)
    assert "queued (batch foxes of default is paused by anna)" in cli.run("status", foxes[0]).stdout
    assert "batch foxes: resumed" in cli.run(*pause.resume.split()[1:]).stdout
    assert worker.claim(5) == list(foxes)
    assert darkroom.batch("foxes").paused == ()


def test_a_batch_must_be_there_and_have_jobs_to_come(darkroom: Darkroom) -> None:
    """A typo and a complete batch are refused, each with its reason."""
    with pytest.raises(BatchNotFound):
        darkroom.pause_batch("nope")
    (job_id,) = darkroom.enqueue_many([FOX], batch="hares").job_ids
    darkroom.cancel(job_id)
    with pytest.raises(TransitionRefused, match="is complete"):
        darkroom.pause_batch("hares")


def test_a_complete_batch_is_paused_again_when_jobs_of_it_are_redriven(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """It has jobs to come again, which wait; when they have ended, it is not paused any more."""
    (job_id,) = darkroom.enqueue_many([FOX], batch="foxes").job_ids
    worker.claim()
    worker.fail(job_id)
    assert darkroom.batch("foxes").completed_at is not None
    assert cli.run("redrive", job_id, "--yes").returncode == 0
    assert darkroom.pause_batch("foxes").changed
    assert worker.claim() == []
    assert cli.run("cancel", job_id).returncode == 0
    assert darkroom.pauses_of("default", "foxes") == ()


def test_jobs_are_paused_one_by_one(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Each has its own line; what is on its way or missing is said, with exit code 1."""
    first, second, third = darkroom.enqueue_many([FOX] * 3).job_ids
    assert worker.claim() == [first]
    done = cli.run("pause", first, second, "job_nope", "--as", "anna", "--why", "odd")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{first}: is not queued")
    assert lines[1:] == [f"{second}: paused", "job_nope: there is no such job"]
    assert "queued (paused by anna: odd)" in cli.run("status", second).stdout
    assert "1 jobs are paused one by one" in words(cli.run("status").stdout)
    assert worker.claim(5) == [third]
    assert cli.json("resume", second)["jobs"] == [{"job": second, "outcome": "changed"}]
    assert worker.claim(5) == [second]


def test_jobs_are_paused_by_what_they_have_in_common(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker
) -> None:
    """A criterion means the jobs there are: later ones of the tenant go on."""
    darkroom.enqueue_many([FOX] * 3, tenant="acme")
    dry = cli.run("pause", "--tenant", "acme", "--state", "queued", "--dry-run")
    assert dry.stdout == "3 jobs would be paused\n"
    assert darkroom.audit() == []
    assert cli.run("pause", "--tenant", "acme", "--newer-than", "1h").stdout == "3 jobs paused\n"
    late = darkroom.enqueue(FOX, tenant="acme").job_id
    assert worker.claim(5) == [late]
    assert cli.run("pause", "--tenant", "acme", "--state", "queued").stdout == "0 jobs paused\n"
    assert cli.run("resume", "--state", "queued").stdout == "3 jobs resumed\n"
    assert len(worker.claim(5)) == 3
    told = [(entry.what, entry.on, entry.jobs) for entry in darkroom.audit()]
    assert told == [
        ("resume", "jobs: state queued", 3),
        ("pause", "jobs: tenant acme; created newer than 1h ago", 3),
    ]


def test_what_is_to_be_paused_must_be_said(cli: Cli) -> None:
    """Neither everything by accident, nor a lane mixed with jobs."""
    assert "give lanes, job ids, --tenant" in cli.run("pause").stderr
    mixed = cli.run("pause", LANE, "--tenant", "acme")
    assert (mixed.returncode, "in commands of their own" in mixed.stderr) == (2, True)


def test_reasons_have_a_limit(darkroom: Darkroom) -> None:
    """The same for each of them."""
    (job_id,) = darkroom.enqueue_many([FOX], batch="foxes").job_ids
    for change in (
        lambda why: darkroom.pause_tenant("acme", why=why),
        lambda why: darkroom.pause_batch("foxes", why=why),
        lambda why: darkroom.pause_jobs([job_id], why=why),
        lambda why: darkroom.cancel_many([job_id], why=why),
    ):
        with pytest.raises(InvalidRequest, match="at most 200 characters"):
            change("x" * 201)
    assert darkroom.audit() == []


async def test_the_asyncio_client_pauses_too(state: State, worker: FakeWorker) -> None:
    """The same calls with the same answers."""
    async with AsyncDarkroom(state.settings) as client:
        receipt = await client.enqueue_many([FOX] * 2, batch="foxes", tenant="acme")
        first = receipt.job_ids[0]
        assert (await client.pause_batch("foxes", tenant="acme", by="anna")).waiting == 2
        assert (await client.pause_tenant("acme", by="ben")).changed
        assert await client.pause_jobs([first, "job_nope"]) == [JobPause.CHANGED, JobPause.MISSING]
        assert [pause.by for pause in await client.pauses_of("acme", "foxes")] == ["anna", "ben"]
        assert len((await client.batch("foxes", "acme")).paused) == 2
        assert worker.claim(5) == []
        assert len(await client.audit(by="anna")) == 1
        await client.pause_batch("foxes", False, tenant="acme")
        await client.pause_tenant("acme", False)
        await client.pause_jobs([first], False)
        assert worker.claim(5) == list(receipt.job_ids)
        (cancelled,) = await client.cancel_many([first], by="anna", why="enough")
        assert cancelled.outcome == "free"
