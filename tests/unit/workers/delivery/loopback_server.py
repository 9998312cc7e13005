"""A small HTTP server inside the test's own event loop, on any loopback address."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LoopbackServer:
    """What arrived: one head per request."""

    address: str
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}/result.png?signature=canary-query"


def ok(body: bytes = b"ok", *headers: str) -> bytes:
    return answer("200 OK", *headers, body=body)


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(
    reply: bytes | Handler, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LoopbackServer]:
    """Serve `reply` to each request: ready bytes, or a handler given the head."""
    server = LoopbackServer(address)
    open_now: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        open_now[writer] = asyncio.current_task()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                server.heads.append(head)
                if isinstance(reply, bytes):
                    writer.write(reply)
                else:
                    await reply(head, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is done
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            del open_now[writer]

    listener = await asyncio.start_server(serve, address, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for writer in open_now:
            writer.transport.abort()  # a client that keeps its connection must not keep the test
        await asyncio.gather(*(task for task in open_now.values() if task), return_exceptions=True)
        await listener.wait_closed()


@asynccontextmanager
async def serving_on_one_port(
    first: tuple[bytes | Handler, str], second: tuple[bytes | Handler, str]
) -> AsyncIterator[tuple[LoopbackServer, LoopbackServer]]:
    """Serve (reply, address) twice, on one port that is free on both addresses."""
    async with AsyncExitStack() as stack:
        while True:
            one = await stack.enter_async_context(serving(*first))
            try:
                two = await stack.enter_async_context(serving(*second, one.port))
            except OSError as error:  # another process has it there
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                break
        yield one, two
