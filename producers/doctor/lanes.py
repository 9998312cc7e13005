"""Lanes that workers served once and that no setting here names any more: what is under way in them waits for nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from producers.doctor.findings import bad
from producers.pauses import lanes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis

    from producers.doctor.findings import Finding
    from shared.redis.keys import Keys
    from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class LeftLane:
    """A lane of nobody, with the jobs in it that are to be submitted or polled.

    `waits`: whether jobs are queued for its model, which no other lane serves.
    """

    name: str
    under_way: int
    waits: bool


def read_left_lanes(client: Redis, keys: Keys, settings: Settings) -> list[LeftLane]:
    """Read the lanes that were served and are not set, by name. Raises what the client raises."""
    served: Any = client.smembers(keys.lanes)
    left = sorted({name.decode() for name in served} - set(lanes_of(settings)))
    pipe = client.pipeline(transaction=False)
    for name in left:
        pipe.zcard(keys.index(f"submit:{name}"))
        pipe.zcard(keys.index(f"poll:{name}"))
        pipe.exists(keys.ready(_model(name)))
    replies: list[Any] = pipe.execute()
    return [
        LeftLane(name, submits + polls, bool(queue) and _model(name) not in settings.models)
        for name, submits, polls, queue in zip(left, replies[::3], replies[1::3], replies[2::3], strict=True)
    ]


def judge_left_lanes(lanes: Sequence[LeftLane]) -> Iterator[Finding]:
    """Say which of them have work. Another process's settings may name them: then that has to be known, too."""
    for lane in lanes:
        do = "Put it back into the settings until it is empty (docs/operations.md)."
        if lane.under_way:
            what = f"{lane.under_way} jobs are under way in lane {lane.name}, which no setting here names"
            yield bad("work", f"{what}: nobody asks about them", do)
        if lane.waits:
            do = f"Give an account the model {_model(lane.name)}, or cancel them."
            yield bad("work", f"jobs are queued for {_model(lane.name)}, which no account serves", do)


def _model(lane: str) -> str:
    return lane.partition("/")[2]
