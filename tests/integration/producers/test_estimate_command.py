"""`darkroom estimate` on real files and a real backlog."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.producers.conftest import FOX, LANE
from tests.integration.producers.test_cli import LINES, Cli, cli

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

__all__ = ["cli"]


def dump(state: State) -> dict[bytes, bytes | None]:
    """Give every key of the test's databases with its whole content."""
    found: dict[bytes, bytes | None] = {}
    for database in (0, 1):
        with state.server.client(database) as client:
            for key in client.scan_iter(match=f"*{state.namespace}*", count=1000):
                found[key] = client.dump(key)
    return found


def test_an_estimate_changes_nothing(cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """Every key is as it was before, byte for byte, and no file is left behind."""
    darkroom.enqueue_many([FOX] * 3, batch="foxes")
    worker.make_unknown()
    name = cli.write("foxes.jsonl", LINES)
    before = dump(state)
    assert before
    done = cli.run("estimate", name)
    assert done.returncode == 1
    assert dump(state) == before
    assert [path.name for path in cli.folder.iterdir()] == [name]


def test_tables_and_a_last_line(cli: Cli, state: State) -> None:
    """Prices per model and size, calls and time per model, rejected lines on stderr; exit code 1 if there are any."""
    done = cli.run("estimate", cli.write("foxes.jsonl", LINES))
    assert done.returncode == 1
    assert "line 2: n: must be from 1 to 4" in done.stderr
    assert "2 jobs, 2 images, 3 rejected: at most ¥0.40, done in about" in done.stdout
    assert done.stdout.endswith("Nothing was enqueued.\n")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["wan2.7-image", "2K", "1", "1", "at", "most", "¥0.20"] in rows
    assert ["wan2.7-image", "default", "1", "1", "at", "most", "¥0.20"] in rows
    assert "is assumed, not measured" in done.stdout
    assert not state.client.exists(state.keys.counts)


def test_options_and_formats_are_those_of_enqueue(cli: Cli) -> None:
    """Columns by name, defaults by option, stdin."""
    found = cli.json(
        "estimate", cli.write("foxes.tsv", "Text\tn\nred fox\t2\nblue fox\t\n"), "--prompt-column", "Text",
        "--model", "wan2.7-image-pro", "--n", "3", "--size", "2K",
    )  # fmt: skip
    assert (found["jobs"], found["images"], found["rejected"]) == (2, 5, 0)
    assert found["prices"] == [{"currency": "CNY", "least_micros": 2_500_000, "most_micros": 2_500_000}]
    assert [(line["model"], line["size"]) for line in found["lines"]] == [("wan2.7-image-pro", "2K")]
    piped = cli.run("estimate", "-", "--format", "csv", stdin='prompt,size\n"a fox, red",1K\n')
    assert piped.returncode == 0, piped.stderr
    assert "1 jobs, 1 images, 0 rejected" in piped.stdout


def test_the_backlog_and_blocked_lanes_are_seen(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Jobs queued before take their time first, also those that wait; a blocked lane takes none, and says why."""
    darkroom.enqueue_many([FOX] * 51, tenant="zoo")
    darkroom.enqueue_many([FOX] * 2, not_before="1h")
    worker.claim()
    name = cli.write("one.jsonl", '{"prompt": "a fox"}\n')
    (model,) = cli.json("estimate", name)["models"]
    assert (model["backlog"], model["limited_by"]) == (
        52,
        "default: poll_per_s",
    )  # 20 queries/s, some 7 a job
    assert model["duration_s"] > 52 / model["per_s"]
    state.client.hset(state.keys.lane(LANE), "blocked", "invalid_api_key")
    done = cli.run("estimate", name)
    assert done.returncode == 0, done.stderr
    assert f"! {LANE} takes no jobs now: invalid_api_key" in done.stdout
    assert "not done while a lane is blocked" in done.stdout


def test_time_is_measured_when_there_is_enough_to_measure(
    cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State
) -> None:
    """Generations billed lately say how long the next will take."""
    darkroom.enqueue_many([FOX] * 20)
    for job_id in worker.claim(20):
        worker.intend(job_id)
        worker.accept(job_id, f"task_{job_id}")
        worker.deliver(job_id)
        state.client.hset(state.keys.job(job_id), mapping={"submitted_at": 10_000, "generated_at": 16_000})
    (model,) = cli.json("estimate", cli.write("one.jsonl", '{"prompt": "a fox"}\n'))["models"]
    assert (model["measured"], model["latency_s"], model["polls"]) == (True, 6.0, 2)


def test_an_empty_file_and_a_missing_one(cli: Cli) -> None:
    """Nothing to estimate is said; a path that is wrong too."""
    empty = cli.run("estimate", cli.write("none.jsonl", ""))
    assert (empty.returncode, empty.stdout) == (0, "No valid requests, 0 rejected. Nothing was enqueued.\n")
    missing = cli.run("estimate", "nowhere.jsonl")
    assert (missing.returncode, "cannot read nowhere.jsonl" in missing.stderr) == (2, True)


def test_headroom_under_caps_is_told(cli: Cli, darkroom: Darkroom, worker: FakeWorker, state: State) -> None:
    """Per cap that covers the jobs: limit, used, queued, left and asked; what does not fit is said, with its fate."""
    darkroom.enqueue_many([FOX] * 3, tenant="acme")
    worker.claim(2)
    rows = [
        {"scope": "tenant:acme", "window": "day", "limit": "1.00"},
        {"scope": "tenant:*", "window": "day", "limit": "0.01"},
        {"scope": "tenant:*", "window": "total", "limit": "9.00", "over_cap": "reject"},
        {"scope": "account:default", "window": "month", "limit": "5.00"},
        {"scope": "tenant:zoo", "window": "day", "limit": "1.00"},
    ]
    name = cli.write("two.jsonl", '{"prompt": "a fox"}\n{"prompt": "a fox", "n": 2}\n')
    env = {"DARKROOM_CAPS": json.dumps(rows)}
    found = json.loads(cli.run("estimate", name, "--tenant", "acme", "--json", **env).stdout)
    assert [
        (
            cap["scope"],
            cap["window"],
            cap["used_micros"],
            cap["queued_micros"],
            cap["left_micros"],
            cap["fits"],
        )
        for cap in found["caps"]
    ] == [
        ("tenant:acme", "day", 400_000, 200_000, 400_000, False),
        ("tenant:acme", "total", 400_000, 200_000, 8_400_000, True),
        ("account:default", "month", 400_000, 0, 4_600_000, True),
    ]
    assert {cap["asked_micros"] for cap in found["caps"]} == {600_000}
    shown = cli.run("estimate", name, "--tenant", "acme", **env).stdout
    assert (
        "! tenant:acme, a day: ¥0.40 are left for at most ¥0.60; jobs over it wait until there is room"
        in shown
    )
    assert "cap" not in cli.run("estimate", name, "--tenant", "acme").stdout
    state.owned.append("*")


def test_an_account_is_asked_only_for_models_it_serves(cli: Cli) -> None:
    """A price alone makes no lane: neither its own cap nor a tenant's counts what it could never take."""
    prices = {"wan2.7-image": 900_000, "wan2.7-image-pro": 500_000}
    env = {
        "DARKROOM_ACCOUNTS": json.dumps(
            {"default": {}, "pro": {"models": ["wan2.7-image-pro"], "price_micros": prices}}
        ),
        "DARKROOM_CAPS": json.dumps(
            [
                {"scope": "tenant:*", "limit": "0.50"},
                {"scope": "account:default", "limit": "0.10"},
                {"scope": "account:pro", "limit": "0.10"},
            ]
        ),
    }
    name = cli.write("one.jsonl", '{"prompt": "a fox"}\n')
    done = cli.run("estimate", name, "--json", **env)
    assert {cap["scope"]: cap["asked_micros"] for cap in json.loads(done.stdout)["caps"]} == {
        "tenant:default": 200_000, "account:default": 200_000,
    }  # fmt: skip
