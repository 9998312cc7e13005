"""The comparison with the model has teeth: what a careless script would leave behind is seen."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from shared.redis.keys import Keys
from tests.integration.lua.conftest import LANE
from tests.integration.lua.machine.model import Model
from tests.integration.lua.machine.world import World

if TYPE_CHECKING:
    from tests.servers import ValkeyProc


def _slip(world: World, job_id: str, what: str) -> None:
    client, keys = world.client, world.keys
    match what:
        case "a hold nobody made":
            client.hincrby(keys.balances, "CNY|held:acme", 1)
        case "a job in two places":
            client.zadd(keys.index(f"poll:{LANE}"), {job_id: 1})
        case "a slot kept":
            client.zadd(keys.slots(LANE), {job_id: world.now_ms + 1})
        case "a count too many":
            client.hincrby(keys.counts, "*|queued", 1)
        case "a completion too early":
            event = "event", "batch.completed", "tenant", "acme", "batch", "b1"
            client.hset(keys.delivery("evt_x"), items=[*event])


SLIPS = (
    "a hold nobody made",
    "a job in two places",
    "a slot kept",
    "a count too many",
    "a completion too early",
)


@pytest.mark.parametrize("what", SLIPS)
def test_a_slip_is_seen(valkey: ValkeyProc, what: str) -> None:
    """One thing is wrong, and the comparison that held before fails."""
    with valkey.client() as client:
        world, model = World(client, Keys.of(f"slip-{uuid.uuid4().hex[:12]}")), Model()
        (job_id,) = world.enqueue(batch="b1", webhook="default")
        model.enqueue(job_id, "acme", "b1", 1)
        world.check(model)
        _slip(world, job_id, what)
        with pytest.raises(AssertionError):
            world.check(model)
