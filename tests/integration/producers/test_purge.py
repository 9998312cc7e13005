"""`darkroom purge`: what is deleted, what is refused, and what stays."""

from __future__ import annotations

import dataclasses
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_json

from producers import Darkroom
from producers.purges import purge
from producers.selection import Selection
from producers.webhooks import job_deliveries, new_secret
from shared.jobs.lifecycle import DeliveryState
from shared.jobs.schema import SCHEMA
from shared.jobs.transition import Change
from shared.money.ledger import verify
from shared.settings import StorageSettings
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import DARKROOM, Cli
from tests.integration.producers.test_dead import end_delivery
from tests.integration.producers.test_webhook_commands import HOOK, settings_for
from tests.servers import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker


@pytest.fixture
def stored(state: State, tmp_path: Path) -> State:
    """The state, with webhooks and an object store of the test's own."""
    more = {
        "webhooks": settings_for(tmp_path, new_secret()),
        "storage": StorageSettings(url=f"file://{tmp_path / 'objects'}"),
    }
    return dataclasses.replace(state, settings=state.settings.model_copy(update=more))


@pytest.fixture
def told(stored: State) -> Iterator[Darkroom]:
    """A client whose jobs may have webhooks."""
    with Darkroom(stored.settings) as client:
        yield client


@pytest.fixture
def cli(stored: State, tmp_path: Path) -> Cli:
    """The command with the test's settings."""
    return Cli(tmp_path, environment(stored.settings))


def keys_with(state: State, word: str) -> list[str]:
    names: Any = state.client.scan_iter(f"{state.keys.prefix}*{word}*", count=1000)
    owner = state.keys.generation("")  # stays: no other job may ever take the same generation
    return sorted(name.decode() for name in names if not name.decode().startswith(owner))


def completed(state: State, told: Darkroom, worker: FakeWorker, **options: Any) -> str:
    """Give a completed job whose event was delivered."""
    job_id = told.enqueue(FOX, webhook=HOOK, **options).job_id
    assert worker.claim() == [job_id]
    worker.intend(job_id)
    worker.accept(job_id, f"task-{job_id}")
    worker.deliver(job_id)
    worker.complete(job_id)
    (delivery,) = job_deliveries(state.settings, job_id)
    end_delivery(state, delivery.event_id, DeliveryState.DELIVERED, "200")
    return job_id


def store_image(state: State, folder: Path, job_id: str) -> Path:
    """Put an image where the job's record says it is."""
    key = f"{state.settings.tenant}/{job_id}/0.png"
    path = folder / "objects" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    artifact = {"index": 0, "media_type": "image/png", "object_key": key, "size_bytes": 5}
    state.client.hset(state.keys.detail(job_id), "artifacts", to_json([artifact]).decode())
    state.client.pexpire(state.keys.detail(job_id), 600_000)
    return path


def test_all_that_is_kept_of_a_job_goes_and_the_ledger_stays(
    cli: Cli, stored: State, told: Darkroom, worker: FakeWorker, tmp_path: Path
) -> None:
    """Record, request, detail, history, key and delivery; its idempotency key is free again; images stay by default."""
    job_id = completed(stored, told, worker, idempotency_key="fox", batch="b")
    image = store_image(stored, tmp_path, job_id)
    entries = stored.client.xlen(stored.keys.ledger)
    assert len(keys_with(stored, job_id.removeprefix("job_"))) == 5  # with the delivery
    dry = cli.json("purge", job_id, "--dry-run")
    assert (dry["purged"], dry["record_bytes"] > 500, dry["objects"]) == (1, True, 0)
    assert told.get(job_id).state == "completed"
    done = cli.run("purge", job_id, "--yes", "--as", "anna", "--why", "asked to")
    assert (done.returncode, done.stdout) == (0, "1 jobs purged, 0 refused.\n")
    assert keys_with(stored, job_id.removeprefix("job_")) == []
    assert image.exists()
    assert told.enqueue(FOX, idempotency_key="fox").disposition == "enqueued"
    assert stored.client.xlen(stored.keys.ledger) == entries
    assert verify(stored.client, stored.keys).adds_up
    assert told.batch("b").counts["completed"] == 1
    told_of = [(entry.who, entry.what, entry.on, entry.jobs, entry.why) for entry in told.audit()]
    assert told_of == [("anna", "purge", f"jobs: {job_id}", 1, "asked to")]


def test_images_go_with_the_word(
    cli: Cli, stored: State, told: Darkroom, worker: FakeWorker, tmp_path: Path
) -> None:
    """Only what lies under the job's own folder, whatever its record says; a dry run counts it."""
    job_id = completed(stored, told, worker)
    image = store_image(stored, tmp_path, job_id)
    other = tmp_path / "objects" / "other.png"
    other.write_bytes(b"not ours")
    artifacts = [
        {"index": 0, "media_type": "image/png", "object_key": f"{stored.settings.tenant}/{job_id}/0.png", "size_bytes": 5},
        {"index": 1, "media_type": "image/png", "object_key": "other.png", "size_bytes": 8},
    ]  # fmt: skip
    stored.client.hset(stored.keys.detail(job_id), "artifacts", to_json(artifacts).decode())
    dry = cli.run("purge", job_id, "--artifacts", "--dry-run").stdout
    assert dry.startswith("1 jobs (")
    assert "and 1 images (5 B) would be purged, 0 refused." in dry
    assert image.exists()
    done = cli.json("purge", job_id, "--artifacts", "--yes")
    assert (done["purged"], done["objects"], done["object_bytes"]) == (1, 1, 5)
    assert (image.exists(), other.exists()) == (False, True)


def test_a_job_stays_if_the_store_does_not_delete(
    stored: State, told: Darkroom, worker: FakeWorker, tmp_path: Path
) -> None:
    """Else nobody would know of its images any more; the reason is told."""
    job_id = completed(stored, told, worker)
    image = store_image(stored, tmp_path, job_id)
    image.unlink()
    image.mkdir()  # what is there cannot be deleted as an object
    (image / "in the way").touch()
    report = purge(stored.settings, Selection(ids=(job_id,)), by="anna", artifacts=True)
    assert (report.done, dict(report.outcomes)["objects_stay"]) == (0, 1)
    assert "object store: delete failed" in report.trouble
    assert told.get(job_id).state == "completed"
    assert told.audit() == []


def test_what_is_not_at_an_end_is_refused(
    cli: Cli, stored: State, told: Darkroom, worker: FakeWorker
) -> None:
    """Queued, unknown, an open bill, a hold, an event on its way, no record: each with its reason; nothing is touched."""
    unknown, accounting, held, later, refused = (told.enqueue(FOX).job_id for _ in range(5))
    assert worker.make_unknown() == unknown
    assert worker.claim() == [accounting]
    worker.intend(accounting)
    told.cancel(accounting)
    assert worker.claim(3) == [held, later, refused]
    for job_id in (held, later, refused):
        worker.fail(job_id)
    stored.client.hset(stored.keys.job(later), "v", SCHEMA + 1)
    stored.client.hset(stored.keys.job(held), "hold", 5)
    delivering = told.enqueue(FOX, webhook=HOOK).job_id
    told.cancel(delivering)
    queued = told.enqueue(FOX).job_id
    ids = (unknown, accounting, held, later, delivering, queued, "job_none")
    done = cli.json("purge", *ids, refused, "--yes", code=1)
    assert {each["job_id"]: each["outcome"] for each in done["jobs"]} == {
        unknown: "unknown", accounting: "open", held: "held", later: "newer", delivering: "delivering", queued: "not_ended",
        "job_none": "missing", refused: "purged",
    }  # fmt: skip
    assert [stored.client.exists(stored.keys.job(job_id)) for job_id in ids] == [1] * 6 + [0]
    shown = cli.run("purge", queued, "--yes")
    assert shown.stdout == "0 jobs purged, 1 refused.\n1 refused: it has not ended\n"
    assert f"{queued}: it has not ended" in shown.stderr


def test_an_idempotency_key_that_another_job_has_stays(
    stored: State, told: Darkroom, worker: FakeWorker
) -> None:
    """It stands for that job by now."""
    job_id = completed(stored, told, worker, idempotency_key="fox")
    digest = stored.client.hget(stored.keys.job(job_id), "idempotency")
    assert isinstance(digest, bytes)
    key = stored.keys.idempotency(stored.settings.tenant, digest.decode())
    stored.client.set(key, "job_other:fp", px=60_000)
    assert purge(stored.settings, Selection(ids=(job_id,)), by="anna").done == 1
    assert stored.client.get(key) == b"job_other:fp"


@pytest.mark.parametrize("typed", ["2", "1"])
def test_the_count_is_typed(typed: str, cli: Cli, stored: State, told: Darkroom, worker: FakeWorker) -> None:
    """What cannot be taken back is asked for; without a terminal --yes is needed; nothing to purge asks nothing."""
    ids = [completed(stored, told, worker) for _ in range(2)]
    silent = cli.run("purge", "--state", "completed")
    assert silent.returncode == 2
    assert "This deletes 2 jobs (" in silent.stderr
    ours, theirs = pty.openpty()
    command = [DARKROOM, "purge", "--state", "completed", "--age-of", "ended", "--newer-than", "1h"]
    process = subprocess.Popen(
        command, cwd=cli.folder, env={**os.environ, **cli.env}, stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        os.write(ours, f"{typed}\n".encode())
        _, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Type 2 to go on" in err
    assert process.returncode == (0 if typed == "2" else 1)
    assert [job is None for job in told.get_many(ids)] == [typed == "2"] * 2
    assert cli.run("purge", "--state", "failed").stdout == "0 jobs purged, 0 refused.\n"
    assert cli.run("purge").returncode == 2


@pytest.mark.parametrize(("given_up_by", "code"), [("Ctrl-C", 130), ("Ctrl-D", 1)])
def test_a_question_may_be_given_up(
    given_up_by: str, code: int, cli: Cli, stored: State, told: Darkroom, worker: FakeWorker
) -> None:
    """It is an answer, not a fault: nothing is changed, and that is said."""
    job_id = completed(stored, told, worker)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [DARKROOM, "purge", job_id], cwd=cli.folder, env={**os.environ, **cli.env}, stdin=theirs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        asked = b""
        while b"to go on" not in asked:
            asked += os.read(process.stderr.fileno(), 4096) or pytest.fail(asked.decode())
        if given_up_by == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, b"\x04")
        out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, out) == (code, b"")
    assert err.decode().split("\n")[1:] == ["nothing was changed", ""]
    assert told.get(job_id).id == job_id


def test_a_purged_job_is_gone_for_a_redrive_and_its_late_entries(
    cli: Cli, stored: State, told: Darkroom, worker: FakeWorker
) -> None:
    """It leaves no index entry behind that somebody would trip over."""
    job_id = told.enqueue(FOX).job_id
    worker.claim()
    worker.change(
        job_id, Change(before=told.get(job_id).state, after=told.get(job_id).state, due_in=(("told", 0),))
    )
    worker.fail(job_id)
    assert purge(stored.settings, Selection(ids=(job_id,)), by="anna").done == 1
    assert stored.client.zscore(stored.keys.index("told"), job_id) is None
    assert cli.json("redrive", job_id, code=1)["jobs"][0]["outcome"] == "missing"
