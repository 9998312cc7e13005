"""What a living worker says of itself: where it runs, and which object store it found there.

`darkroom doctor` compares the stores: workers and producers that do not share one lose images without noticing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from shared.errors import StorageError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from shared.redis.keys import Keys
    from shared.storage import ObjectStore

LEASES: Final = 3  # its record outlives this many


class Presence:
    """Keeps the record `Keys.worker(name)` while its task runs."""

    def __init__(
        self, client: Redis, keys: Keys, worker: str, store: ObjectStore | None, lease_s: float
    ) -> None:
        self._client, self._key, self._store, self._lease_s = client, keys.worker(worker), store, lease_s
        self._record: dict[
            bytes | bytearray | memoryview | str | float, bytes | bytearray | memoryview | str | float
        ] = {"pid": str(os.getpid()), "host": socket.gethostname()}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._keep(), name="darkroom-presence")

    async def stop(self) -> None:
        """End, and take the record away: a worker that has ended orderly is not there any more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(1):
                await self._client.delete(self._key)
        except (RedisError, OSError, TimeoutError):
            return  # it ends by itself

    async def _keep(self) -> None:
        while True:
            await self._identify()
            try:
                async with self._client.pipeline(transaction=False) as pipe:
                    pipe.hset(self._key, mapping=self._record)
                    pipe.pexpire(self._key, int(1000 * LEASES * self._lease_s))
                    await pipe.execute()
            except (RedisError, OSError):
                pass  # others say that it is away
            await asyncio.sleep(self._lease_s)

    async def _identify(self) -> None:
        if self._store is not None and "store" not in self._record:
            try:
                async with asyncio.timeout(self._lease_s):
                    self._record["store"] = await self._store.identity()
            except (StorageError, TimeoutError):
                return  # until it can be reached
