"""`darkroom ledger close` on a real ledger that is made older: whenever it dies, the books stay the same."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from producers.cli.ledger_close import close
from producers.exporter import StoreCollector
from producers.reports.closing import REST_H
from shared.money import ledger
from shared.money.closed import read_closed
from shared.money.entry import parse_line
from shared.redis.scripts import run
from tests.integration.producers.conftest import FOX, FakeWorker
from tests.integration.producers.test_cli import Cli
from tests.servers import environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers import Darkroom
    from shared.money.entry import Entry
    from tests.conftest import State

DAY_MS = 86_400_000
# The command, killed by itself the moment it would call the closing script, or has called it.
KILLED = """
import os, signal, sys
from producers.reports import closing
from producers.cli.app import run
real, when = closing.run, sys.argv[1]
def dying(*args, **more):
    if when == "after":
        real(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
closing.run = dying
sys.argv[1:] = ["ledger", "close"]
run()
"""


@pytest.fixture
def cli(state: State, tmp_path: Path) -> Cli:
    """The command with the test's settings, and a store of its own."""
    storage = state.settings.storage.model_copy(update={"url": f"file://{tmp_path / 'artifacts'}"})
    return Cli(tmp_path, environment(state.settings.model_copy(update={"storage": storage})))


def stream(state: State) -> list[Entry]:
    return list(ledger.read_entries(state.client, state.keys))


def today(state: State) -> date:
    now: Any = state.client.time()
    return datetime.fromtimestamp(int(now[0]), UTC).date()


def aged(state: State, *days: int) -> list[Entry]:
    """Make the entries older by days: the first of them by the first number, and so on, the rest by the last."""
    rows: Any = state.client.xrange(state.keys.ledger)
    state.client.delete(state.keys.ledger)
    for at, (entry_id, fields) in enumerate(rows):
        at_ms, _, number = entry_id.decode().partition("-")
        older = days[min(at, len(days) - 1)]
        state.client.xadd(state.keys.ledger, fields, id=f"{int(at_ms) - older * DAY_MS}-{number}")
    return stream(state)


def three_jobs(state: State, darkroom: Darkroom, worker: FakeWorker) -> list[Entry]:
    """Entries of three days: holds of 40 days ago, two ends of 39 days ago, and one hold still open since today."""
    ids = [darkroom.enqueue(FOX, tenant=tenant).job_id for tenant in ("acme", "acme", "zoo")]
    worker.claim(3)
    worker.fail(ids[0])
    worker.intend(ids[1])
    worker.accept(ids[1], "g1")
    worker.deliver(ids[1])
    entries = aged(state, 40, 40, 40, 39, 39)
    darkroom.enqueue(FOX, tenant="acme")
    worker.claim(1)
    return [*entries, stream(state)[-1]]


def files(cli: Cli) -> list[Path]:
    return sorted((cli.folder / "artifacts" / "ledger").glob("*"))


def killed(cli: Cli, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, when],
        cwd=cli.folder,
        env={**os.environ, **cli.env},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_closed_days_leave_the_stream_and_stay_in_the_books(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Exports, opening balances, notes and audit; spend and export read on as if nothing had been."""
    entries = three_jobs(state, darkroom, worker)
    before = cli.json("spend", "--by", "tenant,day")
    done = cli.run("ledger", "close")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:2]] == [
        entries[0].day.isoformat(), entries[3].day.isoformat(),
    ]  # fmt: skip
    assert f"2 days were closed; the stream begins at {entries[-1].day}." in done.stdout
    assert stream(state) == entries[-1:]
    lines = [line for file in files(cli) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert list(map(parse_line, lines)) == entries[:-1]
    assert cli.json("spend", "--by", "tenant,day") == before | {"closed_days": 2}
    found = cli.json("ledger", "verify")
    assert (found["adds_up"], found["entries"]) == (True, 1)
    whole = cli.json("ledger", "verify", "--exports")
    assert (whole["adds_up"], whole["entries"], whole["exports_read"]) == (True, 6, 2)
    assert [(each.what, each.on) for each in darkroom.audit()] == [
        ("close", f"ledger {entries[3].day}-1"), ("close", f"ledger {entries[0].day}-1"),
    ]  # fmt: skip


def test_a_file_can_be_checked_by_its_name_alone(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """`zcat FILE | sha256sum` gives what the name says."""
    three_jobs(state, darkroom, worker)
    cli.run("ledger", "close")
    for file in files(cli):
        assert hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest() == file.name.split(".")[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_close_that_is_killed_is_gone_on_with(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State, when: str
) -> None:
    """Killed between export and script, and after the script: the next run makes the same books, and no file twice."""
    entries = three_jobs(state, darkroom, worker)
    before = cli.json("spend", "--by", "tenant,day")
    killed(cli, when)
    (left,) = files(cli)
    assert len(read_closed(state.client, state.keys)) == (when == "after")
    assert cli.json("ledger", "verify", "--exports")["adds_up"] is True
    assert cli.json("spend", "--by", "tenant,day")["rows"] == before["rows"]
    assert cli.run("ledger", "close").returncode == 0
    assert len(files(cli)) == 2
    assert left in files(cli)
    assert stream(state) == entries[-1:]
    assert cli.json("ledger", "verify", "--exports")["adds_up"] is True
    assert cli.json("spend", "--by", "tenant,day") == before | {"closed_days": 2}


def test_two_closes_at_once_close_each_day_once(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Four at a time: all end well, and together they have closed two days."""
    three_jobs(state, darkroom, worker)
    processes = [cli.start("ledger", "close", "--json") for _ in range(4)]
    outs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outs
    assert sum(out.count('"object_key"') for out, _ in outs) == 2
    assert cli.json("ledger", "verify", "--exports")["adds_up"] is True


def test_a_rehearsal_changes_nothing(cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """--dry-run names what would be closed; --before leaves younger days alone."""
    entries = three_jobs(state, darkroom, worker)
    found = cli.json("ledger", "close", "--dry-run")
    assert [(each["day"], each["entries"]) for each in found["closed"]] == [
        (entries[0].day.isoformat(), 3), (entries[3].day.isoformat(), 2),
    ]  # fmt: skip
    assert stream(state) == entries
    assert not (cli.folder / "artifacts" / "ledger").exists()
    one = cli.json("ledger", "close", "--before", entries[3].day.isoformat())
    assert [each["day"] for each in one["closed"]] == [entries[0].day.isoformat()]
    assert one["stream_since"] == entries[3].day.isoformat()


def test_young_days_stay(cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """Neither today nor a day that has not rested is closed, whoever asks, and the script looks at its own clock."""
    darkroom.enqueue(FOX)
    worker.fail(worker.claim()[0])
    aged(state, 1)
    none = cli.run("ledger", "close")
    assert (none.returncode, "nothing to close" in none.stdout) == (0, True)
    refused = cli.run("ledger", "close", "--before", today(state).isoformat())
    assert (refused.returncode, f"{REST_H} h after its end" in refused.stderr) == (2, True)
    first, last = entries = stream(state)
    asked = (
        state.keys.prefix,
        last.day.isoformat(),
        2**52,
        first.id,
        last.id,
        last.id + "9",
        b"{}",
        "me",
        "",
    )
    assert run(state.client, "close_day", *asked) == -1
    assert run(state.client, "close_day", *asked[:2], 0, last.id, *asked[4:]) == -2
    assert stream(state) == entries


@pytest.fixture
def close_here(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`ledger close` in this process, so that a test may change what it is made of."""
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(cli.folder)
    return close


def test_a_large_day_is_closed_in_parts(
    cli: Cli,
    darkroom: Darkroom,
    worker: FakeWorker,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    close_here: Callable[[], None],
) -> None:
    """Each part is a file and an opening balance of its own; the books are the same at every step."""
    entries = three_jobs(state, darkroom, worker)
    before = cli.json("spend", "--by", "tenant,day")
    monkeypatch.setattr("producers.reports.closing.PART_ENTRIES", 2)
    close_here()
    assert [(day.day, day.part, day.entries) for day in read_closed(state.client, state.keys)] == [
        (entries[0].day, 1, 2), (entries[0].day, 2, 1), (entries[3].day, 1, 2),
    ]  # fmt: skip
    assert cli.json("ledger", "verify", "--exports")["adds_up"] is True
    assert cli.json("spend", "--by", "tenant,day") == before | {"closed_days": 2}


def test_a_stream_that_changed_after_the_export_is_exported_again(
    cli: Cli,
    darkroom: Darkroom,
    worker: FakeWorker,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    close_here: Callable[[], None],
) -> None:
    """Somebody removes the first entry by hand in between: that file closes nothing, the next one does."""
    entries = three_jobs(state, darkroom, worker)
    removed = list[str]()

    def meddled(*args: Any) -> Any:
        if not removed:
            removed.append(entries[0].id)
            state.client.xdel(state.keys.ledger, entries[0].id)
        return run(*args)

    monkeypatch.setattr("producers.reports.closing.run", meddled)
    close_here()
    assert [day.entries for day in read_closed(state.client, state.keys)] == [2, 2]
    assert len(files(cli)) == 3


def test_without_a_store_that_lasts_nothing_is_closed(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Storage off or in memory: one sentence, exit code 2, and the stream as it was."""
    entries = three_jobs(state, darkroom, worker)
    for url in ("off", "memory://"):
        done = cli.run("ledger", "close", DARKROOM_STORAGE=f'{{"url": "{url}"}}')
        assert (done.returncode, "there is none that lasts" in done.stderr) == (2, True), done.stderr
    assert stream(state) == entries
    wrong = cli.run("ledger", "close", "--before", "soon")
    assert (wrong.returncode, "takes a day such as" in wrong.stderr) == (2, True)
    assert today(state) - entries[0].day >= timedelta(days=39)


def test_a_ledger_that_nobody_closes_is_told(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """By the doctor as a warning with the command, and by the exporter as an age; both are content after a close."""
    three_jobs(state, darkroom, worker)

    def told() -> list[tuple[str, str]]:
        findings = cli.json("doctor", "--producer")["findings"]
        return [(each["level"], each["do"]) for each in findings if "the ledger has" in each["what"]]

    def age_days() -> float:
        registry = CollectorRegistry()
        registry.register(StoreCollector(state.client, state.settings))
        assert registry.get_sample_value("darkroom_ledger_entries") == len(stream(state))
        return (registry.get_sample_value("darkroom_ledger_oldest_seconds") or 0) / 86_400

    ((level, do),) = told()
    assert (level, "darkroom ledger close" in do) == ("warning", True)
    assert 40 <= age_days() < 41
    cli.run("ledger", "close")
    assert told() == [("ok", "")]
    assert age_days() < 1
