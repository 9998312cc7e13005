"""`darkroom ledger` and `darkroom spend` on real entries: of the stream, and of days that were closed and exported."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from producers.reports.exports import write_export
from shared.money import ledger
from shared.money.entry import Entry, parse_line
from tests.integration.producers.conftest import FOX, FakeWorker
from tests.integration.producers.test_cli import Cli
from tests.servers import environment

if TYPE_CHECKING:
    from pathlib import Path

    from producers import Darkroom
    from tests.conftest import State

PRICE = 200_000


@pytest.fixture
def cli(state: State, tmp_path: Path) -> Cli:
    """The command with the test's settings, and a store of its own."""
    storage = state.settings.storage.model_copy(update={"url": f"file://{tmp_path / 'artifacts'}"})
    settings = state.settings.model_copy(update={"storage": storage})
    return Cli(tmp_path, environment(settings))


def busy(darkroom: Darkroom, worker: FakeWorker) -> dict[str, str]:
    """Two billed jobs of two tenants, one refused, one unknown, one under way."""
    ids = {
        name: darkroom.enqueue(FOX, tenant=tenant, batch=batch).job_id
        for name, tenant, batch in (
            ("billed", "acme", "b1"), ("zoo", "zoo", None), ("refused", "acme", "b1"), ("unknown", "acme", "b2"),
            ("running", "acme", "b2"),
        )
    }  # fmt: skip
    assert set(worker.claim(5)) == set(ids.values())
    worker.fail(ids["refused"])
    for name in ("billed", "zoo", "unknown", "running"):
        worker.intend(ids[name])
    worker.lose_answer(ids["unknown"])
    for name in ("billed", "zoo", "running"):
        worker.accept(ids[name], f"task_{ids[name]}")
    worker.deliver(ids["billed"])
    worker.deliver(ids["zoo"])
    return ids


def close_day(state: State, folder: Path, entries: list[Entry]) -> Path:
    """Note entries as a closed day and write its export, but leave the stream as it is; give the file."""
    export = write_export(entries[0].day, 1, entries, folder / "export")
    assert export is not None
    file = folder / "artifacts" / export.day.key
    file.parent.mkdir(parents=True, exist_ok=True)
    export.path.rename(file)
    for account, micros in export.sums.items():
        state.client.hincrby(state.keys.opening, account, micros)
    state.client.hset(state.keys.closed, export.day.name, export.day.note())
    return file


def stream(state: State) -> list[Entry]:
    return list(ledger.read_entries(state.client, state.keys, page=2))


# --- verify ---


def test_verify_says_that_the_books_add_up(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A table per currency and kind, and one sentence; exit code 0, also for an empty ledger."""
    empty = cli.run("ledger", "verify")
    assert (empty.returncode, "The books add up." in empty.stdout) == (0, True)
    busy(darkroom, worker)
    done = cli.run("ledger", "verify")
    assert done.returncode == 0, done.stderr
    assert "The books add up." in done.stdout
    assert "2 holds are open" in done.stdout
    spent = next(line for line in done.stdout.splitlines() if line.startswith("spent"))
    assert spent.split() == ["spent", "¥0.00", "¥0.40", "¥0.40", "-"]


def test_verify_finds_a_balance_that_was_touched(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Exit code 1, the account named with both amounts, in words and in JSON."""
    busy(darkroom, worker)
    state.client.hincrby(state.keys.balances, "CNY|spent:zoo", 7)
    done = cli.run("ledger", "verify")
    assert done.returncode == 1
    assert "CNY|spent:zoo: opening and entries make ¥0.20, the balance says ¥0.200007" in done.stdout
    assert "CNY: all balances sum to ¥0.000007" in done.stdout
    found = cli.json("ledger", "verify", code=1)
    assert [each["rule"] for each in found["differences"]] == ["balance", "sum"]
    assert found["adds_up"] is False


def test_verify_finds_an_entry_that_was_lost_or_written_twice(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """A posting without its balance, and a hold resolved twice with balances that agree."""
    busy(darkroom, worker)
    settle = next(each for each in stream(state) if each.kind == "settle")
    fields: Any = {name: getattr(settle, name) for name in Entry.__dataclass_fields__ if name != "id"}
    state.client.xadd(state.keys.ledger, fields)
    state.client.hincrby(state.keys.balances, f"CNY|{settle.debit}", -settle.micros)
    state.client.hincrby(state.keys.balances, f"CNY|{settle.credit}", settle.micros)
    found = cli.json("ledger", "verify", code=1)
    assert [(each["rule"], each["about"]) for each in found["differences"]] == [
        ("resolved_twice", settle.job)
    ]
    state.client.xdel(state.keys.ledger, settle.id)
    found = cli.json("ledger", "verify", code=1)
    assert {each["rule"] for each in found["differences"]} == {"balance"}


def test_verify_reads_in_pages_and_needs_no_record(
    darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """A page of one entry finds the same; jobs whose record is gone are fine."""
    ids = busy(darkroom, worker)
    for job_id in (ids["billed"], ids["zoo"]):
        parts = (state.keys.job, state.keys.spec, state.keys.detail, state.keys.timeline)
        state.client.delete(*(part(job_id) for part in parts))
    whole, paged = (ledger.verify(state.client, state.keys, page=page) for page in (1000, 1))
    assert whole.adds_up
    assert replace(paged, at_ms=0) == replace(whole, at_ms=0)
    assert whole.entries == 8


def test_verify_counts_closed_days_as_opening_balances(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Entries out of the stream and in the opening balances: it adds up; only one of the two, it does not."""
    busy(darkroom, worker)
    first, *_ = entries = stream(state)
    state.client.xdel(state.keys.ledger, first.id)
    assert cli.json("ledger", "verify", code=1)["differences"]
    close_day(state, cli.folder, [first])
    found = cli.json("ledger", "verify")
    assert found["adds_up"] is True
    assert found["entries"] == len(entries) - 1


def test_verify_does_not_judge_what_is_written_meanwhile(
    darkroom: Darkroom, worker: FakeWorker, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries after the balances were read belong to the next verification."""
    busy(darkroom, worker)
    later = darkroom.enqueue(FOX).job_id
    read = ledger.read_books

    def then_claim(*args: Any) -> ledger.Books:
        books = read(*args)
        assert worker.claim() == [later]
        return books

    monkeypatch.setattr(ledger, "read_books", then_claim)
    assert ledger.verify(state.client, state.keys).adds_up


def test_verify_begins_again_when_a_day_closes_meanwhile(
    darkroom: Darkroom, worker: FakeWorker, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that leave the stream while it is read are not missed: they are opening balances the second time."""
    busy(darkroom, worker)
    first = stream(state)[0]
    read, times = ledger.read_books, list[int]()

    def then_close(*args: Any) -> ledger.Books:
        books = read(*args)
        times.append(1)
        if len(times) == 1:
            state.client.xdel(state.keys.ledger, first.id)
            close_day(state, tmp_path, [first])
        return books

    monkeypatch.setattr(ledger, "read_books", then_close)
    assert ledger.verify(state.client, state.keys).adds_up
    assert len(times) == 2


# --- spend ---


def test_spend_by_tenant_is_a_table(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Spent, held and in doubt, exact and with the currency; unknown jobs keep their hold."""
    nothing = cli.run("spend")
    assert nothing.stdout == "nothing was spent, and nothing is held\n"
    busy(darkroom, worker)
    done = cli.run("spend")
    assert [line.split() for line in done.stdout.splitlines() if line] == [
        ["tenant", "jobs", "spent", "held", "in", "doubt"],
        ["acme", "1", "¥0.20", "¥0.40", "¥0.00"],
        ["zoo", "1", "¥0.20", "¥0.00", "¥0.00"],
        ["in", "all", "2", "¥0.40", "¥0.40", "¥0.00"],
    ]


def test_spend_as_csv_and_json(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Decimals as text, never floats; one tenant, several dimensions."""
    busy(darkroom, worker)
    done = cli.run("spend", "--by", "batch,model", "--tenant", "acme", "--csv")
    assert list(csv.DictReader(io.StringIO(done.stdout))) == [
        {"batch": "b1", "model": "wan2.7-image", "currency": "CNY", "jobs": "1", "spent": "0.20", "held": "0.00",
         "in_doubt": "0.00"},
        {"batch": "b2", "model": "wan2.7-image", "currency": "CNY", "jobs": "0", "spent": "0.00", "held": "0.40",
         "in_doubt": "0.00"},
    ]  # fmt: skip
    found = cli.json("spend", "--by", "day", "--since", "1h")
    assert [(row["spent"], row["held_micros"]) for row in found["rows"]] == [("0.40", 2 * PRICE)]
    assert found["totals"][0]["jobs"] == 2
    assert cli.json("spend", "--until", "1h")["rows"] == []


def test_spend_reads_closed_days_and_counts_nothing_twice(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Days of the object store come first; a file that no closed day names is none of the books."""
    busy(darkroom, worker)
    before = cli.json("spend", "--by", "tenant,day")
    entries = stream(state)
    stray = cli.folder / "artifacts" / "ledger" / "2020-01-01.jsonl.gz"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"what a close left that was killed")
    assert cli.json("spend", "--by", "tenant,day") == before
    close_day(state, cli.folder, entries)
    for each in entries:
        state.client.xdel(state.keys.ledger, each.id)
    assert cli.json("spend", "--by", "tenant,day") == before | {"closed_days": 1}
    assert cli.json("ledger", "verify")["adds_up"] is True
    exported = [parse_line(line.encode()) for line in cli.run("ledger", "export").stdout.splitlines()]
    assert exported == entries
    last_year = cli.json("spend", "--until", "2020-01-01")
    assert (last_year["closed_days"], last_year["rows"]) == (0, [])


def test_spend_says_when_closed_days_cannot_be_read(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Storage off: a remark on stderr. A file that is damaged or gone: an error that names it, exit code 1."""
    busy(darkroom, worker)
    entries = stream(state)
    file = close_day(state, cli.folder, entries)
    state.client.xtrim(state.keys.ledger, maxlen=0, approximate=False)
    off = cli.run("spend", DARKROOM_STORAGE=json.dumps({"url": "off"}))
    assert (off.returncode, "storage is off" in off.stderr) == (0, True)
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole + whole, b"no gzip", gzip.compress(b'{"id": 7}\n')):
        file.write_bytes(damaged)
        broken = cli.run("spend")
        assert broken.returncode == 1
        assert f"the export of the closed day {entries[0].day} is damaged" in broken.stderr
    file.write_bytes(gzip.compress(gzip.decompress(whole).replace(b'"acme"', b'"acne"')))
    assert "not those that its name says" in cli.run("spend").stderr
    file.unlink()
    assert (cli.run("spend").returncode, cli.run("ledger", "verify").returncode) == (1, 0)
    assert cli.run("ledger", "verify", "--exports").returncode == 1


def test_export_prints_entries_as_csv(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """One row per entry, oldest first; a tenant's alone if asked."""
    busy(darkroom, worker)
    rows = list(csv.DictReader(io.StringIO(cli.run("ledger", "export", "--csv", "--tenant", "zoo").stdout)))
    assert [(row["kind"], row["amount"], row["debit"], row["credit"]) for row in rows] == [
        ("hold", "0.20", "budget:zoo", "held:zoo"), ("settle", "0.20", "held:zoo", "spent:zoo"),
    ]  # fmt: skip


def test_wrong_options_are_told_in_one_line(cli: Cli) -> None:
    """Exit code 2, and what the option takes."""
    for args, says in (
        (("spend", "--by", "colour"), "--by takes some of"),
        (("spend", "--since", "soon"), "--since must be a day"),
        (("spend", "--csv", "--json"), "not both"),
    ):
        done = cli.run(*args)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
