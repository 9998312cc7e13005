"""`darkroom reconcile` on files as they come: what it reads, what it refuses, and that it changes nothing."""

from __future__ import annotations

import csv
import io
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


def test_a_dirty_file_is_read_line_by_line(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Marks, line ends, amounts and times without bounds, ids that a spreadsheet or a shell would run: all are told."""
    billed(darkroom, worker, "g1")
    darkroom.enqueue(FOX)
    unknown = worker.make_unknown()
    now = time.time()
    lines = [
        "generation,at,amount", f"g1,{now},0.20", "a,9999999999999999,0.20", "b,0001-01-01T00:00:00+14:00,0.20",
        f"c,{now},1E999999", f"d,{now},1E99999", f'e,{now},"1,20"', f"=cmd|'x'!A1,{now},0.20",
        *(f"f{at},{now},?" for at in range(200)),
    ]  # fmt: skip
    name = cli.write("bill.csv", "\ufeff" + "\r\n".join(lines))
    found = cli.json("reconcile", name, "--no-objects", code=1)
    assert [each["line"] for each in found["broken"]] == [3, 4, 5, 6, 7, *range(9, 209)]
    assert "205 rows cannot be read" in cli.run("reconcile", name, "--no-objects").stdout
    (guess,) = [each for each in found["findings"] if each["job"] == unknown]
    assert guess["command"].endswith("""--generation-id '=cmd|'"'"'x'"'"'!A1'""")
    table = cli.run("reconcile", name, "--no-objects", "--csv").stdout
    (row,) = [each for each in csv.DictReader(io.StringIO(table)) if each["job"] == unknown]
    assert (row["generation"], row["candidates"]) == ("'=cmd|'x'!A1", "'=cmd|'x'!A1")


def test_without_times_an_expired_record_is_not_judged(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """The ledger knows its cost, and which part of the ledger to read only times can say."""
    at = time.time()
    job_id = billed(darkroom, worker, "g1")
    state.client.delete(state.keys.job(job_id), state.keys.spec(job_id))
    without = cli.run("reconcile", cli.write("bill.csv", "generation,amount\ng1,0.20\n"), "--no-objects")
    assert (without.returncode, "1 not judged (its record has expired" in without.stdout) == (0, True), (
        without
    )
    timed = cli.run(
        "reconcile", cli.write("bill.csv", f"generation,at,amount\ng1,{at},0.20\n"), "--no-objects"
    )
    assert (timed.returncode, "1 agree" in timed.stdout) == (0, True), timed.stdout
