"""Canaries in every input, successes and failures at log level DEBUG: then everything that was written is searched.

Keys, passwords and webhook secrets may be nowhere; a prompt only in its job's spec; an input image only in the object
store. That the search finds what is there is proved by plants at the end.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx
import pytest
from PIL import Image, PngImagePlugin
from pydantic import AnyHttpUrl

from shared.broker import make_app
from shared.errors import IdempotencyConflict, InvalidRequest
from shared.redis.scripts import script
from shared.settings_section import SecretReference
from tests.e2e.conftest import API_KEY, House
from tests.e2e.echoing import Echoing
from tests.process import HOST, free_ports
from tests.servers import ExporterProc, FlowerProc, WorkerProc, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import redis

    from shared.jobs.job import Job
    from shared.settings import Settings
    from tests.servers import ValkeyProc

pytestmark = pytest.mark.timeout(120)

PROMPT: Final = "kingfisher-prompt-canary"
NEGATIVE: Final = "blurred-negative-canary"
METADATA: Final = "invoice-metadata-canary"
HOOK_TOKEN: Final = "hook-token-canary"
IDEMPOTENCY: Final = "idempotency-key-canary"
PIXELS: Final = "pixels-of-the-input-canary"
FLOWER_PASSWORD: Final = "flower-password-canary"
REDIS_PASSWORD: Final = "redis-password-canary"
S3_SECRET: Final = "s3-secret-canary"
PLANT: Final = "planted-canary"  # in names that are shown everywhere: the search has to find it
ECHO: Final = "heron-echo-canary"  # in the prompts of jobs whose provider quotes them in every answer

# What the last part of each prompt makes of the job.
_FAULTS: Final = {
    "": "completed",
    "[[fault:partial:1]]": "completed",
    "[[fault:429:1;times=1]]": "completed",
    "[[fault:code:get_channel_failed;times=1]]": "completed",
    "[[fault:garbage;on=poll;times=1]]": "completed",
    "[[fault:404;on=image;times=1]]": "completed",
    "[[fault:refuse]]": "failed",
    "[[fault:build_request_failed]]": "failed",
    "[[fault:fail:data_inspection]]": "failed",
    "[[fault:no_images]]": "failed",
    "[[fault:lost_answer]]": "unknown",
    "[[fault:html]]": "unknown",
    "[[fault:never]]": "cancelled",
}
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


def readings(raw: bytes) -> bytes:
    """Give bytes with all that is base64 in them decoded beside them: so Celery's messages carry their bodies."""
    decoded = []
    for token in _BASE64.findall(raw):
        whole = token.rstrip(b"=")
        whole = whole[: len(whole) - (len(whole) % 4 == 1)]
        decoded.append(base64.b64decode(whole + b"=" * (-len(whole) % 4)))
    return b"\n".join([raw, *decoded])


def input_image() -> str:
    """Make a data URI of a PNG that holds PIXELS in a text chunk."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", PIXELS)
    stream = io.BytesIO()
    Image.new("RGB", (256, 256)).save(stream, "PNG", pnginfo=text)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@contextmanager
def overheard(server: ValkeyProc) -> Iterator[bytearray]:
    """Collect every command that the server is sent meanwhile [MONITOR]."""
    heard = bytearray()

    def listen(connection: socket.socket) -> None:
        while chunk := connection.recv(1 << 16):
            heard.extend(chunk)

    with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        if server.password is not None:
            connection.sendall(f"AUTH {server.password}\r\n".encode())
            assert connection.recv(64) == b"+OK\r\n"
        connection.sendall(b"MONITOR\r\n")
        thread = threading.Thread(target=listen, args=(connection,))
        thread.start()
        try:
            yield heard
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def everything_in(server: ValkeyProc) -> dict[str, bytes]:
    """Give every key of every database with all that it holds."""
    with server.client() as client:
        databases: Any = client.info("keyspace")
    found: dict[str, bytes] = {}
    for name in databases:
        with server.client(int(name.removeprefix("db"))) as client:
            for key in client.scan_iter(count=1000):
                found[key.decode()] = repr(_value(client, key)).encode()
    return found


def _value(client: redis.Redis, key: bytes) -> Any:
    readers: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
        b"none": lambda: None,  # it expired meanwhile
    }
    kind: Any = client.type(key)
    return readers[kind]()


@dataclass
class Traces:
    """What a run left behind, read after its jobs had ended."""

    jobs: list[Job] = field(default_factory=list)
    logs: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    heard: dict[str, bytes] = field(default_factory=dict)
    events: dict[str, bytes] = field(default_factory=dict)
    metrics: dict[str, bytes] = field(default_factory=dict)
    commands: dict[str, bytes] = field(default_factory=dict)
    echoed: list[Job] = field(default_factory=list)
    flower: dict[str, bytes] = field(default_factory=dict)
    hooks: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def views(self) -> dict[str, bytes]:
        """Give all that others than the jobs' owners may see."""
        return {**self.logs, **self.flower, **self.events, **self.metrics, "broker": self.heard["broker"]}


def having(canary: str, places: dict[str, bytes]) -> list[str]:
    """Name the places where a canary is, plain or in base64."""
    return sorted(name for name, content in places.items() if canary.encode() in readings(content))


class Run:
    """The canary jobs on one stack: one half through each HTTP client that may submit."""

    def __init__(self, house: House, flower: httpx.Client) -> None:
        self.house, self.flower = house, flower
        self.expected: dict[str, str] = {}
        self.echoed: list[str] = []

    def enqueue(self, fault: str, expected: str, image: str | None = None) -> str:
        at = len(self.expected)
        request = {
            "model": "wan2.7-image", "prompt": f"{PROMPT} [[m:{at}]] {fault}", "size": "1K", "n": 2,
            "negative_prompt": NEGATIVE, "image_urls": None if image is None else [image],
        }  # fmt: skip
        receipt = self.house.darkroom.enqueue(
            {name: value for name, value in request.items() if value is not None},
            webhook=f"{self.house.sink.url}/fail-first/1?token={HOOK_TOKEN}",
            metadata={"note": METADATA},
            idempotency_key=f"{IDEMPOTENCY}-{at}",
        )
        self.expected[receipt.job_id] = expected
        return receipt.job_id

    def half(self, submit_http: str, log_format: Literal["json", "console"]) -> tuple[bytes, bytes]:
        """Run every kind of job through one worker; give its log, and its metrics."""
        house = self.house
        (port,) = free_ports(1)
        changed = {
            "worker": house.settings.worker.model_copy(update={"submit_http": submit_http}),
            "log": house.settings.log.model_copy(update={"format": log_format}),
            "metrics": house.settings.metrics.model_copy(update={"worker_port": port}),
        }
        settings = house.settings.model_copy(update=changed)
        with WorkerProc(
            house.folder / submit_http, settings, "--loglevel", "DEBUG", name=f"{submit_http}-{PLANT}"
        ) as proc:
            with self.storage_down():
                ids = {fault: self.enqueue(fault, state) for fault, state in _FAULTS.items()}
                self.enqueue("", "completed", image=input_image())
                self.echo()
                self.until(lambda: "storing" in self.states().values(), "images that cannot be stored")
                self.until(lambda: "store_attempted" in proc.log(), "a failure of the store in the log")
            self.until(self.echoes_over, "the echoing provider has refused all")
            never = ids["[[fault:never]]"]
            self.until(lambda: self.states()[never] == "generating", "the one that never ends is generating")
            self.flower.post(f"/api/task/revoke/{never}", params={"terminate": "true"}).raise_for_status()
            self.until(lambda: self.states() == self.expected, "all jobs where they end")
            events = len(self.expected)
            self.until(lambda: self.sink_summary()["verified_unique_ids"] >= events, "all events delivered")
            page = httpx.get(f"http://{HOST}:{port}/metrics", trust_env=False).raise_for_status().content
        return proc.log().encode(), page

    @contextmanager
    def storage_down(self) -> Iterator[None]:
        """Put a file where the folder of the tenant's images has to be."""
        folder = self.house.folder / "artifacts" / "default"
        aside = folder.with_name("aside")
        if folder.exists():
            folder.rename(aside)
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("in the way")
        try:
            yield
        finally:
            folder.unlink()
            if aside.exists():
                aside.rename(folder)

    def echo(self) -> None:
        """Enqueue jobs of the lane whose provider quotes them, one without an account's key being wrong."""
        for at in range(5):
            receipt = self.house.darkroom.enqueue(
                {"model": "wan2.7-image-pro", "prompt": f"{ECHO} {at}", "negative_prompt": ECHO},
                webhook=f"{self.house.sink.url}/ok?token={HOOK_TOKEN}",
            )
            self.echoed.append(receipt.job_id)

    def echoes_over(self) -> bool:
        # Its first answer is 401, which closes the lane for a while: let it be probed at once.
        self.house.state.client().hset(f"{{darkroom}}:lane:{PLANT}/wan2.7-image-pro", "probe_at", 0)
        jobs = self.house.darkroom.get_many(self.echoed)
        return all(job is not None and str(job.state) in ("failed", "unknown") for job in jobs)

    def states(self) -> dict[str, str]:
        jobs = self.house.darkroom.get_many(list(self.expected))
        return {job.id: str(job.state) for job in jobs if job is not None}

    def sink_summary(self) -> dict[str, int]:
        summary: dict[str, int] = self.house.sink.get("/summary")
        return summary

    def until(self, true: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + 40
        while not true():
            assert time.monotonic() < give_up_at, f"{what}; {self.states()} instead of {self.expected}"
            time.sleep(0.1)

    def flower_pages(self) -> dict[str, bytes]:
        one = next(iter(self.expected))
        paths = [
            "/api/tasks",
            "/api/workers?refresh=1",
            "/api/queues/length",
            "/metrics",
            "/tasks",
            "/workers",
        ]
        paths += ["/broker", f"/task/{one}", f"/task/{self.echoed[0]}"]
        paths += [f"/api/task/info/{job_id}" for job_id in (*self.expected, *self.echoed)]
        return {path: self.flower.get(path).content for path in paths}


def files_below(folder: Path, *, but: Iterable[str]) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in but
    }


_HALVES: Final[dict[str, Literal["json", "console"]]] = {"pyreqwest": "json", "httpx": "console"}


@contextmanager
def with_canaries(house: House, echoing: Echoing) -> Iterator[None]:
    """Add an account at a provider that quotes what it is sent, and a secret of storage."""
    main = house.settings.accounts["main"]
    accounts = {
        "main": main.model_copy(update={"models": ("wan2.7-image",)}),
        PLANT: main.model_copy(update={"models": ("wan2.7-image-pro",), "base_url": AnyHttpUrl(echoing.url)}),
    }
    (house.folder / "s3-secret").write_text(S3_SECRET)
    secret = SecretReference(file=house.folder / "s3-secret")
    storage = house.settings.storage.model_copy(update={"access_key_id": secret, "secret_access_key": secret})
    house.settings = house.settings.model_copy(update={"accounts": accounts, "storage": storage})
    yield


@contextmanager
def received(settings: Settings) -> Iterator[list[str]]:
    """Collect Celery's events as whoever watches gets them."""
    app, found = make_app(settings), list[str]()
    ready = threading.Event()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: found.append(repr(event))})
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        assert ready.wait(20)
        try:
            yield found
        finally:
            receiver.should_stop = True
            thread.join(20)


def said_by_commands(house: House, job_id: str) -> dict[str, bytes]:
    """Run commands that look, and some that cannot: what both print."""
    env = {**os.environ, **environment(house.settings)}
    darkroom = str(Path(sys.executable).with_name("darkroom"))
    wrong = {"DARKROOM_REDIS": json.dumps({"url": house.state.url(99)})}
    not_there = {
        "DARKROOM_REDIS": json.dumps({"url": f"redis://:{REDIS_PASSWORD}@{HOST}:{free_ports(1)[0]}/0"})
    }
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "doctor": (["doctor"], {}),
        "doctor of what is not there": (["doctor"], not_there),
        "status": (["status"], {}),
        "unknown": (["unknown", "list"], {}),
        "deliveries": (["webhook", "deliveries", job_id], {}),
        "no such database": (["status"], wrong),
        "not there": (["status", job_id], not_there),
        "no settings": (["status"], {"DARKROOM_REDIS": f"[{REDIS_PASSWORD}"}),
    }

    def run(command: tuple[list[str], dict[str, str]]) -> bytes:
        words, more = command
        ran = subprocess.run(
            [darkroom, *words], env=env | more, capture_output=True, check=False, timeout=60, cwd=house.folder
        )
        return ran.stdout + ran.stderr

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(commands, pool.map(run, commands.values()), strict=True))


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Run it all once."""
    found = Traces()
    password = {"FLOWER_BASIC_AUTH": f"operator:{FLOWER_PASSWORD}"}
    with (
        House(tmp_path_factory.mktemp("canaries"), password=REDIS_PASSWORD) as house,
        Echoing() as echoing,
        with_canaries(house, echoing),
        overheard(house.state) as state,
        overheard(house.broker) as broker,
        received(house.settings) as events,
        FlowerProc(house.folder / "flower", house.settings, env=password) as flower,
        httpx.Client(
            base_url=flower.url, auth=("operator", FLOWER_PASSWORD), trust_env=False, timeout=30
        ) as http,
    ):
        run = Run(house, http)
        for client, log_format in _HALVES.items():
            log, page = run.half(client, log_format)
            found.logs[f"log of {client}"], found.metrics[f"metrics of {client}"] = log, page
        with house.worker("asked"):  # somebody has to answer Flower's questions
            found.flower = run.flower_pages()
        found.logs["log of flower"] = flower.log().encode()
        with ExporterProc(house.folder / "exporter", house.settings) as exporter:
            found.metrics["exporter"] = httpx.get(exporter.url, trust_env=False, timeout=20).content
            found.logs["log of exporter"] = exporter.log().encode()
        found.commands = said_by_commands(house, next(iter(run.expected)))
        found.events = {"events": "\n".join(events).encode()}
        found.echoed = [job for job in house.darkroom.get_many(run.echoed) if job is not None]
        found.jobs = [job for job in house.darkroom.get_many(list(run.expected)) if job is not None]
        body = base64.b64encode(json.dumps([[PLANT], {}, {}]).encode()).decode()
        house.broker.client().lpush("planted", json.dumps({"body": body, "headers": {}}))
        found.keys = everything_in(house.state) | {
            f"broker {key}": value for key, value in everything_in(house.broker).items()
        }
        found.heard = {"state": bytes(state), "broker": bytes(broker)}
        found.hooks = httpx.get(f"{house.sink.url}/received", trust_env=False).content
        found.files = files_below(
            house.folder, but=("api-key", "webhook-secret", "s3-secret", "provider", "sink")
        )
        found.secrets = (
            API_KEY, house.sink.secret, house.sink.secret.removeprefix("whsec_")[:24], REDIS_PASSWORD, S3_SECRET,
        )  # fmt: skip
    return found


def test_the_run_was_worth_searching(traces: Traces) -> None:
    """Jobs ended in every way, logs are at DEBUG, and what is searched would show a canary."""
    assert {str(job.state) for job in traces.jobs} == {"completed", "failed", "unknown", "cancelled"}
    for client, log_format in _HALVES.items():
        log = traces.logs[f"log of {client}"]
        assert (b'"level": "debug"' if log_format == "json" else b"[debug") in log
        for stage in ("submit", "poll", "store", "delivery"):
            assert f"{stage}_attempted".encode() in log
    assert {str(job.state) for job in traces.echoed} == {"failed", "unknown"}
    assert any(ECHO in str(job.error_message) for job in traces.echoed)  # so the provider had quoted it
    assert {"wan2.7-image-pro", "main/wan2.7-image"} <= set(
        re.findall("[a-z/0-9.-]+", traces.metrics["exporter"].decode())
    )
    for job in traces.jobs:
        assert having(job.id, {"messages and events": traces.heard["broker"]})
    assert having("main/wan2.7-image", {"messages": traces.heard["broker"]})
    assert having(PROMPT, {"state": traces.heard["state"]})
    assert having("verified", {"hooks": traces.hooks})


def test_api_key_and_webhook_secret_are_nowhere(traces: Traces) -> None:
    """Not in a log, key, message, page, webhook or file; nor is the password of Flower."""
    places = traces.views() | traces.keys | traces.files | traces.commands
    places |= {"state": traces.heard["state"], "hooks": traces.hooks}
    for secret in (*traces.secrets, FLOWER_PASSWORD):
        assert having(secret, places) == []
    assert having("tests-only-secret", places) == []  # the webhook secret, decoded


@pytest.mark.parametrize("canary", [PROMPT, NEGATIVE])
def test_a_prompt_is_in_its_jobs_spec_only(traces: Traces, canary: str) -> None:
    """Of all keys only `{namespace}:r:JOB` has it; no log, message, event, page, webhook or error text does."""
    assert having(canary, traces.keys) == sorted(f"{{darkroom}}:r:{job.id}" for job in traces.jobs)
    assert having(canary, traces.views()) == []
    assert having(canary, {"hooks": traces.hooks}) == []
    assert having(canary, {repr(job): repr(job).encode() for job in traces.jobs}) == []
    told = [f"{job.error_message} {job.unknown_cause} {job.timeline}" for job in traces.jobs]
    assert not any(canary in text for text in told)


def test_what_a_provider_quotes_stays_with_its_job(traces: Traces) -> None:
    """It is in the job's spec and, as the provider's own words, in its record: in no log, event, metric or page."""
    assert having(ECHO, traces.views()) == []
    ours = {f"{{darkroom}}:{kind}:{job.id}" for job in traces.echoed for kind in ("r", "x")}
    assert set(having(ECHO, traces.keys)) <= ours
    assert having(ECHO, {name: page for name, page in traces.commands.items() if name != "unknown"}) == []


def test_one_line_per_attempt_has_all_that_finds_it_again(traces: Traces) -> None:
    """Of every stage, in logs that are JSON: lane, outcome, cause, epoch, number, latency and ids."""
    lines = [
        json.loads(line) for line in traces.logs["log of pyreqwest"].splitlines() if line.startswith(b"{")
    ]
    fields = {
        "job_id",
        "lane",
        "outcome",
        "cause",
        "epoch",
        "attempt",
        "latency_ms",
        "intent_id",
        "generation_id",
    }
    for event in ("submit_attempted", "poll_attempted", "store_attempted", "delivery_attempted"):
        found = [line for line in lines if line["event"] == event]
        assert found, event
        assert all(fields | {"stage"} <= line.keys() for line in found), event
        assert all(line["attempt"] >= 1 and line["latency_ms"] >= 0 and line["outcome"] for line in found), (
            event
        )
        if event in ("poll_attempted", "store_attempted"):
            assert all(line["intent_id"] and line["generation_id"] and line["lane"] for line in found), event
    refused = [
        line for line in lines if line["event"] == "submit_attempted" and line["outcome"] == "LaneBlocked"
    ]
    assert [line["cause"] for line in refused] == ["invalid_api_key"]


def test_prompts_travel_to_the_state_server_once(traces: Traces) -> None:
    """Of all commands only the enqueue has a prompt, and what it writes: no transition repeats it."""
    enqueue = script("enqueue_jobs")
    allowed = (enqueue.sha, enqueue.text.splitlines()[1], 'lua] "MSET"')  # by hash, as text, its one write
    lines = [line for line in traces.heard["state"].split(b"\r\n") if PROMPT.encode() in line]
    assert len(lines) >= 2 * len(traces.jobs)
    assert [line[:200] for line in lines if not any(each.encode() in line for each in allowed)] == []


def test_owners_words_stay_with_their_jobs(traces: Traces) -> None:
    """Metadata and webhook URLs are in the spec and go to the owner's endpoint; idempotency keys are digests."""
    specs = {
        METADATA: sorted(f"{{darkroom}}:r:{job.id}" for job in traces.jobs),
        HOOK_TOKEN: sorted(f"{{darkroom}}:r:{job.id}" for job in (*traces.jobs, *traces.echoed)),
    }
    for canary, those in specs.items():
        assert having(canary, traces.keys) == those
        assert having(canary, traces.views()) == []
    assert having(METADATA, {"hooks": traces.hooks})
    assert having(IDEMPOTENCY, traces.keys | traces.views() | {"hooks": traces.hooks}) == []


def test_input_images_are_in_the_object_store_only(traces: Traces) -> None:
    """Not in Redis, not even on the way; not in a message, log, page or webhook."""
    places = traces.keys | traces.views() | {"state": traces.heard["state"], "hooks": traces.hooks}
    base64_of_it = input_image().partition(",")[2][200:240]
    assert having(PIXELS, places) == having(base64_of_it, places) == []
    with_it = [name for name, content in traces.files.items() if PIXELS.encode() in content]
    assert with_it
    assert all(name.startswith("artifacts/") for name in with_it)


def test_errors_of_producers_quote_no_prompt_and_no_image(house: House) -> None:
    """Neither their sentences nor their tracebacks, which end up in the logs of backends."""
    good = {"model": "wan2.7-image", "prompt": PROMPT}
    bad: list[dict[str, Any]] = [
        {**good, "size": "17K"},
        {**good, "n": 99, "seed": "x", "surprise": True},
        {**good, "prompt": PROMPT * 1000},
        {**good, "prompt": {"text": PROMPT}},
        {**good, "negative_prompt": NEGATIVE * 1000},
        {**good, "image_urls": [input_image() + "!"]},
        {**good, "image_urls": [input_image().replace("image/png", "image/tiff")]},
    ]
    raised = []
    for request in bad:
        with pytest.raises(InvalidRequest) as found:
            house.darkroom.enqueue(request)
        raised.append(found.value)
    house.darkroom.enqueue(good, idempotency_key="k")
    with pytest.raises(IdempotencyConflict) as conflict:
        house.darkroom.enqueue({**good, "prompt": f"{PROMPT} again"}, idempotency_key="k")
    receipt = house.darkroom.enqueue_many(bad)
    assert receipt.rejected == len(bad)
    texts = ["".join(traceback.format_exception(error)) for error in (*raised, conflict.value)]
    texts += [f"{error!r} {getattr(error, 'issues', '')}" for error in (*raised, conflict.value)]
    texts.append(repr(list(receipt.items)))
    base64_of_it = input_image().partition(",")[2][200:240]
    for canary in (PROMPT, NEGATIVE, base64_of_it):
        assert [text for text in texts if canary in text] == []


def test_the_search_finds_what_is_there(traces: Traces) -> None:
    """The name of a worker, of an account, of what is in a message: a plant in each kind of place is found."""
    kinds: dict[str, dict[str, bytes]] = {
        "logs, JSON": {"": traces.logs["log of pyreqwest"]},
        "logs, console": {"": traces.logs["log of httpx"]},
        "events": traces.events,
        "messages": {"": traces.heard["broker"]},
        "lists of the broker": {name: raw for name, raw in traces.keys.items() if name.endswith("planted")},
        "state": {name: raw for name, raw in traces.keys.items() if not name.startswith("broker")},
        "commands of the state": {"": traces.heard["state"]},
        "metrics of workers": {"": traces.metrics["metrics of pyreqwest"]},
        "metrics of the store": {"": traces.metrics["exporter"]},
        "output of commands": traces.commands,
        "pages of Flower": {
            name: page for name, page in traces.flower.items() if not name.startswith("/api")
        },
        "API of Flower": {name: page for name, page in traces.flower.items() if name.startswith("/api")},
    }
    assert [kind for kind, places in kinds.items() if not having(PLANT, places)] == []
    assert having(METADATA, {"webhooks": traces.hooks})
    assert having(PLANT, {"plain": b"x planted-canary"})
    assert having(PLANT, {"base64": b"eyJh" + base64.b64encode(b"xxplanted-canary")})
