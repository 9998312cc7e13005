"""The `darkroom` command against a real state server: files in, jobs out, one line for every trouble."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.producers.conftest import FOX, LANE, until
from tests.servers import ValkeyProc, environment

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

DARKROOM = str(Path(sys.executable).with_name("darkroom"))
LINES = """\
{"prompt": "a red fox", "size": "2K"}
{"prompt": "a blue fox", "n": 9}
not json at all

{"prompt": "a green fox", "idempotency_key": "green", "metadata": {"shelf": 7}}
{"prompt": "a grey fox", "priority": 1000}
"""


@dataclass
class Cli:
    """The command, run in a folder of its own with the settings of the test."""

    folder: Path
    env: dict[str, str]

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [DARKROOM, *args],
            cwd=self.folder,
            env={**os.environ, **self.env, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*args, **env) as process:
            out, err = process.communicate(stdin, timeout=60)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def json(self, *args: str, code: int = 0) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def write(self, name: str, content: str) -> str:
        (self.folder / name).write_text(content)
        return name


@pytest.fixture
def cli(state: State, tmp_path: Path) -> Cli:
    """The command with the test's settings."""
    return Cli(tmp_path, environment(state.settings))


def test_enqueues_the_good_lines_and_reports_the_bad(cli: Cli, darkroom: Darkroom) -> None:
    """Bad lines are named with line number and reason, on stderr and in the rejects file; exit code 1."""
    done = cli.run("enqueue", cli.write("foxes.jsonl", LINES), "--batch", "foxes")
    assert done.returncode == 1
    assert done.stdout.startswith("2 enqueued, 3 rejected; at most ¥0.40. Batch foxes is sealed.")
    assert "line 2: n: must be from 1 to 4" in done.stderr
    assert "line 3: " in done.stderr
    rejects = [
        json.loads(line) for line in (cli.folder / "foxes.jsonl.rejects.jsonl").read_text().splitlines()
    ]
    assert sorted((each["line"], each["field"], each["rule"]) for each in rejects) == [
        (2, "n", "maximum"), (3, "", "json"), (6, "priority", "range"),
    ]  # fmt: skip
    assert {each["raw"] for each in rejects if each["line"] == 3} == {"not json at all"}
    status = darkroom.batch("foxes")
    assert (status.total, status.sealed) == (2, True)
    first, second = darkroom.get_many(done.stdout.split()[-2:])
    assert first is not None
    assert second is not None
    assert (first.request["size"], first.model, second.metadata) == ("2K", "wan2.7-image", {"shelf": 7})


def test_options_give_what_lines_leave_out(cli: Cli, darkroom: Darkroom) -> None:
    """Every field of request and job has an option; a line's own value wins."""
    summary = cli.json(
        "enqueue", cli.write("foxes.tsv", "Text\tn\tKey\nred fox\t2\ta\nblue fox\t\tb\n"), "--prompt-column", "Text",
        "--idempotency-key-column", "Key", "--model", "wan2.7-image-pro", "--n", "3", "--size", "2K", "--seed", "5",
        "--negative-prompt", "dogs", "--watermark", "--thinking-mode", "--priority", "4", "--tenant", "acme",
        "--metadata", '{"a": 1}', "--on-unknown", "fail", "--deadline", "2h", "--not-before", "1h",
    )  # fmt: skip
    assert (summary["enqueued"], summary["tenants"], summary["price_micros"]) == (
        2,
        ["acme"],
        {"CNY": 2_500_000},
    )
    first, second = (darkroom.get(job_id) for job_id in summary["job_ids"])
    assert first.request == {
        "model": "wan2.7-image-pro", "prompt": "red fox", "n": 2, "size": "2K", "negative_prompt": "dogs",
        "watermark": True, "seed": 5, "thinking_mode": True,
    }  # fmt: skip
    assert (second.n, second.tenant, second.metadata, second.on_unknown) == (3, "acme", {"a": 1}, "fail")
    assert first.not_before_at is not None
    assert first.deadline_at is not None
    assert first.deadline_at - first.not_before_at == 3_600_000


def test_reads_stdin_and_takes_a_prompt_alone(cli: Cli, darkroom: Darkroom) -> None:
    """A dash reads lines from stdin; --prompt without a file is one job."""
    done = cli.run("enqueue", "-", "--format", "csv", stdin='prompt,size\n"a fox, red",1K\n')
    assert done.returncode == 0, done.stderr
    assert darkroom.get(done.stdout.split()[-1]).request["prompt"] == "a fox, red"
    one = cli.run("enqueue", "--prompt", "a fox", "--image-url", "https://a.test/b.png")
    assert darkroom.get(one.stdout.split()[-1]).request["image_urls"] == ["https://a.test/b.png"]


def test_a_dry_run_enqueues_nothing(cli: Cli, darkroom: Darkroom) -> None:
    """It validates and prices, needs no server, and leaves no file behind."""
    name = cli.write("foxes.jsonl", LINES)
    done = cli.run("enqueue", name, "--dry-run", DARKROOM_REDIS='{"url": "redis://127.0.0.1:1/0"}')
    assert done.returncode == 1
    assert done.stdout == "2 valid, 3 rejected; at most ¥0.40. Nothing was enqueued.\n"
    assert [path.name for path in cli.folder.iterdir()] == [name]
    assert darkroom.overview().counts["queued"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch", "a b"), "batch must be"),
        (("--batch", "b", "--batch-webhook", "nowhere"), "webhook must be"),
        (("--batch", "b", "--max-cost", "much"), "max_cost must be a number"),
        (("--batch", "b", "--max-cost", "-1"), "max_cost must be more than 0"),
        (("--batch", "b", "--max-failed", "100"), "max_failed_percent must be from 0 to under 100"),
        (("--max-cost", "1"), "are those of a batch: name one with --batch"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(cli: Cli, options: tuple[str, ...], says: str) -> None:
    """Not only of the lines: what is said of the batch is judged, too."""
    name = cli.write("foxes.jsonl", '{"prompt": "a fox"}\n')
    for dry in ((), ("--dry-run",)):
        done = cli.run("enqueue", name, *options, *dry)
        assert (done.returncode, done.stdout) == (2, ""), (dry, done)
        assert says in done.stderr


def test_a_dry_run_takes_what_the_run_would(cli: Cli) -> None:
    """A run that waits gets a batch by itself, and that may have caps."""
    said = cli.json("enqueue", "--prompt", "a fox", "--wait", "--max-cost", "1", "--dry-run")
    assert (said["enqueued"], said["dry_run"]) == (1, True)


def test_a_second_run_with_a_prefix_adds_nothing(cli: Cli, darkroom: Darkroom) -> None:
    """Keys made of prefix and line number make a run repeatable."""
    name = cli.write("foxes.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n')
    args = ("enqueue", name, "--batch", "foxes", "--idempotency-prefix", "monday")
    assert cli.json(*args)["enqueued"] == 2
    again = cli.json(*args)
    assert (again["enqueued"], again["duplicates"]) == (0, 2)
    assert darkroom.batch("foxes").total == 2


def test_a_full_backlog_says_how_far_it_came(cli: Cli) -> None:
    """The command stops with what is in and how to go on."""
    name = cli.write("foxes.jsonl", '{"prompt": "a"}\n' * 5)
    done = cli.run("enqueue", name, DARKROOM_LIMITS='{"backlog": 3}')
    assert done.returncode == 1
    assert "stopped near line 5: 3 enqueued, 0 duplicates, 2 rejected so far" in done.stderr
    assert "backlog of all tenants is full: 3 jobs are queued" in done.stderr


@pytest.mark.parametrize("name", ["foxes.jsonl", "link.jsonl", "-"])
def test_rejects_never_go_into_what_is_read(cli: Cli, name: str) -> None:
    """A file that grows by what it is read for has no end, and its lines would be gone."""
    path = cli.folder / cli.write("foxes.jsonl", LINES)
    (cli.folder / "link.jsonl").hardlink_to(path)
    with path.open() as stdin:
        done = subprocess.run(
            [DARKROOM, "enqueue", name, "--format", "jsonl", "--rejects", "foxes.jsonl"],
            cwd=cli.folder, env={**os.environ, **cli.env}, stdin=stdin, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
    said = "darkroom: foxes.jsonl is what is read. Choose another rejects file.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert path.read_text() == LINES


def test_what_is_stopped_without_keys_is_not_to_be_run_again(cli: Cli, darkroom: Darkroom) -> None:
    """A prefix that is given to the second run only makes every job of the first a second time: it is paid twice."""
    name = cli.write("foxes.jsonl", '{"prompt": "a"}\n' * 5)
    bare = cli.run("enqueue", name, DARKROOM_LIMITS='{"backlog": 3}')
    assert "--idempotency-prefix" not in bare.stderr
    assert (
        "no idempotency keys, so a second run would enqueue, and pay for, what is in once more" in bare.stderr
    )
    assert "give it only the lines that are not in." in bare.stderr
    keyed = cli.run("enqueue", name, "--idempotency-prefix", "p", DARKROOM_LIMITS='{"backlog": 4}')
    assert (
        "stopped near line 5: 1 enqueued, 0 duplicates, 4 rejected so far. Run it again to go on."
        in keyed.stderr
    )
    assert darkroom.overview().counts["queued"] == 4


def test_an_interrupt_says_how_far_it_came(cli: Cli, darkroom: Darkroom) -> None:
    """Ctrl-C in the middle: what is in is counted, what may be is named, and exit code 130."""
    process = cli.start("enqueue", "-", "--format", "jsonl", "--batch", "b", "--idempotency-prefix", "p")
    stdin = process.stdin
    assert stdin is not None

    def queued() -> int:
        stdin.write('{"prompt": "a fox"}\n')  # an item that comes late sends those before it
        stdin.flush()
        return darkroom.overview().counts["queued"]

    until(lambda: queued() > 0, within_s=30)
    first = queued()
    until(lambda: queued() > first, within_s=30)  # a second chunk goes when the first is answered
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    enqueued = int(err.split("stopped near line ")[1].split(": ")[1].split()[0])
    assert process.returncode == 130
    assert 0 < enqueued <= darkroom.batch("b").total
    assert "Run it again to go on." in err
    assert darkroom.batch("b").sealed is False


def test_an_input_may_be_empty(cli: Cli) -> None:
    """Nothing to do is not an error, but it is said."""
    done = cli.run("enqueue", cli.write("none.jsonl", "\n"), "--batch", "b")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "the input holds no requests; nothing was enqueued\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("enqueue", "missing.jsonl"), "cannot read missing.jsonl: No such file or directory."),
        (("enqueue", "."), "cannot read .: Is a directory."),
        (("enqueue",), "give FILE"),
        (("enqueue", "foxes.csv"), "there is no column prompt; columns are 'Text'. Give --prompt-column."),
        (("enqueue", "foxes.csv", "--format", "xml"), "there is no format 'xml'."),
        (("enqueue", "foxes.csv", "--column", "prompt"), "--column takes FIELD=COLUMN"),
        (("enqueue", "foxes.csv", "--column", "colour=Text"), "there is no field 'colour'"),
        (("enqueue", "foxes.csv", "--prompt-column", "Text", "--metadata", "{"), "default of metadata"),
        (("enqueue", "foxes.csv", "--prompt-column", "Text", "--priority", "900"), "priority must be"),
        (("enqueue", "foxes.csv", "--prompt-column", "Text", "--batch", "a b"), "batch must be"),
        (("enqueue", "foxes.csv", "--prompt-column", "Text", "--webhook", "nowhere"), "webhook must be"),
        (("enqueue", "foxes.csv", "--prompt-column", "Text", "--rejects", "no/such/file"), "cannot write"),
        (("batch", "a", "b"), "give the name of one batch"),
        (("unknown", "resolve", "job_1", "--generation-id", ""), "generation_id must be"),
    ],
)
def test_a_wrong_command_is_one_sentence(cli: Cli, args: tuple[str, ...], says: str) -> None:
    """Exit code 2: what is wrong and what to do, on stderr; nothing is enqueued."""
    cli.write("foxes.csv", "Text\na fox\n" + "x" * 6000 + "\n")
    done = cli.run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    "args", [("enqueue", "foxes.jsonl"), ("status",), ("batch", "b"), ("cancel", "job_1")]
)
def test_a_server_that_is_not_there(cli: Cli, args: tuple[str, ...]) -> None:
    """One line that says where and what to do, exit code 2, at once."""
    cli.write("foxes.jsonl", LINES)
    started_at = time.monotonic()
    done = cli.run(*args, DARKROOM_REDIS='{"url": "redis://:hush@127.0.0.1:1/0"}')
    assert time.monotonic() - started_at < 10
    assert done.returncode == 2
    assert done.stderr == (
        "darkroom: no Redis at 127.0.0.1:1/0. Start it (`darkroom dev` runs one), or set DARKROOM_REDIS__URL.\n"
    )


def test_a_wrong_password_and_an_evicting_server(cli: Cli, tmp_path: Path) -> None:
    """Each one line, exit code 2."""
    name = cli.write("foxes.jsonl", LINES)
    with ValkeyProc(tmp_path / "server", password="right") as server, server.client() as client:
        wrong = cli.run(
            "enqueue", name, DARKROOM_REDIS=json.dumps({"url": server.url().replace("right", "wrong")})
        )
        client.config_set("maxmemory-policy", "allkeys-lru")
        evicting = cli.run("enqueue", name, DARKROOM_REDIS=json.dumps({"url": server.url()}))
    for done, says in ((wrong, "refuses the credentials"), (evicting, "maxmemory-policy allkeys-lru")):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr


def test_a_bad_setting_is_named(cli: Cli) -> None:
    """Exit code 2, with the variable to correct."""
    done = cli.run("status", DARKROOM_LIMITS='{"backlog": 0}')
    assert done.returncode == 2
    assert "DARKROOM_LIMITS__BACKLOG" in done.stderr


def test_status_of_a_job_tells_its_story(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """State, money and timeline, also as JSON."""
    job_id = darkroom.enqueue(FOX, batch="b", priority=3).job_id
    worker.claim()
    worker.intend(job_id)
    worker.accept(job_id, "generation-1")
    shown = cli.run("status", job_id).stdout
    for part in (
        "generating",
        "generation-1",
        "¥0.20",
        "enqueued",
        "submitting",
        "accepted",
        "a red fox",
        LANE,
    ):
        assert part in shown
    found = cli.json("status", job_id)
    assert (found["state"], found["generation_id"], found["timeline"][-1]["note"]) == (
        "generating", "generation-1", "accepted",
    )  # fmt: skip


def test_status_of_the_whole_shows_what_needs_a_person(cli: Cli, darkroom: Darkroom, state: State) -> None:
    """A blocked lane with its reason, jobs without a worker; narrow or piped, coloured or not."""
    darkroom.enqueue(FOX)
    blocked: dict[Any, Any] = {"blocked": "invalid_api_key", "blocked_at": darkroom.now_ms()}
    state.client.hset(state.keys.lane(LANE), mapping=blocked)
    for columns in ("40", "200"):
        shown = cli.run("status", COLUMNS=columns).stdout
        assert "invalid_api_key" in shown
        assert "\x1b" not in shown
        assert "no worker is alive: start one with `darkroom worker`" in shown
    found = cli.json("status")
    assert found["counts"]["queued"] == 1
    assert [lane["condition"] for lane in found["lanes"]] == ["blocked", "open"]


def test_batch_shows_and_seals(cli: Cli, darkroom: Darkroom) -> None:
    """Counts, progress and cost; `seal` lets it complete."""
    job_id = darkroom.enqueue(FOX, batch="b").job_id
    darkroom.enqueue(FOX, batch="b")
    darkroom.cancel(job_id)
    shown = cli.run("batch", "b").stdout
    assert "50 % (1 of 2)" in shown
    assert "1 queued, 1 cancelled" in shown
    assert "it takes more jobs" in shown
    assert cli.run("batch", "seal", "b").stdout.startswith("batch b is sealed")
    assert cli.json("batch", "show", "b")["sealed"] is True
    missing = cli.run("batch", "nothing")
    assert (missing.returncode, missing.stderr) == (
        1,
        "darkroom: no batch 'nothing'. Check the name and the tenant.\n",
    )


def test_cancel_takes_many_and_says_each(cli: Cli, darkroom: Darkroom) -> None:
    """What cannot be cancelled does not keep the others from it; exit code 1."""
    first, second = darkroom.enqueue_many([FOX] * 2).job_ids
    done = cli.run("cancel", first, "job_nope", second)
    assert done.returncode == 1
    assert done.stdout == f"{first}: cancelled, free\n{second}: cancelled, free\n"
    assert done.stderr.startswith("darkroom: no job job_nope.")
    again = cli.json("cancel", first)
    assert (again["counts"], again["refused"]) == ({"already_ended": 1}, 0)
    (row,) = again["results"]
    assert (row["job"], row["outcome"], row["state"], row["cost_micros"]) == (
        first, "already_ended", "cancelled", 0,
    )  # fmt: skip


def test_unknown_jobs_are_listed_and_decided(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """List, resolve, resubmit (too early: refused), release; the timeline names who did it."""
    darkroom.enqueue_many([FOX] * 3, batch="b")
    first, second, third = (worker.make_unknown() for _ in range(3))
    assert [each["job"] for each in cli.json("unknown", "list")["unknown"]] == [first, second, third]
    assert third in cli.run("unknown", "list").stdout
    resolved = cli.run("unknown", "resolve", first, "--generation-id", "generation-7")
    assert (resolved.returncode, resolved.stdout) == (0, f"{first}: generating\n")
    assert "resolved by " in darkroom.get(first).timeline[-1].note
    early = cli.run("unknown", "resubmit", second)
    assert (early.returncode, "may still be in flight" in early.stderr) == (1, True)
    assert cli.run("unknown", "release", second, third).returncode == 0
    assert cli.run("unknown", "list").stdout == "no job has an unknown outcome\n"
    queued = darkroom.enqueue(FOX).job_id
    for words, done in (
        (("resolve", "--generation-id", "g"), "resolved"),
        (("resubmit",), "resubmitted"),
        (("release",), "released"),
    ):
        refused = cli.run("unknown", *words, queued).stderr
        assert f"is queued, and only a job with an unknown outcome can be {done}. See" in refused


def test_wait_ends_with_the_last_job(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """It says how the batch ended; failed jobs make the exit code 1."""
    name = cli.write("foxes.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n')
    process = cli.start("enqueue", name, "--batch", "b", "--wait", "--json")
    until(lambda: darkroom.overview().counts["queued"] == 2, within_s=30)
    first, second = worker.claim(2)
    worker.intend(first)
    worker.accept(first, "generation-1")
    worker.deliver(first)
    worker.complete(first)
    worker.fail(second)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    (batch,) = json.loads(out)["batches"]
    assert (batch["done"], batch["counts"]["completed"], batch["counts"]["failed"]) == (2, 1, 1)


def test_wait_does_not_wait_for_unknown_jobs(cli: Cli, darkroom: Darkroom, worker: FakeWorker) -> None:
    """When only they are left it names them, says what to do, and ends with exit code 1."""
    process = cli.start("enqueue", "--prompt", "a fox", "--wait")
    until(lambda: darkroom.overview().counts["queued"] == 1, within_s=30)
    job_id = worker.make_unknown()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "not completed: 1 unknown; 0 images" in out
    assert f"unknown: {job_id} (timeout)" in err
    assert "darkroom unknown resolve" in err


def test_interrupting_a_wait_leaves_the_jobs_alone(cli: Cli, darkroom: Darkroom) -> None:
    """Ctrl-C says how to look again."""
    process = cli.start("enqueue", "--prompt", "a fox", "--batch", "b", "--wait")
    until(lambda: darkroom.overview().counts["queued"] == 1, within_s=30)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "the jobs go on; see `darkroom batch b`" in err
    assert "Traceback" not in err
    assert darkroom.overview().counts["queued"] == 1


def test_help_is_quick_to_load(cli: Cli) -> None:
    """Asking for help loads neither Celery nor Redis nor pydantic."""
    code = (
        "import sys; sys.argv = ['darkroom', '--help']\n"
        "from producers.cli.app import run\n"
        "assert run() == 0\n"
        "print([name for name in ('celery', 'redis', 'obstore', 'rich.progress') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("enqueue", "status", "batch", "cancel", "unknown", "worker", "sandbox"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [(("worker", "--no-such-option"), "no-such-option"), (("sandbox", "no-such-part"), "no-such-part")],
)
def test_worker_and_sandbox_become_the_process_they_start(cli: Cli, args: tuple[str, ...], says: str) -> None:
    """Arguments go to it untouched, and its exit code is the command's."""
    done = cli.run(*args)
    assert done.returncode == 2
    assert says in done.stderr
