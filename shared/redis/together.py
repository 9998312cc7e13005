"""Reading several keys as they were at one instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from shared.redis.scripts import run, run_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from shared.redis.keys import Keys

Read = tuple[Literal["hash", "string", "list", "last"], str]  # what a key holds, and its name


def read_together(client: Redis, keys: Keys, reads: Sequence[Read]) -> list[Any]:
    """Give per read: a dict, bytes or None, a list, or the last entry of a stream in a list."""
    return _shaped(reads, run(client, "read_together", keys.prefix, *_flat(reads)))


async def read_together_async(client: AsyncRedis, keys: Keys, reads: Sequence[Read]) -> list[Any]:
    """As read_together."""
    return _shaped(reads, await run_async(client, "read_together", keys.prefix, *_flat(reads)))


def _flat(reads: Sequence[Read]) -> list[str]:
    return [part for read in reads for part in read]


def _shaped(reads: Sequence[Read], found: Sequence[Any]) -> list[Any]:
    return [_dict(each) if kind == "hash" else each for (kind, _), each in zip(reads, found, strict=True)]


def _dict(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
