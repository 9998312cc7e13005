"""What a living worker says of itself: where it runs, since when, what it does, and which object store it found.

`darkroom top` shows it. `darkroom doctor` compares the stores: workers and producers that do not share one lose images
without noticing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis.asyncio import Redis

    from shared.redis.keys import Keys
    from shared.settings import WorkerSettings
    from shared.storage import ObjectStore

LEASES: Final = 3  # its record outlives this many


def _version() -> str:
    try:
        return version("darkroom")
    except PackageNotFoundError:
        return ""  # run from a copy of the sources


class Presence:
    """Keeps the record `Keys.worker(name)` while its task runs; `held` gives the index of each lease it holds."""

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        worker: str,
        store: ObjectStore | None,
        settings: WorkerSettings,
        *,
        stages: Iterable[str],
        held: Callable[[], Iterable[str]],
    ) -> None:
        self._client, self._key, self._store, self._held = client, keys.worker(worker), store, held
        self._lease_s, self._renew_s = settings.lease_s, settings.renew_s
        self._record: dict[
            bytes | bytearray | memoryview | str | float, bytes | bytearray | memoryview | str | float
        ] = {
            "pid": str(os.getpid()),
            "host": socket.gethostname(),
            "version": _version(),
            "stages": " ".join(stages),
        }
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
                await self._date()
                self._record["held"] = " ".join(
                    f"{stage}={count}" for stage, count in sorted(self._held_by_stage().items())
                )
                async with self._client.pipeline(transaction=False) as pipe:
                    pipe.hset(self._key, mapping=self._record)
                    pipe.pexpire(self._key, int(1000 * LEASES * self._lease_s))
                    await pipe.execute()
            except (RedisError, OSError):
                pass  # others say that it is away
            await asyncio.sleep(self._renew_s)

    def _held_by_stage(self) -> Counter[str]:
        return Counter(index.partition(":")[0] for index in self._held())

    async def _date(self) -> None:
        """Note when it started, once, by the state server's clock."""
        if "since" not in self._record:
            seconds, micros = await self._client.time()
            self._record["since"] = str(seconds * 1000 + micros // 1000)

    async def _identify(self) -> None:
        if self._store is not None and "store" not in self._record:
            try:
                async with asyncio.timeout(self._lease_s):
                    self._record["store"] = await self._store.identity()
            except (StorageError, TimeoutError):
                return  # until it can be reached
