"""How an object is created: through obstore, or in a folder. Both tell what is at the key afterwards."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError

from shared.errors import StorageError
from shared.folder_sync import FolderSync, can_sync_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from obstore.store import MemoryStore, S3Store

    from shared.object_folder import ObjectFolder

BODIES_BYTES: Final = 128 * 1024 * 1024
_THREADS: Final = 16  # they wait for the disk
_SLOW_S: Final = (
    0.02  # a directory entry takes 0.05 ms; while it takes this long, the event loop must not wait for it
)
_SLOW_FOR_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Put:
    """One object to be created. `body` is a file or the bytes themselves."""

    key: str
    body: Path | bytes
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Made:
    """What is at the key after a put: made by it or there before, and how long."""

    created: bool
    size_bytes: int


class Writer(Protocol):
    def make(self, put: Put) -> Made: ...

    async def make_async(self, put: Put) -> Made: ...


class ByteBudget:
    """Bytes that may be in memory at once, given in the order asked for; one body larger than all goes alone."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = self._free = limit_bytes
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def held(self, size_bytes: int) -> AsyncIterator[None]:
        size_bytes = min(size_bytes, self._limit)
        async with self._turn:
            while self._free < size_bytes:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size_bytes
        try:
            yield
        finally:
            self._free += size_bytes
            self._freed.set()


class RemoteWriter:
    """Puts through obstore."""

    def __init__(self, objects: S3Store | MemoryStore, bodies_bytes: int = BODIES_BYTES) -> None:
        self._objects, self._bodies = objects, ByteBudget(bodies_bytes)

    def make(self, put: Put) -> Made:
        try:
            obstore.put(self._objects, put.key, put.body, mode="create", attributes=_attributes(put))
            created = True
        except AlreadyExistsError:
            created = False
        with _expected(put):
            made = Made(created, obstore.head(self._objects, put.key)["size"])
        if _is_torn(put, made):
            obstore.delete(self._objects, put.key)
        return made

    async def make_async(self, put: Put) -> Made:
        try:
            async with self._bodies.held(put.size_bytes):
                await obstore.put_async(
                    self._objects, put.key, put.body, mode="create", attributes=_attributes(put)
                )
            created = True
        except AlreadyExistsError:
            created = False
        with _expected(put):
            made = Made(created, (await obstore.head_async(self._objects, put.key))["size"])
        if _is_torn(put, made):
            await obstore.delete_async(self._objects, put.key)
        return made


@contextmanager
def _expected(put: Put) -> Iterator[None]:
    """Look for what must be there; S3 also says "exists" (409) while another put or delete is under way."""
    try:
        yield
    except FileNotFoundError:
        raise StorageError(
            "the object store has nothing where something was just put. It is tried again.", key=put.key
        ) from None


def _attributes(put: Put) -> dict[str, str]:
    return {"Content-Type": put.media_type}


def _is_torn(put: Put, made: Made) -> bool:
    return made.created and made.size_bytes != put.size_bytes


class FolderWriter:
    """Puts into a folder, durably unless `fsync` is off.

    A file that is there already, on the folder's filesystem, needs a handful of quick calls, made on the event loop
    (a hop to a thread costs more than they do), and two syncs, shared with the other puts of the moment. What may
    take long (copies, systems without syncfs, a disk found to be slow) goes through threads of its own.
    """

    def __init__(self, folder: ObjectFolder, *, fsync: bool) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")
        self._sync = FolderSync(folder.root) if fsync and can_sync_folder() else None
        self._together = self._sync is not None or not fsync
        self._slow_until = 0.0

    def make(self, put: Put) -> Made:
        if isinstance(put.body, bytes):
            created = self._folder.put_bytes(put.key, put.body)
        else:
            created = self._folder.put_file(put.key, put.body, put.size_bytes)
        return Made(created, self._folder.size(put.key))

    async def make_async(self, put: Put) -> Made:
        loop = asyncio.get_running_loop()
        if self._together and not isinstance(put.body, bytes) and loop.time() >= self._slow_until:
            made = await self._make_together(put, put.body, loop.time)
            if made is not None:
                return made
        return await loop.run_in_executor(self._threads, self.make, put)

    async def _make_together(self, put: Put, path: Path, clock: Callable[[], float]) -> Made | None:
        self._folder.offer(put.key, path, put.size_bytes)
        await self._durable()  # or a power loss may leave a torn object under its final name
        began = clock()
        created = self._folder.take(put.key, path)
        if clock() - began > _SLOW_S:
            self._slow_until = clock() + _SLOW_FOR_S
        if created is None:
            return None
        await self._durable()
        return Made(created, put.size_bytes if created else self._folder.size(put.key))

    async def _durable(self) -> None:
        if self._sync is not None:
            await self._sync.durable()
