"""How the chunks of an `enqueue_many` travel: one connection, and while the server works the next chunk is made.

A chunk may be sent twice: its job ids are fixed before the first sending, and the script leaves alone what it has
accepted already. So a connection that breaks is opened again, once per chunk, and the chunk is sent again. A timeout
is not retried: the caller has waited long enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from shared.redis.client import translated
from shared.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from producers.bulk import Bulk, Chunk
    from shared.errors import DarkroomError
    from shared.jobs.data_uri import DataUri
    from shared.redis.scripts import Argument

    Uploads = Iterable[tuple[str, DataUri]]

_SCRIPT: Final = "enqueue_jobs"
_LOAD: Final = ("SCRIPT", "LOAD")
_AGAIN: Final = (RedisConnectionError, NoScriptError)
Replies = list[list[int | bytes]]


def pack_calls(prefix: str, calls: Sequence[tuple[Argument, ...]]) -> list[bytes]:
    """Write the script calls of a chunk in the server's protocol. Nothing here depends on the connection."""
    sha = script(_SCRIPT).sha
    return [_pack("EVALSHA", sha, 1, prefix + "control", prefix, "", *call) for call in calls]


def _pack(*words: Argument) -> bytes:
    pack: Any = pack_command  # its stub is of a tuple of one
    return bytes(pack(words))


class Link:
    """The blocking edge. Chunks sent and not yet answered are kept: if the connection breaks, all go again."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._unanswered: deque[list[bytes]] = deque()

    def send(self, packed: list[bytes]) -> None:
        """Send a chunk's calls."""
        if self._connection is None:
            self._connection = self._pool.get_connection()
            self._load_script()
        self._unanswered.append(packed)
        try:
            self._connection.send_packed_command(packed, check_health=False)
        except RedisConnectionError:
            self._send_again()

    def receive(self) -> Replies:
        """Read the replies to the first unanswered chunk."""
        try:
            replies = self._read()
        except _AGAIN:
            self._send_again()
            replies = self._read()
        self._unanswered.popleft()
        return replies

    def _read(self) -> Replies:
        return [self._connection.read_response() for _ in self._unanswered[0]]

    def _load_script(self) -> None:
        self._connection.send_command(*_LOAD, script(_SCRIPT).text)
        self._connection.read_response()

    def _send_again(self) -> None:
        self._connection.disconnect()
        self._load_script()
        for packed in self._unanswered:
            self._connection.send_packed_command(packed, check_health=False)

    def close(self) -> None:
        if self._connection is not None:
            if self._unanswered:  # replies are outstanding: nobody else may read them
                self._connection.disconnect()
            self._pool.release(self._connection)
            self._connection = None


class AsyncLink:
    """The asyncio edge."""

    def __init__(self, client: AsyncRedis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._unanswered: deque[list[bytes]] = deque()

    async def send(self, packed: list[bytes]) -> None:
        """As Link.send."""
        if self._connection is None:
            self._connection = await self._pool.get_connection()
            await self._load_script()
        self._unanswered.append(packed)
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except RedisConnectionError:
            await self._send_again()

    async def receive(self) -> Replies:
        """As Link.receive."""
        try:
            replies = await self._read()
        except _AGAIN:
            await self._send_again()
            replies = await self._read()
        self._unanswered.popleft()
        return replies

    async def _read(self) -> Replies:
        return [await self._connection.read_response() for _ in self._unanswered[0]]

    async def _load_script(self) -> None:
        await self._connection.send_command(*_LOAD, script(_SCRIPT).text)
        await self._connection.read_response()

    async def _send_again(self) -> None:
        await self._connection.disconnect()
        await self._load_script()
        for packed in self._unanswered:
            await self._connection.send_packed_command(packed, check_health=False)

    async def aclose(self) -> None:
        if self._connection is not None:
            if self._unanswered:
                await self._connection.disconnect()
            await self._pool.release(self._connection)
            self._connection = None


class _Progress:
    """Which chunks are under way, and how many may be."""

    def __init__(self, bulk: Bulk, prefix: str, hint: Callable[[Iterable[str]], None]) -> None:
        self._bulk, self._prefix, self._hint = bulk, prefix, hint
        self._under_way: deque[Chunk] = deque()
        self._stop: DarkroomError | None = None

    def _left(self, limit: int) -> bool:
        """Say whether more than `limit` chunks wait for an answer."""
        return len(self._under_way) > limit

    def _record(self, chunk: Chunk, replies: Replies) -> None:
        self._stop = self._bulk.record(chunk, replies) or self._stop
        self._hint(self._bulk.lanes_to_hint(final=False))

    def _raise_stop(self) -> None:
        """End an enqueue that found no room, or its batch sealed."""
        if self._stop is not None:
            raise self._stop

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """After a failure no answer can be had for what is under way; asking again would only take longer."""
        try:
            yield
        except BaseException:
            self._under_way.clear()
            raise

    @staticmethod
    def _limit_after(chunk: Chunk) -> int:
        """One chunk more, so that the server never waits; none if the iterable is slow or at its end."""
        return 1 if chunk.full else 0


class Sender(_Progress):
    """The blocking edge: takes items from an iterable, sends chunks, records answers."""

    def __init__(
        self,
        bulk: Bulk,
        link: Link,
        prefix: str,
        url: str,
        put_inputs: Callable[[Uploads], None],
        hint: Callable[[Iterable[str]], None],
    ) -> None:
        super().__init__(bulk, prefix, hint)
        self._link, self._url, self._put_inputs = link, url, put_inputs

    def send_all(self, items: Iterable[Any]) -> None:
        """Raises what the iterable raises, StateUnavailable, StorageError, BacklogFull, BatchSealed."""
        try:
            for item in items:
                if self._bulk.add(item):
                    self._turn()
                    self._bulk.listen()
            self._turn()
        finally:  # also when the iterable raises: what was sent is recorded
            self._settle(0)
            self._hint(self._bulk.lanes_to_hint(final=True))

    def _turn(self) -> None:
        chunk = self._bulk.take()
        self._put_inputs(chunk.uploads.values())
        packed = pack_calls(self._prefix, self._bulk.calls(chunk))
        with translated(self._url):
            self._link.send(packed)
        self._under_way.append(chunk)
        self._settle(self._limit_after(chunk))
        self._raise_stop()

    def _settle(self, limit: int) -> None:
        """Read answers until at most `limit` chunks are under way."""
        while self._left(limit):
            chunk = self._under_way.popleft()
            with translated(self._url), self._forgetting():
                replies = self._link.receive()
            self._record(chunk, replies)


class AsyncSender(_Progress):
    """The asyncio edge."""

    def __init__(
        self,
        bulk: Bulk,
        link: AsyncLink,
        prefix: str,
        url: str,
        put_inputs: Callable[[Uploads], Awaitable[None]],
        hint: Callable[[Iterable[str]], None],
    ) -> None:
        super().__init__(bulk, prefix, hint)
        self._link, self._url, self._put_inputs = link, url, put_inputs

    async def send_all(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        """As Sender.send_all."""
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    await self._take(item)
            else:
                for item in items:
                    await self._take(item)
            await self._turn()
        finally:
            await self._settle(0)
            self._hint(self._bulk.lanes_to_hint(final=True))

    async def _take(self, item: Any) -> None:
        if self._bulk.add(item):
            await self._turn()
            self._bulk.listen()

    async def _turn(self) -> None:
        chunk = self._bulk.take()
        await self._put_inputs(chunk.uploads.values())
        packed = pack_calls(self._prefix, self._bulk.calls(chunk))
        with translated(self._url):
            await self._link.send(packed)
        self._under_way.append(chunk)
        await self._settle(self._limit_after(chunk))
        self._raise_stop()

    async def _settle(self, limit: int) -> None:
        while self._left(limit):
            chunk = self._under_way.popleft()
            with translated(self._url), self._forgetting():
                replies = await self._link.receive()
            self._record(chunk, replies)
