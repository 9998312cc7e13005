"""A TCP proxy that misbehaves on request: between a test's processes and one of their servers.

    client -> Proxy -> server          `with Proxy("127.0.0.1:6379") as proxy: ... proxy.turn(Weather(delay_s=2))`

`turn` changes the weather of every connection at once, or of one of them: they are numbered from 1 as they arrive.
Bytes that are lost leave a hole, so that direction of that connection stays dead for good, as behind a router that
forgot it; connections made in better weather work. Bytes that are held arrive when the weather is good again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Coroutine

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
READ_AHEAD: Final = 256  # chunks
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends RST instead of FIN [socket(7)]

T = TypeVar("T")
Way = Literal["to_server", "to_client"]


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to bytes. The default lets them pass."""

    delay_s: float = 0.0  # each way, so a round trip takes twice that
    lose: frozenset[Way] = frozenset()  # the half-open connection: the peer sees neither bytes nor the end
    hold: frozenset[Way] = frozenset()  # a network that hangs and recovers
    slice_bytes: int = 0  # hand over so many at a time ...
    slice_every_s: float = 0.01  # ... and wait so long after each
    cut_after: int | None = (
        None  # RST both ends once so many bytes of answers have passed; 0: before the first
    )
    refuse: bool = False  # RST new connections


FAIR: Final = Weather()
LOSE_BOTH: Final = Weather(lose=frozenset({"to_server", "to_client"}))
LOSE_TO_SERVER: Final = Weather(lose=frozenset({"to_server"}))
LOSE_TO_CLIENT: Final = Weather(lose=frozenset({"to_client"}))


@dataclass(slots=True, eq=False)
class Link:
    """One client's connection: both sockets, and which ways have a hole."""

    number: int
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    dead: set[Way] = field(default_factory=set)
    passed: dict[Way, int] = field(default_factory=lambda: {"to_server": 0, "to_client": 0})

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in (self.client, self.server):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
                writer.transport.abort()


class Proxy:
    """Listens on a port of its own while its `with` block lasts, on an event loop in a thread of its own."""

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._weather, self._special = FAIR, dict[int, Weather]()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turned = asyncio.Event()
        self.seen = 0  # connections so far
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, HOST, 0))
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def turn(self, weather: Weather, *, connection: int | None = None) -> None:
        """Change the weather: of all connections without one of their own, or of one, seen already or to come."""
        if connection is None:
            self._weather = weather
        else:
            self._special[connection] = weather
        self._loop.call_soon_threadsafe(self._wake)

    def lead_to(self, target: str) -> None:
        """Lead connections made from now on to another server (HOST:PORT); those that are open stay where they are."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    def reset_all(self) -> int:
        """End every connection with RST; give how many there were."""

        async def reset() -> int:
            links = list(self._links)
            for link in links:
                link.reset()
            return len(links)

        return self._do(reset())

    @property
    def connections(self) -> list[int]:
        """Numbers of the connections that are open."""
        return sorted(link.number for link in list(self._links))

    def _wake(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _weather_of(self, link: Link) -> Weather:
        return self._special.get(link.number, self._weather)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Carry one connection from its first byte to the end of both directions."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        self.seen += 1
        link = Link(self.seen, client)
        self._links.add(link)
        try:
            if self._weather_of(link).refuse:
                return
            answers, link.server = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(link, "to_server", reader, link.server))
                both.create_task(self._carry(link, "to_client", answers, client))
        except* OSError:
            pass  # one end is gone, or the server is down: so is the other end, by RST
        finally:
            link.reset()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _carry(
        self, link: Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read on while earlier bytes are delayed: a delay is not a limit on what is under way."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(READ_AHEAD)
        reading = asyncio.create_task(self._read(link, reader, due))
        try:
            while (item := await due.get())[1]:
                await asyncio.sleep(item[0] - self._loop.time())
                await self._deliver(link, way, item[1], writer)
            while way in link.dead or way in self._weather_of(link).hold | self._weather_of(link).lose:
                await self._turned.wait()  # the peer does not learn of the end
            if await reading:
                raise ConnectionResetError
            writer.write_eof()
        finally:
            reading.cancel()

    async def _read(
        self, link: Link, reader: asyncio.StreamReader, due: asyncio.Queue[tuple[float, bytes]]
    ) -> bool:
        """Read to the end, which is an empty entry; say whether it was an RST."""
        broken = False
        try:
            while data := await reader.read(CHUNK_BYTES):
                await due.put((self._loop.time() + self._weather_of(link).delay_s, data))
        except OSError:
            broken = True
        await due.put((self._loop.time() + self._weather_of(link).delay_s, b""))
        return broken

    async def _deliver(self, link: Link, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Hand bytes over as the weather allows; raises ConnectionResetError where it cuts the connection."""
        while data:
            while way in self._weather_of(link).hold:
                await self._turned.wait()
            weather = self._weather_of(link)
            if way in weather.lose:
                link.dead.add(way)
            if way in link.dead:
                return
            part = data[: weather.slice_bytes or None]
            if weather.cut_after is not None and way == "to_client":
                part = part[: max(0, weather.cut_after - link.passed[way])]
            writer.write(part)
            await writer.drain()
            link.passed[way] += len(part)
            if weather.cut_after is not None and way == "to_client" and link.passed[way] >= weather.cut_after:
                raise ConnectionResetError
            data = data[len(part) :]
            if weather.slice_bytes:
                await asyncio.sleep(weather.slice_every_s)
