"""`darkroom reconcile` on files as they come: what it reads, what it refuses, and that it changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import Cli, cli
from tests.integration.producers.test_estimate_command import dump

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]


def billed(darkroom: Darkroom, worker: FakeWorker, generation: str) -> str:
    job_id = darkroom.enqueue(FOX).job_id
    worker.claim()
    worker.intend(job_id)
    worker.accept(job_id, generation)
    worker.deliver(job_id)
    worker.complete(job_id)
    return job_id


def test_nothing_is_changed(cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """Every key is as it was before, byte for byte; the file may come by stdin."""
    job_id = billed(darkroom, worker, "g1")
    darkroom.enqueue(FOX)
    unknown = worker.make_unknown()
    before = dump(state)
    at = time.time()
    export = f"generation\tat\ng1\t{at - 1}\ng2\t{at}\n"
    done = cli.run("reconcile", "-", "--format", "tsv", "--no-objects", stdin=export)
    assert done.returncode == 1
    assert f"darkroom unknown resolve {unknown} --generation-id g2" in done.stdout.splitlines()
    assert "the job is completed" in done.stdout, "no image of it has a record"
    assert job_id in done.stdout
    assert dump(state) == before


def test_an_account_of_several_is_compared_alone(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """What another account was billed is not missed; an account that there is not is told."""
    billed(darkroom, worker, "g1")
    now = time.time()
    name = cli.write("bill.csv", f"generation,at,status\nx,{now - 60},failed\ny,{now + 60},failed\n")
    mine = cli.json("reconcile", name, "--no-objects", code=1)
    assert [each["table"] for each in mine["findings"]] == ["delivered_not_billed"]
    accounts = '{"default": {}, "other": {}}'
    other = cli.run("reconcile", name, "--no-objects", "--account", "other", DARKROOM_ACCOUNTS=accounts)
    assert (other.returncode, "Both sides agree." in other.stdout) == (0, True), other.stdout
    wrong = cli.run("reconcile", name, "--account", "nobody")
    assert (wrong.returncode, "there is no account 'nobody'" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("content", ["", "generation,at,images\n"])
def test_an_export_without_rows_agrees_with_nothing(cli: Cli, content: str) -> None:
    """A download that failed must not look like a month whose books agree."""
    done = cli.run("reconcile", cli.write("bill.csv", content))
    said = "darkroom: the export has no rows, so nothing was compared. Check the file.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_rows_that_belong_to_nobody_and_have_no_time_are_not_said_to_agree(cli: Cli) -> None:
    """As when a wrong column was named."""
    done = cli.run("reconcile", cli.write("bill.csv", "generation\nnobody's\n"))
    assert "1 rows: 0 agree, 0 findings, 1 not judged" in done.stdout
    assert "Both sides agree." not in done.stdout
    assert "No row could be compared." in done.stdout


def test_files_that_cannot_be_read_are_told(cli: Cli) -> None:
    """A row by its line, exit code 1; columns, formats and paths by one sentence, exit code 2."""
    broken = cli.run("reconcile", cli.write("bill.jsonl", '{"generation": ""}\nnot json\n'))
    assert broken.returncode == 1
    assert "line 1 has no generation" in broken.stdout
    assert "line 2 is not a JSON object" in broken.stdout
    assert "the export has no times" in broken.stderr
    for args, says in (
        (("nowhere.csv",), "cannot read nowhere.csv"),
        ((cli.write("bill.xlsx", ""),), "--format csv, tsv or jsonl"),
        ((cli.write("bill.csv", "id\n1\n"),), "has no column 'generation'"),
        (("bill.csv", "--column", "colour=id"), "knows no field 'colour'"),
        (("bill.csv", "--csv", "--json"), "not both"),
    ):
        done = cli.run("reconcile", *args)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
