"""Canaries in every input, successes and failures at log level DEBUG: then everything that was written is searched.

Keys and webhook secrets may be nowhere; a prompt only in its job's spec; an input image only in the object store.
"""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
import time
import traceback
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from PIL import Image, PngImagePlugin

from shared.errors import IdempotencyConflict, InvalidRequest
from shared.redis.scripts import script
from tests.e2e.conftest import API_KEY, House
from tests.servers import FlowerProc, WorkerProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import redis

    from shared.jobs.job import Job
    from tests.servers import ValkeyProc

pytestmark = pytest.mark.timeout(120)

PROMPT: Final = "kingfisher-prompt-canary"
NEGATIVE: Final = "blurred-negative-canary"
METADATA: Final = "invoice-metadata-canary"
HOOK_TOKEN: Final = "hook-token-canary"
IDEMPOTENCY: Final = "idempotency-key-canary"
PIXELS: Final = "pixels-of-the-input-canary"
FLOWER_PASSWORD: Final = "flower-password-canary"

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
    flower: dict[str, bytes] = field(default_factory=dict)
    hooks: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def views(self) -> dict[str, bytes]:
        """Give all that others than the jobs' owners may see."""
        return {**self.logs, **self.flower, "broker": self.heard["broker"]}


def having(canary: str, places: dict[str, bytes]) -> list[str]:
    """Name the places where a canary is, plain or in base64."""
    return sorted(name for name, content in places.items() if canary.encode() in readings(content))


class Run:
    """The canary jobs on one stack: one half through each HTTP client that may submit."""

    def __init__(self, house: House, flower: httpx.Client) -> None:
        self.house, self.flower = house, flower
        self.expected: dict[str, str] = {}

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

    def half(self, submit_http: str) -> bytes:
        """Run every kind of job through one worker, and give its log."""
        worker = self.house.settings.worker.model_copy(update={"submit_http": submit_http})
        settings = self.house.settings.model_copy(update={"worker": worker})
        with WorkerProc(
            self.house.folder / submit_http, settings, "--loglevel", "DEBUG", name=submit_http
        ) as proc:
            ids = {fault: self.enqueue(fault, state) for fault, state in _FAULTS.items()}
            self.enqueue("", "completed", image=input_image())
            never = ids["[[fault:never]]"]
            self.until(lambda: self.states()[never] == "generating", "the one that never ends is generating")
            self.flower.post(f"/api/task/revoke/{never}", params={"terminate": "true"}).raise_for_status()
            self.until(lambda: self.states() == self.expected, "all jobs where they end")
            events = len(self.expected)
            self.until(lambda: self.sink_summary()["verified_unique_ids"] >= events, "all events delivered")
        return proc.log().encode()

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
        paths += ["/broker", f"/task/{one}", *(f"/api/task/info/{job_id}" for job_id in self.expected)]
        return {path: self.flower.get(path).content for path in paths}


def files_below(folder: Path, *, but: Iterable[str]) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in but
    }


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Run it all once."""
    found = Traces()
    password = {"FLOWER_BASIC_AUTH": f"operator:{FLOWER_PASSWORD}"}
    with (
        House(tmp_path_factory.mktemp("canaries")) as house,
        overheard(house.state) as state,
        overheard(house.broker) as broker,
        FlowerProc(house.folder / "flower", house.settings, env=password) as flower,
        httpx.Client(
            base_url=flower.url, auth=("operator", FLOWER_PASSWORD), trust_env=False, timeout=30
        ) as http,
    ):
        run = Run(house, http)
        found.logs = {f"log of {each}": run.half(each) for each in ("pyreqwest", "httpx")}
        with house.worker("asked"):  # somebody has to answer Flower's questions
            found.flower = run.flower_pages()
        found.logs["log of flower"] = flower.log().encode()
        found.jobs = [job for job in house.darkroom.get_many(list(run.expected)) if job is not None]
        found.keys = everything_in(house.state) | {
            f"broker {key}": value for key, value in everything_in(house.broker).items()
        }
        found.heard = {"state": bytes(state), "broker": bytes(broker)}
        found.hooks = httpx.get(f"{house.sink.url}/received", trust_env=False).content
        found.files = files_below(house.folder, but=("api-key", "webhook-secret", "provider", "sink"))
        found.secrets = (API_KEY, house.sink.secret, house.sink.secret.removeprefix("whsec_")[:24])
    return found


def test_the_run_was_worth_searching(traces: Traces) -> None:
    """Jobs ended in every way, logs are at DEBUG, and what is searched would show a canary."""
    assert {str(job.state) for job in traces.jobs} == {"completed", "failed", "unknown", "cancelled"}
    for client in ("pyreqwest", "httpx"):
        log = traces.logs[f"log of {client}"]
        assert b'"level": "debug"' in log
        assert b"submit_attempted" in log
        assert b"delivery_attempted" in log
    for job in traces.jobs:
        assert having(job.id, {"messages and events": traces.heard["broker"]})
    assert having("main/wan2.7-image", {"messages": traces.heard["broker"]})
    assert having(PROMPT, {"state": traces.heard["state"]})
    assert having("verified", {"hooks": traces.hooks})


def test_api_key_and_webhook_secret_are_nowhere(traces: Traces) -> None:
    """Not in a log, key, message, page, webhook or file; nor is the password of Flower."""
    places = traces.views() | traces.keys | traces.files
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


def test_prompts_travel_to_the_state_server_once(traces: Traces) -> None:
    """Of all commands only the enqueue has a prompt, and what it writes: no transition repeats it."""
    enqueue = script("enqueue_jobs")
    allowed = (enqueue.sha, enqueue.text.splitlines()[1], 'lua] "MSET"')  # by hash, as text, its one write
    lines = [line for line in traces.heard["state"].split(b"\r\n") if PROMPT.encode() in line]
    assert len(lines) >= 2 * len(traces.jobs)
    assert [line[:200] for line in lines if not any(each.encode() in line for each in allowed)] == []


def test_owners_words_stay_with_their_jobs(traces: Traces) -> None:
    """Metadata and webhook URLs are in the spec and go to the owner's endpoint; idempotency keys are digests."""
    specs = sorted(f"{{darkroom}}:r:{job.id}" for job in traces.jobs)
    for canary in (METADATA, HOOK_TOKEN):
        assert having(canary, traces.keys) == specs
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
