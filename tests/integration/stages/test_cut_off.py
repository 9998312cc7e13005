"""What a worker has to leave at its end is given back: a deploy is no death of a job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.integration.stages.conftest import LANE, accepted
from workers.leases import Leases, give_back
from workers.stages.runner import StageRunner, Suspects

if TYPE_CHECKING:
    import httpx

    from tests.integration.stages.conftest import Answer, Works

pytestmark = pytest.mark.anyio

POLL = f"poll:{LANE}"


class Ending:
    """One worker after another, each of which is stopped while the provider is silent."""

    def __init__(self, works: Works) -> None:
        self.works, self.asked = works, asyncio.Event()
        self.leases = Leases(
            works.state.client, works.state.keys, works.settings.worker, stuck=lambda _: False
        )
        works.answer = cast("Answer", self.say_nothing)

    async def say_nothing(self, _request: httpx.Request) -> httpx.Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nothing ends this wait")

    async def serve_and_end(self) -> StageRunner:
        """Claim what is due, and end in the middle of it."""
        self.asked.clear()
        runner = StageRunner(
            self.works.poll_stage,
            leases=self.leases,
            claim_size=10,
            drain_s=5,
            arm=lambda *_: None,
            suspects=Suspects(),
        )
        drain = asyncio.create_task(runner.drain(LANE))
        await self.asked.wait()
        assert await runner.close(0) > 0
        await asyncio.gather(drain, return_exceptions=True)
        return runner

    def due(self, job_id: str) -> None:
        self.works.state.client.zadd(self.works.state.keys.index(POLL), {job_id: 1})

    def due_in_ms(self, job_id: str) -> float:
        seconds, micros = cast("Any", self.works.state.client.time())
        score: Any = self.works.state.client.zscore(self.works.state.keys.index(POLL), job_id)
        return float(score) - int(seconds) * 1000 - int(micros) / 1000


async def test_a_deploy_is_no_death_of_what_it_interrupts(works: Works) -> None:
    """However many workers end while they work on it, it is due at once for the next, and no suspect."""
    job_id = works.enqueue()
    await works.submit(accepted())
    ending = Ending(works)
    ending.due(job_id)
    for _ in range(6):
        runner = await ending.serve_and_end()
        await give_back(works.client, works.state.keys, runner.cut)
        assert ending.due_in_ms(job_id) <= 0
    (entry,) = (await works.poll_stage.claim(LANE, 1, suspects=True)).entries
    assert (entry.suspect, entry.poisoned, entry.number("deaths")) == (False, False, 0)


async def test_what_another_holds_by_now_is_not_given_back(works: Works) -> None:
    """Its lease had ended, and the next holder is at work."""
    job_id = works.enqueue()
    await works.submit(accepted())
    ending = Ending(works)
    ending.due(job_id)
    runner = await ending.serve_and_end()
    ending.due(job_id)
    (heir,) = (await works.poll_stage.claim(LANE, 1, suspects=True)).entries
    await give_back(works.client, works.state.keys, runner.cut)
    assert ending.due_in_ms(job_id) > 0
    assert works.state.client.hget(works.state.keys.job(job_id), "leased") == b"w1"
    assert heir.suspect
