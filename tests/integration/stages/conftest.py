"""The submit and poll stages on a real state server, with the provider's answers played at the network's edge."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.jobs.store import JobStore
from shared.redis.client import make_async_client
from shared.redis.scripts import run
from shared.settings import AccountSettings
from workers.claims import Claims
from workers.http import HttpxClient
from workers.lanes import Lane
from workers.providers.gateway import GatewayProvider
from workers.recorder import Recorder
from workers.spool import Spool
from workers.stages.inputs import Inputs
from workers.stages.poll import PollStage
from workers.stages.stage import Shop
from workers.stages.submit import SubmitStage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.jobs.job import Job
    from shared.settings import Settings
    from tests.conftest import State

LANE = "main/wan2.7-image"
Answer = Callable[[httpx.Request], httpx.Response]


@dataclass
class Told:
    """Job events as they were emitted."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def emit(self, kind: str, job_id: str, **_fields: str | int) -> None:
        self.events.append((kind, job_id))


@dataclass
class Works:
    """One worker's stages without its loop of drains: each step is taken when the test says so."""

    state: State
    settings: Settings
    answer: Answer = lambda _request: httpx.Response(500)
    requests: list[httpx.Request] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    armed: list[tuple[str, str, int]] = field(default_factory=list)
    folder: Path | None = None  # of the spool

    async def open(self) -> None:
        self.client = make_async_client(self.settings.redis)
        self.recorder = Recorder(self.client, self.state.keys, self.settings.limits)
        account = AccountSettings(base_url="https://provider.test/v1", submit_per_s=0, poll_per_s=0)
        provider = GatewayProvider(str(account.base_url), SecretStr("canary-key"))
        self.lane = Lane(LANE, "main", "wan2.7-image", account, provider, 200_000)
        claims = Claims(self.client, self.state.keys, self.settings.worker, "w1")
        shop = Shop(self.recorder, claims, self.told, lambda *told: self.armed.append(told))
        self.spool = Spool(self.folder)
        http = HttpxClient(transport=httpx.MockTransport(self._play))
        lanes = {LANE: self.lane}
        self.submit_stage = SubmitStage(shop, lanes, http, Inputs(None), self.settings, self.spool)
        self.poll_stage = PollStage(shop, lanes, http, self.settings)

    async def close(self) -> None:
        await self.recorder.close()
        self.spool.close()
        await self.client.aclose()

    def _play(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request)

    def enqueue(self, *, n: int = 1, image_urls: tuple[str, ...] = (), **params: Any) -> str:
        (job_id,) = new_job_ids(1)
        asked = {"model": "wan2.7-image", "n": n, "prompt": "a"}
        request = json.dumps(asked | ({"image_urls": image_urls} if image_urls else {})).encode()
        arguments = job_arguments(job_id, request, "fp", "wan2.7-image", n, False, JobParams(**params))
        header = header_json("acme", None, None, self.settings.limits)
        assert run(self.state.client, "enqueue_jobs", self.state.keys.prefix, header, *arguments) == [0]
        return job_id

    async def submit(self, answer: Answer) -> None:
        """Claim what may be submitted and handle it."""
        self.answer = answer
        claim = await self.submit_stage.claim(LANE, 10, suspects=True)
        for entry in claim.entries:
            await self.submit_stage.handle(entry)

    async def poll(self, answer: Answer) -> None:
        """Make every poll due, claim and handle it."""
        self.answer = answer
        index = self.state.keys.index(f"poll:{LANE}")
        members: Any = self.state.client.zrange(index, 0, -1)
        for member in members:
            self.state.client.zadd(index, {member: 0})
        claim = await self.poll_stage.claim(LANE, 10, suspects=True)
        for entry in claim.entries:
            await self.poll_stage.handle(entry)

    def job(self, job_id: str) -> Job:
        return JobStore(self.state.client, self.state.keys, self.settings.limits).get(job_id)

    def lane_record(self) -> dict[str, str]:
        record: Any = self.state.client.hgetall(self.state.keys.lane(LANE))
        return {key.decode(): value.decode() for key, value in record.items()}

    def slots(self) -> int:
        return int(self.state.client.zcard(self.state.keys.slots(LANE)))


@pytest.fixture
async def works(state: State) -> AsyncIterator[Works]:
    """Stages with storage off: what comes is announced by the provider's URLs."""
    state.owned.append("*")  # these tests look at jobs in mid-life
    storage = state.settings.storage.model_copy(update={"url": "off"})
    bench = Works(state, state.settings.model_copy(update={"storage": storage}))
    await bench.open()
    yield bench
    await bench.close()


def json_answer(status: int, body: Any, **headers: str) -> Answer:
    """Answer every request so."""
    return lambda _request: httpx.Response(status, json=body, headers=headers)


def accepted(generation_id: str = "task_1") -> Answer:
    return json_answer(200, {"code": "success", "data": [{"task_id": generation_id, "status": "processing"}]})


def raising(error: Exception) -> Answer:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer
