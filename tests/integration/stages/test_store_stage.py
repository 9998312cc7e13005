"""Copying images out of the provider's reach: what is recorded, what is tried again, what ends the job."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from producers.redrives import redrive
from producers.selection import Selection
from shared.errors import StorageError
from shared.jobs.commands import plan_cancel
from shared.jobs.store import JobStore
from shared.settings import StorageSettings, WebhookSettings
from shared.settings_section import SecretReference
from shared.storage import open_store
from tests.integration.stages.conftest import LANE, Told, Works, accepted, json_answer
from tests.process import free_ports
from tests.servers import SandboxProc
from tests.unit.workers.delivery.loopback_server import answer, ok, serving
from workers.bootstrap import Runtime
from workers.delivery import download
from workers.delivery import egress as egress_module
from workers.delivery.download import Downloader
from workers.delivery.egress import Egress, EgressPolicy
from workers.event_loop import EventLoop
from workers.stages.stage import Shop
from workers.stages.store import HOPELESS_TRIES, StoreStage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from shared.settings import Settings
    from shared.storage import ObjectStore
    from tests.conftest import State
    from tests.unit.workers.delivery.loopback_server import LoopbackServer
    from workers.claims import Entry

pytestmark = pytest.mark.anyio

PRICE = 200_000
LIMIT_BYTES = 64 * 1024
FAR_S = 4_000_000_000
PAST_S = 1_000_000_000
OPEN = EgressPolicy(allow_private=True, allow_http=True)
METADATA_URL = "http://169.254.169.254/latest/meta-data/"
WEBHOOK = "https://consumer.test/hook"


def picture(format_name: str = "PNG", *, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), colour).save(buffer, format_name)
    return buffer.getvalue()


@dataclass
class Gallery:
    """The provider's file server: what each path answers, and what was asked for."""

    server: LoopbackServer
    replies: dict[str, bytes | Callable[[], bytes]] = field(default_factory=dict)

    def put(self, path: str, reply: bytes | Callable[[], bytes]) -> str:
        """Let a path answer so; give its URL."""
        self.replies[path] = reply
        return f"http://{self.server.address}:{self.server.port}{path}"

    def asked(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.server.heads]


class Storing(Works):
    """Stages up to store, with a real egress guard, real downloads and a real folder of objects."""

    gallery: Gallery
    folder: Path
    policy = OPEN

    async def open(self) -> None:
        await super().open()
        self.store: ObjectStore = open_store(self.settings.storage)
        self.egress = Egress(self.policy)
        self.store_stage = self.stage_with(self.store)

    def stage_with(self, store: ObjectStore, **downloads: Any) -> StoreStage:
        parts = Downloader(self.egress, self.folder / "parts", LIMIT_BYTES, **downloads)
        shop = Shop(
            self.recorder, self.submit_stage._shop.claims, self.told, lambda *told: self.armed.append(told)
        )
        http = self.poll_stage._client
        return StoreStage(shop, self.poll_stage._lanes, http, parts, store, self.settings)

    async def close(self) -> None:
        await super().close()
        await self.egress.aclose()

    async def storing(
        self, *urls: str, n: int | None = None, expires_at: int | None = FAR_S, generation_id: str = "task_1"
    ) -> str:
        """Bring a job to `storing`, its images behind these URLs."""
        job_id = self.enqueue(n=n or len(urls), webhook=WEBHOOK)
        await self.submit(accepted(generation_id))
        await self.poll(delivered(*urls, expires_at=expires_at))
        assert self.job(job_id).state == "storing"
        return job_id

    async def claim_store(self) -> list[Entry]:
        """Claim what waits to be stored, due or not, leased or not."""
        index = self.state.keys.index("store")
        members: Any = self.state.client.zrange(index, 0, -1)
        for member in members:
            self.state.client.zadd(index, {member: 0})
        return list((await self.store_stage.claim("", 10, suspects=True)).entries)

    async def copy(self, times: int = 1) -> None:
        for _ in range(times):
            for entry in await self.claim_store():
                await self.store_stage.handle(entry)

    def urls(self, job_id: str) -> list[dict[str, Any]]:
        found: Any = json.loads(self.state.client.hget(self.state.keys.detail(job_id), "urls") or b"[]")
        return list(found)

    def edit_urls(self, job_id: str, **fields: Any) -> None:
        """Let the recorded URLs be so."""
        urls = [url | fields for url in self.urls(job_id)]
        self.state.client.hset(self.state.keys.detail(job_id), "urls", json.dumps(urls))

    def events(self) -> list[str]:
        keys = self.state.keys
        waiting: Any = self.state.client.zrange(keys.index("notify"), 0, -1)
        found: Any = [self.state.client.hget(keys.delivery(each.decode()), "event") for each in waiting]
        return sorted(event.decode() for event in found)

    def waits_ms(self, job_id: str) -> float | None:
        """How long until the job is due in the store's index; None if it is not there."""
        score = self.state.client.zscore(self.state.keys.index("store"), job_id)
        seconds, micros = self.state.client.time()
        return None if score is None else float(score) - seconds * 1000 - micros / 1000

    def parts(self) -> list[Path]:
        return list((self.folder / "parts").iterdir())


def delivered(*urls: str, expires_at: int | None = FAR_S) -> Any:
    life = {} if expires_at is None else {"expires_at": expires_at}
    found = [{"url": [url], **life} for url in urls]

    def reply(request: httpx.Request) -> httpx.Response:
        asked = request.url.path.rpartition("/")[2]
        data = {"id": asked, "status": "completed", "result": {"images": found}}
        return httpx.Response(200, json={"code": 200, "data": data})

    return reply


def of_storage(state: State, folder: Path) -> Storing:
    state.owned.append("*")
    update = {
        "storage": StorageSettings(url=f"file://{folder / 'objects'}", max_image_bytes=LIMIT_BYTES),
        "webhooks": WebhookSettings(allow_private=True, allow_http=True),
    }
    bench = Storing(state, state.settings.model_copy(update=update))
    bench.folder = folder
    return bench


@pytest.fixture
async def storing(state: State, tmp_path: Path) -> AsyncIterator[Storing]:
    """A store stage and a gallery that answers what the test says."""
    gallery: Gallery

    async def respond(head: bytes, writer: asyncio.StreamWriter) -> None:
        reply = gallery.replies.get(head.split(b" ")[1].decode(), answer("404 Not Found"))
        raw = reply if isinstance(reply, bytes) else reply()
        writer.write(raw)
        if b"Connection: close" in raw:
            writer.close()

    async with serving(respond) as server:
        gallery = Gallery(server)
        bench = of_storage(state, tmp_path)
        bench.gallery = gallery
        await bench.open()
        yield bench
        await bench.close()


# --- what is stored and recorded


@pytest.mark.parametrize(
    ("format_name", "media_type", "extension"),
    [("PNG", "image/png", "png"), ("JPEG", "image/jpeg", "jpg"), ("WEBP", "image/webp", "webp")],
)
async def test_an_image_is_stored_with_its_facts(
    storing: Storing, format_name: str, media_type: str, extension: str
) -> None:
    """Type from the bytes (not from the name), size, sha256, pixels; the object is what was served; then completed."""
    content = picture(format_name)
    job_id = await storing.storing(storing.gallery.put("/a.bin", ok(content, "Content-Type: text/html")))
    await storing.copy()
    job = storing.job(job_id)
    (artifact,) = job.artifacts
    assert (job.state, job.partial, job.cost_micros, job.hold_micros) == ("completed", False, PRICE, 0)
    assert (artifact.media_type, artifact.width, artifact.height) == (media_type, 48, 32)
    assert (artifact.sha256, artifact.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert artifact.object_key == f"acme/{job_id}/0.{extension}"
    assert await storing.store.read(artifact.object_key) == content
    assert job.stored_at
    assert job.finished_at == job.stored_at
    assert (storing.parts(), storing.waits_ms(job_id)) == ([], None)
    assert (storing.told.events[-1], storing.armed[-1]) == (("succeeded", job_id), ("notify", "", 0))
    assert storing.events() == ["image.completed"]


async def test_every_image_of_a_job_is_stored_in_order(storing: Storing) -> None:
    """Six images, answered in any order, are recorded by their place."""
    contents = [picture(colour=colour) for colour in ("red", "green", "blue", "black", "white", "pink")]
    urls = [storing.gallery.put(f"/{at}.png", ok(content)) for at, content in enumerate(contents)]
    job_id = await storing.storing(*urls)
    await storing.copy()
    artifacts = storing.job(job_id).artifacts
    assert [artifact.index for artifact in artifacts] == list(range(6))
    assert [artifact.sha256 for artifact in artifacts] == [
        hashlib.sha256(content).hexdigest() for content in contents
    ]


async def test_a_partial_delivery_is_complete_with_what_came(storing: Storing) -> None:
    """Two of four: both are stored, the job is partial and settled at two."""
    urls = [storing.gallery.put(f"/{at}.png", ok(picture())) for at in range(2)]
    job_id = await storing.storing(*urls, n=4)
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.partial, job.cost_micros, len(job.artifacts)) == ("completed", True, 2 * PRICE, 2)


async def test_no_key_of_ours_goes_to_the_file_server(storing: Storing) -> None:
    """The URL may lead anywhere: no authorization, no cookie."""
    await storing.storing(storing.gallery.put("/a.png", ok(picture())))
    await storing.copy()
    (head,) = storing.gallery.server.heads
    assert b"canary-key" not in head
    assert b"authorization" not in head.lower()


async def test_the_images_of_the_sandbox_are_stored(storing: Storing, sandbox: SandboxProc) -> None:
    """Real PNGs over HTTP, several of them, with the URLs and the life that the provider gives."""
    done = finished(sandbox, "two pictures", n=2)
    job_id = storing.enqueue(n=2)
    await storing.submit(accepted())
    await storing.poll(json_answer(200, {"code": 200, "data": done}))
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, len({artifact.sha256 for artifact in job.artifacts})) == ("completed", 2)
    for artifact in job.artifacts:
        assert await storing.store.sha256_of(artifact.object_key or "") == artifact.sha256
        assert artifact.media_type == "image/png"


@pytest.fixture(scope="module")
def sandbox(folder_of_servers: Path) -> Iterator[SandboxProc]:
    with SandboxProc(folder_of_servers / "sandbox-of-store", latency_s=0.01) as proc:
        yield proc


def finished(sandbox: SandboxProc, prompt: str, n: int = 1) -> dict[str, Any]:
    """Let the sandbox generate; give its task when that has ended."""
    with httpx.Client(
        base_url=sandbox.url, headers={"Authorization": f"Bearer {sandbox.api_key}"}, trust_env=False
    ) as client:
        body = {"model": "wan2.7-image", "prompt": prompt, "n": n}
        task_id = client.post("/v1/images/generations", json=body).json()["data"][0]["task_id"]
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            data: dict[str, Any] = client.get(f"/v1/tasks/{task_id}").json()["data"]
            if data["status"] == "completed":
                return data
            time.sleep(0.01)
    raise AssertionError("the sandbox did not finish")


# --- create-only


async def test_the_same_bytes_there_already_are_success(storing: Storing) -> None:
    """A worker died between put and record: the next one finds its object, and nothing is written twice."""
    content = picture()
    url = storing.gallery.put("/a.png", ok(content))
    job_id = await storing.storing(url)
    (first,) = await storing.claim_store()
    copied, problems = await storing.store_stage._copy_all(first, [{"url": url}], [])
    assert (len(copied), problems) == (1, [])
    await storing.copy()
    assert storing.job(job_id).state == "completed"
    assert await storing.store.read(f"acme/{job_id}/0.png") == content


async def test_other_bytes_are_never_replaced(storing: Storing) -> None:
    """A conflict does not pass by itself: after a few tries the job fails, billed, and the object is what it was."""
    url = storing.gallery.put("/a.png", ok(picture(colour="blue")))
    job_id = await storing.storing(url)
    path = storing.folder / "objects" / "acme" / job_id / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody else's")
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.timeline[-1].note.startswith("copy failed: storage: ")) == ("storing", True)
    await storing.copy(HOPELESS_TRIES)
    assert_copy_failed(storing, job_id)
    assert path.read_bytes() == b"somebody else's"


def assert_copy_failed(storing: Storing, job_id: str, cause: str = "") -> None:
    """Failed and billed; what a redrive needs is kept; told and announced."""
    job = storing.job(job_id)
    assert (job.state, job.error_code, job.hold_micros) == ("failed", "copy_failed", 0)
    assert job.cost_micros >= PRICE
    assert job.generation_id == "task_1"
    assert storing.urls(job_id)
    assert cause in (job.error_message or "")
    assert storing.waits_ms(job_id) is None
    assert (storing.told.events[-1], storing.armed[-1]) == (("failed", job_id), ("notify", "", 0))
    assert storing.events() == ["image.failed"]
    assert storing.parts() == []


# --- URLs that die


async def test_a_dead_url_ends_the_job_billed(storing: Storing) -> None:
    """Past the URL's life nothing will bring the image: copy_failed, with URL and id kept."""
    job_id = await storing.storing(storing.gallery.put("/a.png", answer("403 Forbidden")))
    storing.edit_urls(job_id, expires_at=PAST_S * 1000)
    await storing.copy()
    assert_copy_failed(storing, job_id, "status_403")


async def test_an_expired_url_of_the_sandbox_ends_the_job(storing: Storing, sandbox: SandboxProc) -> None:
    """The same with a provider whose links really die, and who says when they do."""
    done = finished(sandbox, "short [[fault:url_ttl:0.05]]")
    (image,) = done["result"]["images"]
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while time.time() <= image["expires_at"] or (await client.get(image["url"][0])).is_success:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another process forgets it: there is no event to wait for
    job_id = storing.enqueue(webhook=WEBHOOK)
    await storing.submit(accepted())
    await storing.poll(json_answer(200, {"code": 200, "data": done}))
    await storing.copy()
    assert_copy_failed(storing, job_id, "status_403")


def redriven(storing: Storing, job_id: str) -> None:
    report = redrive(storing.settings, Selection(ids=(job_id,)), by="anna")
    assert (report.done, storing.job(job_id).state) == (1, "storing")


async def test_a_redriven_copy_asks_once_where_the_images_are_now(storing: Storing) -> None:
    """Its URLs are long dead, and the provider may still have the images: Flower hears of the retry first."""
    job_id = await storing.storing(storing.gallery.put("/a.png", answer("403 Forbidden")), expires_at=PAST_S)
    await storing.copy()
    assert_copy_failed(storing, job_id, "status_403")
    redriven(storing, job_id)
    storing.told.events.clear()
    storing.answer = delivered(storing.gallery.put("/new.png", ok(picture())), expires_at=PAST_S)
    await storing.copy()
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.cost_micros, len(job.artifacts)) == ("completed", PRICE, 1)
    started = ("started", job_id)
    assert storing.told.events == [("retried", job_id), started, started, ("succeeded", job_id)]


async def test_a_redriven_copy_fails_again_if_nobody_has_the_images(storing: Storing) -> None:
    """The provider is asked once, then it is over again: it is not tried for ever, and not paid again."""
    url = storing.gallery.put("/a.png", answer("404 Not Found"))
    job_id = await storing.storing(url, expires_at=PAST_S)
    await storing.copy()
    redriven(storing, job_id)
    storing.answer = delivered(url, expires_at=PAST_S)
    asked = len(storing.requests)
    await storing.copy()
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.error_code, job.cost_micros) == ("failed", "copy_failed", PRICE)
    assert len(storing.requests) == asked + 1


async def test_what_still_answers_after_its_time_is_stored(storing: Storing) -> None:
    """The provider's expiry is a hint: an image that can be had is taken."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())), expires_at=PAST_S)
    await storing.copy()
    assert storing.job(job_id).state == "completed"


@pytest.mark.parametrize("trouble", ["store", "disk"])
async def test_our_own_trouble_does_not_end_a_url_that_still_answers(
    storing: Storing, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """The image is there to be had: it is waited for a store, or a disk, as it was before that time."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())), expires_at=PAST_S)

    async def away(*_args: Any, **_more: Any) -> None:
        raise StorageError("object store: put failed", kind="unavailable")

    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if trouble == "store":
            patched.setattr(storing.store, "put_file", away)
        else:
            patched.setattr(download._Part, "write", full)
        await storing.copy(2)
    assert storing.job(job_id).state == "storing"
    await storing.copy()
    assert storing.job(job_id).state == "completed"


async def test_a_refused_url_is_asked_for_anew(storing: Storing) -> None:
    """A signature may die early: the provider is asked where the image is now, and that is tried next."""
    dead, good = picture(colour="red"), picture(colour="blue")
    urls = [
        storing.gallery.put("/0.png", ok(dead)),
        storing.gallery.put("/1.png?sig=old", answer("403 Forbidden")),
    ]
    job_id = await storing.storing(*urls)
    storing.answer = delivered(urls[0], storing.gallery.put("/1.png?sig=new", ok(good)))
    asked = len(storing.requests)
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, [artifact.index for artifact in job.artifacts]) == ("storing", [0])
    assert len(storing.requests) == asked + 1
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, len(job.artifacts)) == ("completed", 2)
    assert storing.gallery.asked().count("/0.png") == 1, "what is stored is not fetched again"


@pytest.mark.parametrize("count", [0, 1, 3], ids=["none", "fewer", "more"])
async def test_another_number_of_images_is_not_believed(storing: Storing, count: int) -> None:
    """It is settled at two: an answer that now has another number cannot say which image is which."""
    urls = [storing.gallery.put(f"/{at}.png", answer("404 Not Found")) for at in range(2)]
    job_id = await storing.storing(*urls)
    storing.answer = delivered(*(storing.gallery.put(f"/new{at}.png", ok(picture())) for at in range(count)))
    await storing.copy()
    assert [url["url"] for url in storing.urls(job_id)] == urls
    await storing.copy()
    assert storing.job(job_id).state == "storing"


async def test_a_url_that_stays_dead_is_not_tried_for_ever(storing: Storing) -> None:
    """A provider that names the same dead URL again, without a life, does not lengthen the life it had."""
    url = storing.gallery.put("/a.png", answer("404 Not Found"))
    job_id = await storing.storing(url, expires_at=None)
    before = storing.urls(job_id)
    storing.answer = delivered(url, expires_at=None)
    await storing.copy(3)
    assert storing.urls(job_id) == before
    storing.edit_urls(job_id, expires_at=PAST_S * 1000)
    await storing.copy()
    assert_copy_failed(storing, job_id, "status_404")


async def test_the_life_of_a_stored_image_does_not_matter(storing: Storing) -> None:
    """One is stored and its URL dead; the other's lives on: it is tried again, not given up."""
    urls = [
        storing.gallery.put("/0.png", ok(picture())),
        storing.gallery.put("/1.png", answer("503 Service Unavailable")),
    ]
    job_id = await storing.storing(*urls)
    await storing.copy()
    recorded = storing.urls(job_id)
    recorded[0]["expires_at"] = PAST_S * 1000
    storing.state.client.hset(storing.state.keys.detail(job_id), "urls", json.dumps(recorded))
    await storing.copy()
    assert storing.job(job_id).state == "storing"
    storing.gallery.put("/1.png", ok(picture()))
    await storing.copy()
    assert storing.job(job_id).state == "completed"


# --- trouble that passes


@pytest.mark.parametrize(
    "trouble",
    [
        answer("500 Internal Server Error"),
        answer("429 Too Many Requests"),
        ok(b""),
        ok(b"<html>try later</html>"),
        ok(picture()[:-20]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + picture(),
    ],
    ids=["500", "429", "empty", "a page", "truncated", "cut off"],
)
async def test_trouble_that_may_pass_is_tried_again(storing: Storing, trouble: bytes) -> None:
    """The job keeps its place, the bill its number; nothing half is stored; then it works."""
    job_id = await storing.storing(storing.gallery.put("/a.png", trouble))
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.cost_micros, job.attempts) == ("storing", PRICE, 0)
    waits_ms = storing.waits_ms(job_id)
    assert waits_ms is not None
    assert 0 < waits_ms <= 1000 * storing.settings.retry.cap_s
    stage, _, armed_ms = storing.armed[-1]
    assert (stage, armed_ms >= 100) == ("store", True)
    assert await storing.store.head(f"acme/{job_id}/0.png") is None
    storing.gallery.put("/a.png", ok(picture()))
    await storing.copy()
    assert storing.job(job_id).state == "completed"


async def test_storage_that_is_down_keeps_the_job(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is there, the store is not: tried again for as long as the URL lives, then stored."""
    monkeypatch.setenv("TESTS_NO_STORE", "nobody")
    away = StorageSettings(
        url="s3://bucket/prefix", endpoint=f"http://127.0.0.1:{free_ports(1)[0]}", allow_http=True,
        access_key_id=SecretReference(env="TESTS_NO_STORE"), secret_access_key=SecretReference(env="TESTS_NO_STORE"),
    )  # fmt: skip
    url = storing.gallery.put("/a.png", ok(picture()))
    job_id = await storing.storing(url)
    up, storing.store_stage = storing.store_stage, storing.stage_with(open_store(away))
    await storing.copy(HOPELESS_TRIES + 1)
    job = storing.job(job_id)
    assert (job.state, job.cost_micros) == ("storing", PRICE)
    assert "storage: object store: put failed" in job.timeline[-1].note
    assert storing.parts() == []
    storing.store_stage = up
    await storing.copy()
    assert storing.job(job_id).state == "completed"


def _noted(storing: Storing) -> list[str | None]:
    """What submits and operators are told of the store: its trouble, how many failures, whether submits wait."""
    names = ("store_failing", "store_failures", "store_stopped_at")
    found: Any = storing.state.client.hmget(storing.state.keys.control, names)
    return [None if each is None else each.decode() for each in found]


async def test_a_full_store_stops_submits_until_a_copy_succeeds(
    storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three jobs in a row could not be put: nothing more is submitted, until the first of them is."""
    jobs = [
        await storing.storing(storing.gallery.put(f"/{nr}.png", ok(picture())), generation_id=f"task_{nr}")
        for nr in range(3)
    ]

    async def full(*_args: Any, **_more: Any) -> None:
        raise StorageError("object store: put failed", kind="full")

    with monkeypatch.context() as patched:
        patched.setattr(storing.store, "put_file", full)
        await storing.copy()
    kind, failures, stopped_at = _noted(storing)
    assert (kind, failures, stopped_at is not None) == ("full", "3", True)
    waiting = storing.enqueue()
    claim = await storing.submit_stage.claim(LANE, 10, suspects=True)
    assert (claim.reason, claim.entries) == ("storage", ())
    await storing.copy()
    assert _noted(storing) == [None, None, None]
    assert {storing.job(job_id).state for job_id in jobs} == {"completed"}
    await storing.submit(accepted("task_last"))
    assert storing.job(waiting).state == "generating"


async def test_result_urls_that_fail_say_nothing_of_the_store(storing: Storing) -> None:
    """What cannot be downloaded is the provider's trouble: submits go on."""
    trouble = answer("500 Internal Server Error")
    for nr in range(3):
        await storing.storing(storing.gallery.put(f"/{nr}.png", trouble), generation_id=f"task_{nr}")
    await storing.copy(2)
    assert _noted(storing) == [None, None, None]


async def test_a_store_that_takes_some_images_is_not_in_trouble(
    storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image put, one refused: neither a success that ends a trouble, nor a failure."""
    put_file, puts = storing.store.put_file, []

    async def every_other(*args: Any, **more: Any) -> None:
        puts.append(args)
        if len(puts) % 2 == 0:
            raise StorageError("object store: put failed", kind="denied")
        await put_file(*args, **more)

    monkeypatch.setattr(storing.store, "put_file", every_other)
    job_id = await storing.storing(*(storing.gallery.put(f"/{nr}.png", ok(picture())) for nr in range(2)))
    await storing.copy()
    assert (storing.job(job_id).state, _noted(storing)) == ("storing", [None, None, None])
    await storing.copy()
    assert (storing.job(job_id).state, _noted(storing)) == ("completed", [None, None, None])


async def test_storage_that_is_off_pushes_the_provider_urls(works: Works) -> None:
    """Without a store the job completes at the poll, with URLs and their life, and nothing waits to be stored."""
    job_id = works.enqueue()
    await works.submit(accepted())
    await works.poll(delivered("https://r.test/0.png", expires_at=FAR_S))
    job = works.job(job_id)
    (artifact,) = job.artifacts
    assert (job.state, job.stored_at) == ("completed", None)
    assert (artifact.url, artifact.expires_at) == ("https://r.test/0.png", FAR_S * 1000)
    assert (artifact.object_key, artifact.sha256) == (None, None)
    assert works.state.client.zcard(works.state.keys.index("store")) == 0


# --- hostile content


@pytest.mark.parametrize(
    ("hostile", "cause"),
    [
        (ok(picture() + b"x" * LIMIT_BYTES), "response_too_large"),
        (ok(b"MZ\x90\x00" + b"\0" * 2000), "not_an_image"),
        (answer("302 Found", f"Location: {METADATA_URL}"), "forbidden_address"),
        (answer("302 Found", "Location: file:///etc/passwd"), "forbidden_address"),
    ],
    ids=["too big", "not an image", "redirect to metadata", "redirect to a file"],
)
async def test_hostile_content_is_given_up_soon(storing: Storing, hostile: bytes, cause: str) -> None:
    """What will not get better is not fetched for a whole day: a few tries, then copy_failed; no file is left."""
    job_id = await storing.storing(storing.gallery.put("/a.png", hostile))
    await storing.copy(HOPELESS_TRIES - 1)
    assert storing.job(job_id).state == "storing"
    await storing.copy()
    assert_copy_failed(storing, job_id, cause)
    assert len(storing.gallery.server.heads) == HOPELESS_TRIES
    assert await storing.store.head(f"acme/{job_id}/0.png") is None


async def test_a_redirect_to_an_image_is_followed(storing: Storing) -> None:
    """Each hop goes through the guard again, and an allowed one is taken."""
    target = storing.gallery.put("/b.png", ok(picture()))
    job_id = await storing.storing(storing.gallery.put("/a.png", answer("302 Found", f"Location: {target}")))
    await storing.copy()
    assert storing.job(job_id).state == "completed"
    assert storing.gallery.asked() == ["/a.png", "/b.png"]


async def test_redirects_without_end_are_given_up_for_now(storing: Storing) -> None:
    """A loop is a trouble that may pass, not a hang."""
    url = storing.gallery.put("/a.png", answer("302 Found", "Location: /a.png"))
    job_id = await storing.storing(url)
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, "too_many_redirects" in job.timeline[-1].note) == ("storing", True)


async def test_private_addresses_are_not_reached(storing: Storing) -> None:
    """Unless a setting allows them: the provider's word leads nowhere inside our network."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())))
    await storing.egress.aclose()
    storing.egress = Egress(EgressPolicy(allow_private=False, allow_http=True, allowed_ports=None))
    storing.store_stage = storing.stage_with(storing.store)
    await storing.copy(HOPELESS_TRIES)
    assert_copy_failed(storing, job_id, "forbidden_address")
    assert storing.gallery.server.connections == 0


async def test_hosts_that_are_not_the_providers_are_not_reached(storing: Storing) -> None:
    """With result_hosts set, an image elsewhere is refused."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())))
    storing.store_stage = storing.stage_with(storing.store, result_hosts=(".provider.test",))
    await storing.copy(HOPELESS_TRIES)
    assert_copy_failed(storing, job_id, "forbidden_address")
    assert storing.gallery.server.connections == 0


async def test_one_hopeless_image_does_not_lose_the_others(storing: Storing) -> None:
    """What could be stored is recorded with the failed job: it was paid for."""
    urls = [
        storing.gallery.put("/0.png", ok(picture())),
        storing.gallery.put("/1.png", ok(b"MZ\x90\x00" + b"\0" * 2000)),
    ]
    job_id = await storing.storing(*urls)
    await storing.copy(HOPELESS_TRIES)
    assert_copy_failed(storing, job_id, "not_an_image")
    job = storing.job(job_id)
    assert ([artifact.index for artifact in job.artifacts], job.cost_micros) == ([0], 2 * PRICE)


# --- others act meanwhile


async def test_cancelled_while_storing_is_billed_and_left_alone(storing: Storing) -> None:
    """The owner cancels in the middle of the download: cancelled at once, already settled; the copy changes nothing."""
    jobs = JobStore(storing.state.client, storing.state.keys, storing.settings.limits)

    def cancelling() -> bytes:
        jobs.change(job_id, plan_cancel)
        return ok(picture())

    job_id = await storing.storing(storing.gallery.put("/a.png", cancelling))
    await storing.copy()
    job = storing.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.artifacts) == ("cancelled", PRICE, 0, ())
    assert (storing.waits_ms(job_id), storing.events()) == (None, ["image.cancelled"])
    assert ("succeeded", job_id) not in storing.told.events
    assert await storing.claim_store() == []


async def test_a_lost_lease_is_fenced(storing: Storing) -> None:
    """Another worker took over while we copied: our result counts no more, theirs does, and it is told once."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())))
    (ours,) = await storing.claim_store()
    (theirs,) = await storing.claim_store()
    assert theirs.epoch > ours.epoch
    await storing.store_stage.handle(ours)
    assert storing.job(job_id).state == "storing"
    assert storing.told.events.count(("succeeded", job_id)) == 0
    await storing.store_stage.handle(theirs)
    assert storing.job(job_id).state == "completed"
    assert storing.told.events.count(("succeeded", job_id)) == 1


async def test_a_stale_failure_does_not_move_the_job(storing: Storing) -> None:
    """The same for a holder who only knows bad news."""
    job_id = await storing.storing(storing.gallery.put("/a.png", answer("403 Forbidden")))
    storing.edit_urls(job_id, expires_at=PAST_S * 1000)
    (ours,) = await storing.claim_store()
    (theirs,) = await storing.claim_store()
    await storing.store_stage.handle(ours)
    assert storing.job(job_id).state == "storing"
    await storing.store_stage.handle(theirs)
    assert_copy_failed(storing, job_id)
    assert storing.told.events.count(("failed", job_id)) == 1


async def test_a_job_that_kills_its_workers_is_given_up(storing: Storing) -> None:
    """Three deaths while it was copied alone: copy_failed, billed, without another download."""
    job_id = await storing.storing(storing.gallery.put("/a.png", ok(picture())))
    for _ in range(4):
        await storing.claim_store()
    await storing.copy()
    assert_copy_failed(storing, job_id, "died three times")
    assert storing.gallery.asked() == []


# --- beside webhooks, in a worker


RESULTS = "results.test"
THREADS = 16  # of a resolver
SECRET = "whsec_" + "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLi4="


@dataclass
class NameServer:
    """It knows where the results are, and hangs for every other name until it is told to give up."""

    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gives_up: threading.Event = field(default_factory=threading.Event)

    def look_up(self, host: str) -> list[str]:
        if host == RESULTS:
            return ["127.0.0.1"]
        self.began.release()
        self.gives_up.wait(30)
        raise OSError


def settings_of(bench: Storing) -> Settings:
    """Those of the bench, with a secret, and no more patience than a test has."""
    secret = SecretReference(env="TESTS_RUNTIME_SECRET")
    update = {
        "webhooks": bench.settings.webhooks.model_copy(update={"secret": secret, "timeout_s": 30}),
        "worker": bench.settings.worker.model_copy(update={"download_timeout_s": 3}),
    }
    return bench.settings.model_copy(update=update)


def copied_while_webhooks_hang(bench: Storing, names: NameServer, job_id: str) -> str:
    """Run a worker: first its webhooks, and once they keep every thread waiting, its copies. Give the job's state."""
    settings = settings_of(bench)
    loop = EventLoop()
    loop.start()
    runtime = Runtime(settings, "w2", loop, Told(), lambda *_due: None)
    try:
        runtime.spawn_stage("notify", "")
        assert all(names.began.acquire(timeout=10) for _ in range(THREADS))
        runtime.run_stage("store", "")
        return bench.job(job_id).state
    finally:
        names.gives_up.set()
        runtime.close()
        loop.stop()


async def test_names_of_webhooks_that_hang_do_not_hold_up_images(
    storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners choose the hosts of webhooks, and so how long they take; the images are paid for."""
    names = NameServer()
    monkeypatch.setattr(egress_module, "_look_up", names.look_up)
    monkeypatch.setenv("TESTS_RUNTIME_SECRET", SECRET)
    monkeypatch.setenv("DARKROOM_API_KEY", "canary-key")
    for nr in range(2 * THREADS):
        storing.enqueue(webhook=f"http://{nr}.hooks.test/")
        await storing.submit(json_answer(400, {"error": {"code": 400}}))
    storing.gallery.put("/a.png", ok(picture()))
    job_id = await storing.storing(f"http://{RESULTS}:{storing.gallery.server.port}/a.png")
    state = await asyncio.to_thread(copied_while_webhooks_hang, storing, names, job_id)
    assert state == "completed"
