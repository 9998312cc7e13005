"""`darkroom reconcile` on the sandbox's own ledger: the one that knows what was really charged."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.producers.test_cli import Cli
from tests.servers import environment

if TYPE_CHECKING:
    from producers import Job
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)
COLUMNS = (
    "--column", "generation=task_id", "--column", "at=created_at", "--column", "images=charged_images",
    "--column", "micros=charged_micros",
)  # fmt: skip


def export(house: House) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = house.provider.get("/ledger/tasks")["tasks"]
    return rows


def write(cli: Cli, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Make a file of rows; give the command that reads it."""
    name = cli.write("bill.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return ("reconcile", name, *COLUMNS)


def by_marker(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["marker"]: row for row in rows}


def enqueue_unknown(house: House, marker: str, fault: str) -> str:
    request = {"model": "wan2.7-image", "prompt": f"[[m:{marker}]] [[fault:{fault}]]", "size": "1K"}
    return house.darkroom.enqueue(request).job_id


def test_a_bill_is_compared_with_jobs_ledger_and_store(house: House) -> None:
    """A true bill agrees. Every kind of lie planted in it is found, and each unknown job's generation is named."""
    cli = Cli(house.folder, environment(house.settings))
    house.worker()
    house.enqueue(8)
    house.until(lambda: house.counts() == {"completed": 8}, 60, "8 completed")
    true = cli.run(*write(cli, export(house)))
    assert (true.returncode, true.stderr) == (0, "")
    assert "8 rows: 8 agree, 0 findings. Both sides agree." in true.stdout
    assert ["wan2.7-image", "8", "8", "1.60", "8", "1.60"] in [
        line.split()[1:] for line in true.stdout.splitlines()
    ]

    lost = [enqueue_unknown(house, f"lost-{at}", "lost_answer") for at in range(2)]
    never = enqueue_unknown(house, "never", "lost_answer;accept=0")
    house.until(lambda: len(house.darkroom.unknown()) == 3, 60, "3 unknown outcomes")
    house.until(
        lambda: all(row["status"] == "completed" for row in export(house)),
        30,
        "the provider is done with all",
    )
    rows = export(house)
    of = by_marker(rows)
    jobs = {job.generation_id: job for job in jobs_of(house)}
    first, twin, unbilled, vanished, dearer = (of[f"b-{at}"] for at in range(5))
    (house.folder / "artifacts" / str(jobs[vanished["task_id"]].artifacts[0].object_key)).unlink()
    lies = [row for row in rows if row is not unbilled]
    lies[lies.index(dearer)] = dearer | {"charged_micros": 300_000}
    lies += [first, twin | {"task_id": "task_of_nobody"}]
    lies.append(
        {"task_id": "task_free", "status": "failed", "created_at": time.time() + 3600, "charged_images": 0}
    )
    found = cli.json(*write(cli, lies), code=1)["findings"]
    told = {(each["table"], each["job"] or each["generation"]): each for each in found}

    def job_of(row: dict[str, Any]) -> str:
        return jobs[row["task_id"]].id

    assert set(told) == {
        ("paid_not_delivered", job_of(vanished)),
        ("delivered_not_billed", job_of(unbilled)),
        ("double_submits", job_of(first)),
        ("double_submits", job_of(twin)),
        ("amounts_differ", job_of(dearer)),
        *(("unknowns", job_id) for job_id in (*lost, never)),
    }
    for at, job_id in enumerate(lost):
        guess = told["unknowns", job_id]
        task_id = of[f"lost-{at}"]["task_id"]
        assert (guess["likelihood"], guess["generation"], guess["ours"]) == ("high", task_id, "0.20")
        assert guess["command"] == f"darkroom unknown resolve {job_id} --generation-id {task_id}"
    assert told["unknowns", never]["command"] == f"darkroom unknown release {never}"
    assert "objects are not in the store" in told["paid_not_delivered", job_of(vanished)]["why"]
    table = cli.run(*write(cli, lies))
    assert table.returncode == 1
    assert "unknown outcomes: 3" in table.stdout
    rows_of_csv = list(csv.DictReader(io.StringIO(cli.run(*write(cli, lies), "--csv").stdout)))
    assert [each["table"] for each in rows_of_csv] == [each["table"] for each in found]
    assert len(house.darkroom.unknown()) == 3, "reconciling changed something"


def test_a_bill_is_compared_when_records_are_gone(house: House) -> None:
    """After retention the ledger has the cost and the object store the images: what differs is found all the same."""
    cli = Cli(house.folder, environment(house.settings))
    house.worker()
    house.enqueue(3)
    house.until(lambda: house.counts() == {"completed": 3}, 60, "3 completed")
    jobs = {job.generation_id: job for job in jobs_of(house)}
    client = house.state.client()
    for job in jobs.values():
        client.delete(*(f"{{darkroom}}:{kind}:{job.id}" for kind in "jrxt"))
    rows = export(house)
    assert cli.run(*write(cli, rows)).returncode == 0
    vanished, dearer, unbilled = rows
    folder = house.folder / "artifacts"
    (folder / str(jobs[vanished["task_id"]].artifacts[0].object_key)).unlink()
    lies = [vanished, dearer | {"charged_micros": 300_000}, unbilled | {"charged_micros": 0}]
    found = cli.json(*write(cli, lies), code=1)["findings"]
    assert sorted((each["table"], each["job"]) for each in found) == sorted(
        [
            ("amounts_differ", jobs[dearer["task_id"]].id),
            ("amounts_differ", jobs[unbilled["task_id"]].id),
            ("delivered_not_billed", jobs[unbilled["task_id"]].id),
            ("paid_not_delivered", jobs[vanished["task_id"]].id),
        ]
    )


def jobs_of(house: House) -> list[Job]:
    ids: Any = house.state.client().lrange("{darkroom}:bj:default:b", 0, -1)
    return [house.darkroom.get(job_id.decode()) for job_id in ids]
