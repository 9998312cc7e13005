"""Telling endpoints: what is sent for every event, what each answer makes of the delivery, and when it is tried again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from structlog.testing import capture_logs

import workers.stages.notify as notify_module
from producers.redrives import redrive
from producers.selection import Selection
from shared.jobs.commands import plan_cancel, plan_release, plan_resolve
from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.store import AsyncJobStore, JobStore
from shared.jobs.transition import context_json
from shared.redis.scripts import run
from shared.settings import EndpointSettings, StorageSettings, WebhookSettings
from shared.settings_section import SecretReference
from shared.storage import open_store
from tests.contract.http.raw_http_server import full_backlog
from tests.integration.stages.conftest import LANE, Works, accepted, json_answer, raising
from tests.servers import SinkProc
from workers.delivery.egress import Egress, EgressPolicy
from workers.delivery.webhook import WebhookSender
from workers.stages.notify import CROWDED_MS, SILENT_PLACES, UNCONFIGURED_MS, NotifyStage
from workers.stages.stage import Shop
from workers.stages.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from shared.jobs.job import Job
    from shared.jobs.transition import Transition
    from tests.conftest import State
    from workers.claims import Entry

pytestmark = pytest.mark.anyio

PRICE = 200_000
EXPIRES_S = 4_000_000_000
SECRET_ENV, OTHER_ENV = "TESTS_WEBHOOK_SECRET", "TESTS_OTHER_SECRET"
OTHER_SECRET = "whsec_" + "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLi4="
OPEN = EgressPolicy(allow_private=True, allow_http=True)
METADATA = {"order": 17, "nested": {"kept": ["as", "given", None]}}


class Telling(Works):
    """Stages up to notify, with a real egress guard."""

    sink: SinkProc

    async def open(self) -> None:
        await super().open()
        self.shop = Shop(
            self.recorder, self.submit_stage._shop.claims, self.told, lambda *told: self.armed.append(told)
        )
        self.egress = Egress(OPEN)
        self.notify_stage = self.stage()

    async def close(self) -> None:
        await super().close()
        await self.egress.aclose()

    def stage(
        self, *, limit: int = 64, storage: StorageSettings | None = None, **webhooks: Any
    ) -> NotifyStage:
        """Make the stage with settings of its own."""
        worker = self.settings.worker.model_copy(update={"notify_concurrency": limit})
        hooks = self.settings.webhooks.model_copy(update=webhooks)
        settings = self.settings.model_copy(update={"worker": worker, "webhooks": hooks})
        sender = WebhookSender(self.egress, hooks.timeout_s)
        return NotifyStage(self.shop, sender, open_store(storage) if storage else None, settings)

    def to(self, path: str) -> str:
        return self.sink.url + path

    async def claim_deliveries(self) -> list[Entry]:
        """Claim every delivery, due or not, leased or not."""
        index = self.state.keys.index("notify")
        waiting: Any = self.state.client.zrange(index, 0, -1)
        for member in waiting:
            self.state.client.zadd(index, {member: 0})
        return list((await self.notify_stage.claim("", 100, suspects=True)).entries)

    async def notify(self, times: int = 1) -> None:
        for _ in range(times):
            for entry in await self.claim_deliveries():
                await self.notify_stage.handle(entry)

    async def an_event(self, path: str = "/ok", **params: Any) -> str:
        """Let a job fail; give the id of the event that tells of it."""
        job_id = self.enqueue(webhook=params.pop("webhook", self.to(path)), **params)
        await self.submit(json_answer(400, {"error": {"code": 400, "message": "no"}}))
        return self.event_of(job_id)

    def event_of(self, job_id: str) -> str:
        return f"evt_{job_id.removeprefix('job_')}_1"

    def delivery(self, event_id: str) -> dict[str, str]:
        found: Any = self.state.client.hgetall(self.state.keys.delivery(event_id))
        return {key.decode(): value.decode() for key, value in found.items()}

    def waiting(self) -> dict[str, tuple[list[tuple[str, int]], list[str]]]:
        """Give by host what waits there with its age, and what of it failed; the list of hosts must agree."""
        keys, client = self.state.keys, self.state.client
        hosts: Any = client.zrange(keys.endpoints, 0, -1, withscores=True)
        found = {}
        for host, count in hosts:
            name = host.decode()
            entries: Any = client.zrange(keys.waiting(name), 0, -1, withscores=True)
            failing: Any = client.zrange(keys.failing(name), 0, -1)
            assert len(entries) == count
            found[name] = (
                [(each.decode(), int(at)) for each, at in entries],
                [each.decode() for each in failing],
            )
        left: Any = list(client.scan_iter(match=f"{keys.prefix}e[wf]:*"))
        assert {key.decode().partition("}:")[2][3:] for key in left} == set(found)
        return found

    def due_in_s(self, event_id: str) -> float | None:
        score = self.state.client.zscore(self.state.keys.index("notify"), event_id)
        seconds, micros = self.state.client.time()
        return None if score is None else (float(score) / 1000) - seconds - micros / 1_000_000

    def received(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.sink.get("/received")["deliveries"]
        return found

    def change(self, job_id: str, plan: Callable[[Job], Transition | None]) -> None:
        JobStore(self.state.client, self.state.keys, self.settings.limits).change(job_id, plan)

    def enqueue_batch(self, name: str, webhook: str, count: int) -> list[str]:
        ids = list(new_job_ids(count))
        request = b'{"model":"wan2.7-image","n":1,"prompt":"a"}'
        args = [
            part
            for job_id in ids
            for part in job_arguments(job_id, request, "fp", "wan2.7-image", 1, False, JobParams())
        ]
        header = header_json("acme", name, webhook, self.settings.limits)
        assert run(self.state.client, "enqueue_jobs", self.state.keys.prefix, header, *args) == [0] * count
        return ids

    def close_batch(self, name: str, verb: str) -> None:
        run(
            self.state.client, "close_batch", self.state.keys.prefix, context_json(self.settings.limits),
            "acme", name, verb,
        )  # fmt: skip


@pytest.fixture(scope="module")
def sink_process(folder_of_servers: Path) -> Iterator[SinkProc]:
    with SinkProc(folder_of_servers / "sink-of-notify") as proc:
        yield proc


@pytest.fixture
def sink(sink_process: SinkProc) -> SinkProc:
    """Give a consumer that has received nothing yet."""
    httpx.delete(sink_process.url + "/received", trust_env=False)
    return sink_process


@pytest.fixture
async def telling(state: State, sink: SinkProc, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Telling]:
    """A notify stage, and a consumer that verifies what it gets with the `standardwebhooks` library."""
    monkeypatch.setenv(SECRET_ENV, sink.secret)
    monkeypatch.setenv(OTHER_ENV, OTHER_SECRET)
    state.owned.append("*")
    endpoint = EndpointSettings.model_validate({"url": sink.url + "/named", "secret": {"env": OTHER_ENV}})
    update = {
        "storage": state.settings.storage.model_copy(update={"url": "off"}),
        "webhooks": WebhookSettings(
            secret=SecretReference(env=SECRET_ENV), endpoints={"named": endpoint},
            allow_private=True, allow_http=True,
        ),
    }  # fmt: skip
    bench = Telling(state, state.settings.model_copy(update=update))
    bench.sink = sink
    await bench.open()
    yield bench
    await bench.close()


def delivered(count: int) -> Any:
    found = [{"url": [f"https://r.test/{at}.png?sig=s"], "expires_at": EXPIRES_S} for at in range(count)]
    return json_answer(
        200, {"code": 200, "data": {"id": "task_1", "status": "completed", "result": {"images": found}}}
    )


# --- every event


async def test_completed_tells_all(telling: Telling) -> None:
    """Images, cost, timings and the owner's metadata, signed; the delivery ends and will expire."""
    job_id = telling.enqueue(n=3, webhook=telling.to("/ok"), metadata=METADATA)
    await telling.submit(accepted())
    await telling.poll(delivered(2))
    await telling.notify()
    (got,) = telling.received()
    assert (got["verified"], got["reason"], got["webhook_id"]) == (True, "", telling.event_of(job_id))
    body, data = got["body"], got["body"]["data"]
    job = telling.job(job_id)
    assert (body["type"], data["state"], data["job_id"], data["tenant"]) == (
        "image.completed", "completed", job_id, "acme",
    )  # fmt: skip
    assert (data["n"], data["partial"], data["cost_micros"], data["currency"]) == (3, True, 2 * PRICE, "CNY")
    assert (data["metadata"], data["error"], data["generation_id"]) == (METADATA, None, "task_1")
    assert (data["model"], data["mode"], data["batch"]) == ("wan2.7-image", "text_to_image", None)
    assert [image["url"] for image in data["images"]] == [artifact.url for artifact in job.artifacts]
    assert {image["provider_url_expires_at"] for image in data["images"]} == {"2096-10-02T07:06:40.000Z"}
    assert [image["index"] for image in data["images"]] == [0, 1]
    timings = data["timings"]
    assert timings["created_at"] <= timings["submitted_at"] <= timings["generated_at"]
    assert (timings["finished_at"], timings["stored_at"]) == (timings["generated_at"], None)
    delivery = telling.delivery(got["webhook_id"])
    assert (delivery["state"], delivery["last_status"], delivery["attempts"]) == ("delivered", "200", "1")
    assert telling.due_in_s(got["webhook_id"]) is None
    assert telling.state.client.pttl(telling.state.keys.delivery(got["webhook_id"])) > 0


async def test_failed_says_why(telling: Telling) -> None:
    """The code for programs, the provider's sentence for people; nothing was charged."""
    job_id = telling.enqueue(webhook=telling.to("/ok"))
    await telling.submit(json_answer(400, {"error": {"code": 400, "message": "size is wrong"}}))
    await telling.notify()
    (got,) = telling.received()
    data = got["body"]["data"]
    assert (got["verified"], got["type"], data["state"]) == (True, "image.failed", "failed")
    assert data["error"]["code"] == telling.job(job_id).error_code
    assert "size is wrong" in data["error"]["message"]
    assert (data["images"], data["cost_micros"], data["generation_id"]) == ([], 0, None)


async def test_cancelled_is_told_once_to_flower(telling: Telling) -> None:
    """No worker need have touched the job: the first try shows it as revoked, further tries do not."""
    job_id = telling.enqueue(webhook=telling.to("/fail-first/1"))
    telling.change(job_id, plan_cancel)
    await telling.notify(2)
    first, second = telling.received()
    assert (first["type"], first["body"]) == ("image.cancelled", second["body"])
    assert first["body"]["data"]["state"] == "cancelled"
    assert telling.told.events == [("revoked", job_id)]


async def test_unknown_is_told_as_such(telling: Telling) -> None:
    """Its outcome is not known, so neither images nor a cost are told."""
    telling.enqueue(webhook=telling.to("/ok"))
    await telling.submit(raising(httpx.ReadTimeout("t")))
    await telling.notify()
    (got,) = telling.received()
    data = got["body"]["data"]
    assert (got["verified"], got["type"], data["state"]) == (True, "image.unknown", "unknown")
    assert (data["error"], data["images"], data["cost_micros"]) == (
        {"code": "unknown_outcome", "message": "timeout"}, [], 0,
    )  # fmt: skip


async def test_a_batch_tells_its_counts(telling: Telling) -> None:
    """One event when it is sealed and all its jobs have ended: jobs by state, images, cost."""
    done, refused = telling.enqueue_batch("b", telling.to("/ok"), 2)
    for job_id, answer in ((done, accepted()), (refused, json_answer(400, {"error": {"code": 400}}))):
        claim = await telling.submit_stage.claim(LANE, 1, suspects=True)
        assert [entry.id for entry in claim.entries] == [job_id]
        telling.answer = answer
        await telling.submit_stage.handle(claim.entries[0])
    await telling.poll(delivered(1))
    await telling.notify()
    assert telling.received() == []
    telling.close_batch("b", "seal")
    await telling.notify(2)
    (got,) = telling.received()
    data = got["body"]["data"]
    assert (got["verified"], got["type"]) == (True, "batch.completed")
    assert (data["batch"], data["tenant"], data["total"]) == ("b", "acme", 2)
    assert data["counts"] == {"completed": 1, "failed": 1}
    assert (data["images"], data["cost_micros"], data["currency"]) == (1, PRICE, "CNY")
    assert data["created_at"] <= data["completed_at"]


async def test_a_stalled_batch_is_told(telling: Telling) -> None:
    """Only unknown jobs are left: it says so, and has not completed."""
    telling.enqueue_batch("b", telling.to("/ok"), 1)
    await telling.submit(raising(httpx.ReadTimeout("t")))
    telling.close_batch("b", "seal")
    telling.close_batch("b", "stall")
    await telling.notify()
    (got,) = telling.received()
    assert (got["verified"], got["type"]) == (True, "batch.stalled")
    assert (got["body"]["data"]["counts"], got["body"]["data"]["completed_at"]) == ({"unknown": 1}, None)


async def test_a_job_without_a_webhook_is_not_told_of(telling: Telling) -> None:
    """No event, nothing to deliver."""
    telling.enqueue()
    await telling.submit(json_answer(400, {"error": {"code": 400}}))
    assert await telling.claim_deliveries() == []


@pytest.mark.parametrize(
    ("links", "url"), [("keys", None), ("public", "https://cdn.test/base/acme/{job_id}/0.png")]
)
async def test_stored_images_are_told_by_key_and_link(
    telling: Telling, tmp_path: Path, links: str, url: str | None
) -> None:
    """With a store the provider's URL is not told: it dies; key, facts, and the link that the settings ask for are."""
    settings = {"url": f"file://{tmp_path}", "links": links, "public_base_url": "https://cdn.test/base/"}
    telling.notify_stage = telling.stage(storage=StorageSettings.model_validate(settings))
    job_id = telling.enqueue(webhook=telling.to("/ok"))
    await telling.submit(accepted())
    await telling.poll(delivered(1))
    stored = {
        "index": 0, "media_type": "image/png", "object_key": f"acme/{job_id}/0.png", "sha256": "5" * 64,
        "size_bytes": 7, "width": 3, "height": 4,
    }  # fmt: skip
    telling.state.client.hset(telling.state.keys.detail(job_id), "artifacts", json.dumps([stored]))
    await telling.notify()
    (image,) = telling.received()[0]["body"]["data"]["images"]
    link = url.format(job_id=job_id) if url else None
    assert image == stored | {"url": link, "provider_url_expires_at": None}


# --- what the answer means


@pytest.mark.parametrize("path", ["/status/200", "/status/202", "/status/204"])
async def test_2xx_delivers(telling: Telling, path: str) -> None:
    """Any success is an acknowledgement."""
    event_id = await telling.an_event(path)
    await telling.notify(2)
    assert (telling.delivery(event_id)["state"], len(telling.received())) == ("delivered", 1)
    assert telling.delivery(event_id)["ended_at"]


async def test_gone_disables(telling: Telling) -> None:
    """410: nothing more is sent for this event."""
    event_id = await telling.an_event("/gone")
    await telling.notify(2)
    assert (telling.delivery(event_id)["state"], telling.delivery(event_id)["last_status"]) == (
        "disabled",
        "gone",
    )
    assert len(telling.received()) == 1


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/status/400", "status_400"),
        ("/status/401", "status_401"),
        ("/status/404", "status_404"),
        ("/status/429", "status_429"),
        ("/status/500", "status_500"),
        ("/status/503", "status_503"),
        ("/redirect", "status_307"),
        ("/hang", "timeout"),
        ("/slow/5", "timeout"),
    ],
)
async def test_everything_else_is_tried_again(telling: Telling, path: str, cause: str) -> None:
    """Not acknowledged: counted, due by the schedule, and a redirect is not followed. The job is left as it was."""
    telling.notify_stage = telling.stage(timeout_s=0.3)
    event_id = await telling.an_event(path)
    before = telling.job("job_" + event_id.split("_")[1])
    await telling.notify()
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["last_status"], delivery["attempts"]) == ("pending", cause, "1")
    assert "leased" not in delivery
    due_in_s = telling.due_in_s(event_id)
    assert due_in_s is not None
    assert 4 < due_in_s < 5.6
    assert [got["path"] for got in telling.received()] == [path]
    assert telling.job(before.id) == before


async def test_a_connection_that_breaks_is_tried_again(telling: Telling) -> None:
    """Whether the endpoint got it is not known: it gets it again, under the same id."""
    event_id = await telling.an_event("/reset")
    await telling.notify()
    assert telling.delivery(event_id)["state"] == "pending"


async def test_an_endpoint_that_is_not_there_is_tried_again(telling: Telling) -> None:
    """Nobody listens: that may pass."""
    event_id = await telling.an_event(webhook="http://127.0.0.1:1/hook")
    await telling.notify()
    assert (telling.delivery(event_id)["state"], telling.delivery(event_id)["last_status"]) == (
        "pending", "connect_failed",
    )  # fmt: skip


async def test_private_addresses_are_refused(telling: Telling) -> None:
    """Unless a setting allows them: the delivery is disabled, and no packet is sent."""
    event_id = await telling.an_event("/ok")
    await telling.egress.aclose()
    telling.egress = Egress(EgressPolicy(allow_private=False, allow_http=True))
    telling.notify_stage = telling.stage()
    await telling.notify()
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["last_status"]) == ("disabled", "forbidden_address")
    assert telling.received() == []


async def test_metadata_addresses_are_refused_always(telling: Telling) -> None:
    """Also where private addresses are allowed."""
    event_id = await telling.an_event(webhook="http://169.254.169.254/latest/")
    await telling.notify()
    assert telling.delivery(event_id)["state"] == "disabled"


# --- the schedule


async def test_the_schedule_is_kept_and_ends(telling: Telling) -> None:
    """Each try waits as the schedule says, ±10 %; after the last the delivery is exhausted, and kept for a while."""
    telling.notify_stage = telling.stage(schedule_s=(0, 100, 1000))
    event_id = await telling.an_event("/status/500")
    waits = []
    for _ in range(3):
        await telling.notify()
        waits.append(telling.due_in_s(event_id))
    assert waits[0] is not None
    assert waits[1] is not None
    assert 89 < waits[0] < 110
    assert 899 < waits[1] < 1100
    assert waits[2] is None
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == (
        "exhausted",
        "3",
        "status_500",
    )
    await telling.notify()
    assert len(telling.received()) == 3
    assert telling.state.client.pttl(telling.state.keys.delivery(event_id)) > 0


@pytest.mark.parametrize(
    ("path", "at_least_s", "at_most_s"),
    [
        ("/status/503?retry_after=1000", 999, 1001),
        ("/status/429?retry_after=1000", 999, 1001),
        ("/status/500?retry_after=1000", 4, 5.6),
        ("/status/503?retry_after=1", 4, 5.6),
        ("/status/503?retry_after=999999999", 86_399, 86_401),
    ],
)
async def test_retry_after_lengthens_the_wait(
    telling: Telling, path: str, at_least_s: float, at_most_s: float
) -> None:
    """Where the status may defer it; never shorter than the schedule, never longer than a day."""
    event_id = await telling.an_event(path)
    await telling.notify()
    due_in_s = telling.due_in_s(event_id)
    assert due_in_s is not None
    assert at_least_s <= due_in_s <= at_most_s


async def test_one_id_and_a_new_timestamp_for_every_try(telling: Telling) -> None:
    """The same event again: id and body stay, the timestamp is of the try, and each is signed anew."""
    event_id = await telling.an_event("/fail-first/2", metadata=METADATA)
    timestamps = []
    for later_s in (0, 60, 120):
        (entry,) = await telling.claim_deliveries()
        later = replace(entry, now_ms=entry.now_ms + 1000 * later_s)
        timestamps.append(str(later.now_ms // 1000))
        await telling.notify_stage.handle(later)
    got = telling.received()
    assert [each["answered"] for each in got] == ["503", "503", "200"]
    assert {each["webhook_id"] for each in got} == {event_id}
    assert [each["webhook_timestamp"] for each in got] == timestamps
    assert len(set(timestamps)) == 3
    assert [each["verified"] for each in got] == [True] * 3
    assert got[0]["body"] == got[1]["body"] == got[2]["body"]
    assert telling.delivery(event_id)["state"] == "delivered"


# --- endpoints and their secrets


async def test_a_named_endpoint_has_its_own_secret(telling: Telling) -> None:
    """Sent to the URL of the settings, signed with that endpoint's secret: the sink, which has another, refuses it."""
    await telling.an_event(webhook="named")
    await telling.notify()
    (got,) = telling.received()
    assert (got["path"], got["verified"], got["reason"] != "") == ("/named", False, True)


async def test_an_endpoint_is_remembered_for_a_moment(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret is not read for every delivery; a rotated one is picked up without a restart."""
    await telling.an_event("/ok")
    await telling.notify()
    monkeypatch.setenv(SECRET_ENV, OTHER_SECRET)
    await telling.an_event("/ok")
    await telling.notify()
    monkeypatch.setattr(notify_module, "REMEMBER_S", -1.0)
    await telling.an_event("/ok")
    await telling.notify()
    assert [got["verified"] for got in telling.received()] == [True, True, False]


async def test_what_is_remembered_is_bounded(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job may name a URL of its own: memory must not grow with them."""
    monkeypatch.setattr(notify_module, "REMEMBER_MAX", 3)
    for number in range(8):
        await telling.an_event(f"/ok?{number}")
    await telling.notify()
    assert len(telling.received()) == 8
    assert len(telling.notify_stage._endpoints) <= 3


async def unconfigured(telling: Telling, event_id: str) -> None:
    """Try to deliver what cannot be signed; check that it waits, uncounted, and that no log says the URL."""
    with capture_logs() as logs:
        await telling.notify()
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == (
        "pending",
        "0",
        "unconfigured",
    )
    due_in_s = telling.due_in_s(event_id)
    assert due_in_s is not None
    assert UNCONFIGURED_MS / 1000 - 5 < due_in_s <= UNCONFIGURED_MS / 1000
    assert [line["event"] for line in logs] == ["delivery_unconfigured", "delivery_attempted"]
    assert "token=canary" not in str(logs)
    assert telling.received() == []


async def test_a_missing_secret_waits_for_its_operator(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes out unsigned and no try is used up; once the secret is there the event is delivered."""
    event_id = await telling.an_event("/ok?token=canary")
    monkeypatch.delenv(SECRET_ENV)
    await unconfigured(telling, event_id)
    monkeypatch.setenv(SECRET_ENV, telling.sink.secret)
    await telling.notify()
    assert [got["verified"] for got in telling.received()] == [True]


async def test_a_name_that_is_not_configured_waits(telling: Telling) -> None:
    """An endpoint was renamed or forgotten: its events wait for it."""
    await unconfigured(telling, await telling.an_event(webhook="forgotten"))


# --- records that moved on, and other holders


async def test_an_unknown_job_that_has_completed_since(telling: Telling) -> None:
    """Its first event still says what was so then: no images, no cost; the second says what came of it."""
    job_id = telling.enqueue(webhook=telling.to("/ok"))
    await telling.submit(raising(httpx.ReadTimeout("t")))
    telling.change(job_id, lambda job: plan_resolve(job, "task_1", by="ops"))
    await telling.poll(delivered(1))
    assert telling.job(job_id).state == "completed"
    await telling.notify()
    told = {got["type"]: got["body"]["data"] for got in telling.received()}
    before, after = told["image.unknown"], told["image.completed"]
    assert (before["state"], before["images"], before["cost_micros"]) == ("unknown", [], 0)
    assert (before["timings"]["finished_at"], before["timings"]["generated_at"]) == (None, None)
    assert before["error"]["code"] == "unknown_outcome"
    assert (after["state"], after["cost_micros"], len(after["images"])) == ("completed", PRICE, 1)
    assert after["error"] is None


async def test_an_unknown_job_that_was_released_since(telling: Telling) -> None:
    """Both events go out, each as what it was."""
    job_id = telling.enqueue(webhook=telling.to("/ok"))
    await telling.submit(raising(httpx.ReadTimeout("t")))
    telling.change(job_id, lambda job: plan_release(job, by="ops"))
    await telling.notify()
    told = {got["type"]: got["body"]["data"] for got in telling.received()}
    assert (told["image.unknown"]["state"], told["image.failed"]["state"]) == ("unknown", "failed")
    assert (told["image.unknown"]["error"]["code"], told["image.failed"]["error"]["code"]) == (
        "unknown_outcome", "released",
    )  # fmt: skip


async def test_a_failure_that_was_redriven_since(telling: Telling) -> None:
    """The event tells of the end as it was: failed, by its code, though the job is in the queue again."""
    event_id = await telling.an_event()
    job_id = "job_" + event_id.removeprefix("evt_").removesuffix("_1")
    code = telling.job(job_id).error_code
    assert redrive(telling.settings, Selection(ids=(job_id,)), by="anna").done == 1
    assert telling.job(job_id).state == "queued"
    await telling.notify()
    data = telling.received()[-1]["body"]["data"]
    assert (data["state"], data["error"]["code"], data["images"]) == ("failed", code, [])


async def test_a_redriven_job_is_told_as_retried_first(telling: Telling) -> None:
    """Its row in Flower has ended: nothing but a retry moves it on."""
    event_id = await telling.an_event()
    job_id = "job_" + event_id.removeprefix("evt_").removesuffix("_1")
    redrive(telling.settings, Selection(ids=(job_id,)), by="anna")
    telling.told.events.clear()
    await telling.submit(accepted())
    kinds = [kind for kind, _ in telling.told.events]
    assert kinds == ["retried", "received", "started", "started"]


async def test_an_event_of_a_job_that_is_gone(telling: Telling) -> None:
    """Its record has expired before the endpoint came back: there is nothing to tell any more."""
    event_id = await telling.an_event("/ok")
    job_id = "job_" + event_id.split("_")[1]
    keys = telling.state.keys
    telling.state.client.delete(keys.job(job_id), keys.spec(job_id), keys.detail(job_id))
    await telling.notify()
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["last_status"]) == ("disabled", "its job or batch is gone")
    assert telling.received() == []


async def test_a_lost_lease_is_fenced(telling: Telling) -> None:
    """Two workers sent it, under one id; the result of the first, who lost the lease, is not recorded."""
    event_id = await telling.an_event("/fail-first/1")
    (ours,) = await telling.claim_deliveries()
    (theirs,) = await telling.claim_deliveries()
    await telling.notify_stage.handle(ours)
    assert (telling.delivery(event_id)["attempts"], telling.delivery(event_id)["state"]) == ("0", "pending")
    await telling.notify_stage.handle(theirs)
    assert (telling.delivery(event_id)["attempts"], telling.delivery(event_id)["state"]) == ("1", "delivered")
    assert {got["webhook_id"] for got in telling.received()} == {event_id}


async def test_a_delivery_that_kills_its_workers_is_given_up(telling: Telling) -> None:
    """Three deaths while it was delivered alone: exhausted, and not sent again."""
    event_id = await telling.an_event("/ok")
    for _ in range(4):
        await telling.claim_deliveries()
    await telling.notify()
    delivery = telling.delivery(event_id)
    assert (delivery["state"], delivery["last_status"]) == ("exhausted", "poison")
    assert telling.received() == []


# --- what waits where


async def test_a_first_success_is_entered_nowhere(telling: Telling) -> None:
    """Endpoints show what is late; what is not costs the state server nothing."""
    event_id = await telling.an_event("/ok")
    await telling.notify()
    assert telling.delivery(event_id)["state"] == "delivered"
    assert telling.waiting() == {}
    assert "host" not in telling.delivery(event_id)


async def test_a_failing_delivery_waits_at_its_host_until_it_ends(telling: Telling) -> None:
    """Entered by the try that fails, once, with the event's age; left by the one that succeeds."""
    event_id = await telling.an_event("/fail-first/2")
    created_at = int(telling.delivery(event_id)["created_at"])
    host = telling.sink.url.partition("://")[2]
    for _ in range(2):
        await telling.notify()
        assert telling.waiting() == {host: ([(event_id, created_at)], [event_id])}
    await telling.notify()
    assert telling.delivery(event_id)["state"] == "delivered"
    assert telling.waiting() == {}


@pytest.mark.parametrize("path", ["/status/410", "/status/500"])
async def test_one_that_is_given_up_waits_nowhere_and_keeps_its_host(telling: Telling, path: str) -> None:
    """Disabled or exhausted: no endpoint counts it any more, but its record says where it was to go."""
    telling.notify_stage = telling.stage(schedule_s=(0, 100))
    event_id = await telling.an_event(path)
    await telling.notify(2)
    assert telling.delivery(event_id)["state"] in ("disabled", "exhausted")
    assert telling.delivery(event_id)["host"] == telling.sink.url.partition("://")[2]
    assert telling.waiting() == {}


async def test_one_that_kills_its_workers_after_a_try_waits_nowhere(telling: Telling) -> None:
    """Given up as poison, which no host is asked for: it leaves the one where it waited."""
    event_id = await telling.an_event("/status/500")
    await telling.notify()
    assert len(telling.waiting()) == 1
    for _ in range(4):
        await telling.claim_deliveries()
    await telling.notify()
    assert telling.delivery(event_id)["last_status"] == "poison"
    assert telling.waiting() == {}


async def test_a_crowded_out_delivery_waits_and_does_not_fail(telling: Telling) -> None:
    """It was not tried: it counts as waiting at the endpoint, not as failing."""
    telling.notify_stage = telling.stage(limit=1)
    for _ in range(2):
        await telling.an_event("/slow/0.3")
    await asyncio.gather(*map(telling.notify_stage.handle, await telling.claim_deliveries()))
    ((waiting, failing),) = telling.waiting().values()
    assert (len(waiting), failing) == (1, [])


async def test_an_unknown_name_waits_under_that_name(telling: Telling) -> None:
    """No host is known; when the name means one again, the delivery moves there and is delivered."""
    event_id = await telling.an_event(webhook="named")
    telling.notify_stage = telling.stage(endpoints={})
    await telling.notify()
    assert list(telling.waiting()) == ["named"]
    telling.notify_stage = telling.stage()
    await telling.notify()
    assert telling.delivery(event_id)["state"] == "delivered"
    assert telling.waiting() == {}


async def test_what_an_older_worker_ended_is_taken_out(telling: Telling) -> None:
    """It delivered and knew no endpoints, or the record is gone; what still waits stays."""
    kept, ended, gone = [await telling.an_event("/status/500") for _ in range(3)]
    await telling.notify()
    ((waiting, _failing),) = telling.waiting().values()
    assert len(waiting) == 3
    telling.state.client.hset(telling.state.keys.delivery(ended), "state", "delivered")
    telling.state.client.delete(telling.state.keys.delivery(gone))
    sweep = Sweep(
        telling.client,
        telling.state.keys,
        AsyncJobStore(telling.client, telling.state.keys, telling.settings.limits),
        telling.settings,
        telling.shop,
    )
    await sweep.run()
    ((waiting, failing),) = telling.waiting().values()
    assert ([event_id for event_id, _ in waiting], failing) == ([kept], [kept])


# --- one endpoint does not crowd out others


async def test_a_busy_endpoint_gets_its_share_only(telling: Telling) -> None:
    """Of four places it may hold three; what is too much comes back soon, uncounted, and another host has a place."""
    telling.notify_stage = telling.stage(limit=4)
    for _ in range(5):
        await telling.an_event("/slow/0.3")
    other = await telling.an_event(webhook=telling.to("/ok").replace("127.0.0.1", "127.0.0.2"))
    entries = await telling.claim_deliveries()
    await asyncio.gather(*map(telling.notify_stage.handle, entries))
    states = [telling.delivery(entry.id) for entry in entries if entry.id != other]
    assert sorted(each["state"] for each in states) == ["delivered"] * 3 + ["pending"] * 2
    waiting = [each for each in states if each["state"] == "pending"]
    assert {(each["attempts"], each["last_status"]) for each in waiting} == {("0", "endpoint busy")}
    assert ("notify", "", CROWDED_MS) in telling.armed
    assert telling.delivery(other)["last_status"] != "endpoint busy"
    await telling.notify()
    assert {telling.delivery(entry.id)["state"] for entry in entries if entry.id != other} == {"delivered"}


async def test_a_silent_endpoint_holds_few_places_until_it_answers(telling: Telling) -> None:
    """After a try that ended by silence only a few go at once; one answer, and it has its share again."""
    telling.notify_stage = telling.stage(timeout_s=0.5)
    hung = await telling.an_event("/hang")
    await telling.notify()
    telling.state.client.zrem(telling.state.keys.index("notify"), hung)
    for _ in range(SILENT_PLACES + 3):
        await telling.an_event("/slow/0.2")

    async def delivered_at_once() -> int:
        entries = await telling.claim_deliveries()
        await asyncio.gather(*map(telling.notify_stage.handle, entries))
        return sum(telling.delivery(entry.id)["state"] == "delivered" for entry in entries)

    assert await delivered_at_once() == SILENT_PLACES
    assert await delivered_at_once() == 3
    for _ in range(SILENT_PLACES + 3):
        await telling.an_event("/slow/0.2")
    assert await delivered_at_once() == SILENT_PLACES + 3


async def never(_host: str) -> list[str]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("silence", ["connect", "name"])
async def test_an_endpoint_that_cannot_be_reached_holds_few_places(telling: Telling, silence: str) -> None:
    """Dropped packets and a name server that does not answer are silence too: they hold a place as long."""
    await telling.egress.aclose()
    telling.egress = Egress(OPEN, resolver=never, connect_timeout_s=0.3)
    telling.notify_stage = telling.stage(timeout_s=0.5)
    with full_backlog() as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}" if silence == "connect" else "hooks.test"
        await telling.an_event(webhook=f"http://{host}/")
        await telling.notify()
        for _ in range(SILENT_PLACES + 3):
            await telling.an_event(webhook=f"http://{host}/")
        entries = await telling.claim_deliveries()
        await asyncio.gather(*map(telling.notify_stage.handle, entries))
    tried = [each for each in entries if telling.delivery(each.id)["last_status"] != "endpoint busy"]
    assert len(tried) == SILENT_PLACES


async def test_hosts_that_were_told_are_not_remembered(telling: Telling) -> None:
    """Owners choose them: a worker that keeps each grows for as long as it lives."""
    telling.notify_stage = stage = telling.stage(timeout_s=0.2)
    for last in range(1, 4):
        await telling.an_event(webhook=telling.to("/hang").replace("127.0.0.1", f"127.0.0.{last}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notify_module, "REMEMBER_MAX", 2)
        await telling.notify()
    assert not stage._busy
    assert len(stage._silent) <= 2
