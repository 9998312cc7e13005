"""One bad day of a whole project: a batch, a worker container killed in the middle of it, the others rolled.

POSTs are made slow, so that some are in flight whenever something is done to a worker. What was killed with a POST
in flight may leave `unknown` jobs; what was asked to end (SIGTERM, and 75 s) may not.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from tools.compose_test.events import Deaths
from tools.compose_test.shell import StepFailed, say, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.compose_test.project import Project
    from tools.compose_test.verdict import Verdict

JOBS: Final = 500
BATCH: Final = "compose"
SERVICES: Final = ("state", "worker", "flower", "sandbox", "s3")
_WORKERS: Final = 2
_POST_TAKES_S: Final = 2
_INSIDE: Final = Path(__file__).with_name("inside.py")
_KILLED: Final = 137
_LOGIN: Final = ("operator", "sandbox")
_UNAUTHORIZED: Final = 401
_OK: Final = 200
_PRICE_MICROS: Final = 200_000


@dataclass(slots=True)
class Scenario:
    """The steps, in the order of `play`. Raises StepFailed when the day cannot go on."""

    project: Project
    verdict: Verdict
    provider: str = ""
    sink: str = ""
    unknown_before_roll: frozenset[str] = field(default_factory=frozenset)
    unknowns: int = 0
    released: int = 0

    def play(self) -> None:
        self._build()
        self._bring_up()
        self._look_at_containers()
        self._look_at_flower()
        self._look_at_metrics()
        with Deaths.watched(self.project.daemon) as deaths:
            self._enqueue()
            killed_at_ms = self._kill_one(deaths)
            self._wait_for_unknowns(killed_at_ms)
            self._roll(deaths)
            self._wait_for_the_end()
        self._judge_unknowns(killed_at_ms)
        self._resolve_unknowns()
        self._judge_the_bill()
        self._judge_webhooks()
        self._judge_flower()

    # --- before the day ---

    def _build(self) -> None:
        say("building the images")
        self.project.compose("build", "worker", "sandbox", timeout_s=1200)
        for image in self.project.images:
            self._look_for_traces(image)

    def _look_for_traces(self, image: str) -> None:
        """No layer and no line of the history may hold what the build was told in confidence."""
        saved = self.project.daemon.folder / "image.tar"
        self.project.daemon.docker("save", "--output", str(saved), image)
        history = self.project.daemon.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        canary = self.project.canary
        found = canary in history or _holds(saved, canary.encode())
        saved.unlink()
        self.verdict.expect(
            f"build secrets in {image.rpartition('-')[2]}", "found" if found else "none", "none"
        )

    def _bring_up(self) -> None:
        say(f"bringing it up with {_WORKERS} workers")
        scale = ("--scale", f"worker={_WORKERS}", "--no-build")
        self.project.compose("up", "--detach", "--wait", "--wait-timeout", "180", *scale)
        self.provider, self.sink = self.project.url("sandbox", 8080), self.project.url("sandbox", 8081)
        healthy = {name: len(self.project.containers(name)) for name in SERVICES}
        self.verdict.expect("healthy containers", healthy, dict.fromkeys(SERVICES, 1) | {"worker": _WORKERS})

    def _look_at_containers(self) -> None:
        ids = [each for name in SERVICES for each in self.project.containers(name)]
        inspected = json.loads(self.project.daemon.docker("inspect", *ids))
        self.verdict.expect("hardened containers", sum(map(_is_hardened, inspected)), len(ids))
        mode = self.project.compose("exec", "-T", "worker", "sh", "-c", _PROBE).split()
        self.verdict.expect("inside a worker: uid, writable root, pip", mode, ["10001", "no", "no"])

    def _look_at_flower(self) -> None:
        asked = partial(httpx.get, f"{self._flower}/tasks", timeout=30, trust_env=False)
        statuses = [asked().status_code, asked(auth=_LOGIN).status_code]
        self.verdict.expect("Flower without and with login", statuses, [_UNAUTHORIZED, _OK])

    def _look_at_metrics(self) -> None:
        """Start the exporter, and read what Prometheus would: its page, and a worker's by the service's name."""
        self.project.compose("up", "--detach", "--wait", "--no-build", "--no-deps", "exporter")
        page = self.project.compose("exec", "-T", "exporter", "python3", "-c", _PAGES)
        alive = [line for line in page.splitlines() if line.startswith("darkroom_workers ")]
        self.verdict.expect("workers by the exporter", alive, [f"darkroom_workers {_WORKERS}.0"])
        told = "darkroom_transitions_total" in page
        self.verdict.expect("a worker's metrics by its service's name", told, True)

    # --- the day ---

    def _enqueue(self) -> None:
        say(f"{JOBS} jobs, every POST takes {_POST_TAKES_S} s")
        slow = {"on": "submit", "kind": "slow", "arg": str(_POST_TAKES_S)}
        _post(f"{self.provider}/control/faults", {"rules": [slow]})
        lines = [
            json.dumps({"model": "wan2.7-image", "size": "1K", "prompt": f"a door [[m:{BATCH}-{at}]]"})
            for at in range(JOBS)
        ]
        options = ("--batch", BATCH, "--webhook", "http://sandbox:8081/ok", "--json")
        told = self._cli("enqueue", "-", "--format", "jsonl", *options, text_in="\n".join(lines) + "\n")
        self.verdict.expect("enqueued by the command line", json.loads(told)["enqueued"], JOBS)

    def _kill_one(self, deaths: Deaths) -> int:
        """Kill one worker container when a tenth of the batch is submitted. Gives when (unix ms)."""
        wait_until(lambda: self._ledger()["submits_accepted"] >= JOBS // 10, 60, "a tenth is submitted")
        victim = self.project.containers("worker")[0]
        say("killing a worker container")
        killed_at_ms = int(time.time() * 1000)
        self.project.daemon.docker("kill", "--signal", "KILL", victim)
        self.verdict.expect("exit code of the killed", deaths.code_of(victim), _KILLED)
        self._up("--no-recreate")
        return killed_at_ms

    def _wait_for_unknowns(self, killed_at_ms: int) -> None:
        """Wait until the dead worker's leases have ended and none of its POSTs is left open."""
        say("waiting for the leases of the dead")

        def settled() -> bool:
            return not any(
                job["state"] == "submitting" and job["intent_at"] and job["intent_at"] <= killed_at_ms
                for job in self._jobs()
            )

        wait_until(settled, 60, "no POST of the dead worker is open")
        self.unknown_before_roll = self._unknown()

    def _roll(self, deaths: Deaths) -> None:
        """Replace the workers as a deploy does, while POSTs are in flight."""
        old = self.project.containers("worker")
        ends = {each: deaths.count(each) for each in old}  # one of them was killed, and started again
        busy = sum(job["state"] == "submitting" for job in self._jobs())
        say(f"rolling {len(old)} workers with {busy} jobs at the POST")
        started = time.monotonic()
        self._up("--force-recreate")
        took_s = time.monotonic() - started
        self.verdict.note("POSTs in flight at the roll", busy, busy > 0)
        self.verdict.expect(
            "exit codes of the rolled",
            [deaths.code_of(each, after=ends[each]) for each in old],
            [0] * len(old),
        )
        new = self.project.containers("worker")
        self.verdict.note("workers after the roll", f"{len(new)} new in {took_s:.0f} s", not {*old} & {*new})

    def _wait_for_the_end(self) -> None:
        say("waiting for the batch")
        _post(f"{self.provider}/control/faults", {"rules": []})
        ends = {"completed", "failed", "cancelled", "unknown"}
        wait_until(
            lambda: {job["state"] for job in self._jobs()} <= ends, 180, "every job has ended", every_s=2
        )

    # --- the verdict ---

    def _judge_unknowns(self, killed_at_ms: int) -> None:
        jobs = self._jobs()
        unknown = [job for job in jobs if job["state"] == "unknown"]
        self.unknowns = len(unknown)
        states = Counter(job["state"] for job in jobs)
        completed = states["completed"]
        self.verdict.note("jobs at the end of the day", dict(states), completed + len(unknown) == JOBS)
        open_at_kill = [
            job
            for job in unknown
            if 0 <= killed_at_ms - job["intent_at"] + 1000 <= (_POST_TAKES_S + 2) * 1000
        ]
        found = f"{len(unknown)}, {len(open_at_kill)} of them at the POST when the worker was killed"
        self.verdict.note("unknown jobs", found, len(open_at_kill) == len(unknown))
        later = {job["id"] for job in unknown} - self.unknown_before_roll
        self.verdict.expect("unknown because of the roll", len(later), 0)

    def _resolve_unknowns(self) -> None:
        """Do what docs/ tell an operator to: give each the generation that the provider's ledger has for it.

        One that the worker was killed for before its POST arrived has none, and is released: it fails, free.
        """
        tasks = {group["marker"]: group["task_ids"] for group in self._ledger(groups=True)["groups"]}
        unknown = [job for job in self._jobs() if job["state"] == "unknown"]
        accepted = [job for job in unknown if tasks.get(job["marker"])]
        self.released = len(unknown) - len(accepted)
        script = [
            f"darkroom unknown resolve {job['id']} --generation-id {tasks[job['marker']][0]}"
            for job in accepted
        ] + [f"darkroom unknown release {job['id']}" for job in unknown if job not in accepted]
        if script:
            say(
                f"resolving {len(accepted)} unknown jobs from the provider's ledger, releasing {self.released}"
            )
            lines = "\n".join(script) + "\n"
            self.project.compose(
                "run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "sh", "cli", "-e", text_in=lines
            )
        ends = {"completed", "failed"}
        wait_until(lambda: {job["state"] for job in self._jobs()} <= ends, 60, "all jobs at an end")

    def _judge_the_bill(self) -> None:
        seen = self._inside("hash")
        jobs, ledger = seen["jobs"], self._ledger(groups=True)
        paid = JOBS - self.released
        groups = {group["marker"]: group for group in ledger["groups"]}
        most = max(group["charged_images"] for group in groups.values())
        self.verdict.expect("jobs completed", sum(job["state"] == "completed" for job in jobs), paid)
        self.verdict.expect("most charges for one prompt", most, 1)
        self.verdict.expect("submits the provider accepted", ledger["submits_accepted"], paid)
        done = [job for job in jobs if job["state"] == "completed"]
        strange = [job for job in done if groups[job["marker"]]["task_ids"] != [job["generation_id"]]]
        self.verdict.expect("jobs with another generation than the provider's", len(strange), 0)
        self.verdict.expect("our bill and the provider's", seen["cost_micros"], ledger["charged_micros"])
        self.verdict.expect("the bill", seen["cost_micros"], paid * _PRICE_MICROS)
        objects = [key for job in jobs for key in job["objects"]]
        self.verdict.expect("images in S3", len({*objects}), paid)
        self.verdict.expect("images missing or other than recorded", len(seen["bad_objects"]), 0)

    def _judge_webhooks(self) -> None:
        wanted = {
            "image.completed": JOBS - self.released,
            "image.failed": self.released,
            "image.unknown": self.unknowns,
            "batch.completed": 1,
        }
        wanted = {kind: count for kind, count in wanted.items() if count}
        events = sum(wanted.values())

        def summary() -> dict[str, Any]:
            return _get(f"{self.sink}/summary")

        with _tolerated():
            wait_until(lambda: summary()["verified_unique_ids"] >= events, 60, "all webhooks arrived")
        found = summary()
        self.verdict.expect("webhook events, each verified", found["verified_unique_ids"], events)
        self.verdict.expect("kinds of events", found["by_type"], wanted)
        self.verdict.expect("webhooks with a bad signature", found["bad_signature"], 0)

    def _judge_flower(self) -> None:
        """Every job has a row, also after Flower was started again: its list is on a volume."""
        ids = {job["id"] for job in self._jobs()}
        self.verdict.expect("jobs without a row in Flower", len(ids - self._rows(ids)), 0)
        say("starting Flower again")
        self.project.compose("restart", "flower")
        wait_until(self._flower_answers, 60, "Flower answers again")
        self.verdict.expect("jobs without a row after a restart", len(ids - self._rows(ids)), 0)

    def _flower_answers(self) -> bool:
        try:
            return httpx.get(f"{self._flower}/healthcheck", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _rows(self, wanted: set[str]) -> set[str]:
        """Give the ids of Flower's rows, once all wanted are there or some seconds have passed."""
        found: set[str] = set()

        def complete() -> bool:
            answer = httpx.get(
                f"{self._flower}/api/tasks?limit={10 * JOBS}", auth=_LOGIN, timeout=30, trust_env=False
            )
            found.update(answer.raise_for_status().json())
            return wanted <= found

        with _tolerated():
            wait_until(complete, 15, "a row for every job")
        return found

    # --- what the steps share ---

    @property
    def _flower(self) -> str:
        return self.project.url("flower", 5555)

    def _up(self, *how: str) -> None:
        scale = ("--scale", f"worker={_WORKERS}", "--no-build", "--no-deps")
        self.project.compose("up", "--detach", "--wait", "--wait-timeout", "180", *scale, *how, "worker")

    def _cli(self, *words: str, text_in: str | None = None) -> str:
        return self.project.compose("run", "--rm", "--no-TTY", "--no-deps", "cli", *words, text_in=text_in)

    def _inside(self, *words: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            self.project.inside(BATCH, *words, text_in=_INSIDE.read_text(encoding="utf-8"))
        )
        return answer

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self._inside()["jobs"]
        return jobs

    def _unknown(self) -> frozenset[str]:
        return frozenset(job["id"] for job in self._jobs() if job["state"] == "unknown")

    def _ledger(self, *, groups: bool = False) -> dict[str, Any]:
        return _get(f"{self.provider}/ledger" + ("" if groups else "?summary=1"))


# Prints the pages of metrics of the exporter and of one worker.
_PAGES: Final = (
    "import urllib.request as u\n"
    "for at in ('127.0.0.1:9109', 'worker:9108'): print(u.urlopen(f'http://{at}/metrics', timeout=20).read().decode())"
)
# Prints the uid, whether the root filesystem can be written, and whether pip is in the environment.
_PROBE: Final = (
    "id -u; if touch /opt/darkroom/x 2>/dev/null || touch /x 2>/dev/null; then echo yes; else echo no; fi; "
    "if test -e /opt/darkroom/bin/pip; then echo yes; else echo no; fi"
)


def _is_hardened(container: dict[str, Any]) -> bool:
    host, user = container["HostConfig"], container["Config"]["User"]
    return (
        host["ReadonlyRootfs"] is True
        and host["CapDrop"] == ["ALL"]
        and any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
        and user.partition(":")[0] not in {"", "0", "root"}
    )


def _holds(path: Path, needle: bytes) -> bool:
    kept = b""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            if needle in kept + piece:
                return True
            kept = piece[-len(needle) :]
    return False


@contextmanager
def _tolerated() -> Iterator[None]:
    """What was waited for is judged afterwards, whether it came or not."""
    try:
        yield
    except StepFailed as failed:
        say(str(failed))


def _get(url: str) -> dict[str, Any]:
    answer = httpx.get(url, timeout=30, trust_env=False).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _post(url: str, body: object) -> None:
    httpx.post(url, json=body, timeout=30, trust_env=False).raise_for_status()
