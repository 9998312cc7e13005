"""A small HTTP/1.1 server on `asyncio.Protocol` and llhttp: keep-alive, pipelining, chunked bodies, caps.

A handler is a plain function from `Request` to an `Answer`; what a real network would do to an answer (delay
it, lose it, cut it) is an answer too, so that faults need no second code path. Kept out on purpose: TLS, HTTP/2,
compression, ranges, idle timeouts.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import assert_never, cast
from urllib.parse import parse_qs, unquote

import httptools

MAX_HEAD_BYTES = 64 * 1024
MAX_QUEUED_REQUESTS = 64
LINGER_S = 2.0
_BODILESS = {204, 304}
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request; header names are lower case, a repeated header keeps its last value."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def param(self, name: str) -> str | None:
        """Give the last value of a query parameter, or None."""
        values = parse_qs(self.query, keep_blank_values=True).get(name)
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it should be."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """Answer after `delay_s` seconds."""

    delay_s: float
    reply: Reply


@dataclass(frozen=True, slots=True)
class Silence:
    """Never answer; the connection stays open until the peer closes it."""


@dataclass(frozen=True, slots=True)
class Vanish:
    """Close without a byte: an orderly FIN, or a RST."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """Announce the whole body, send half of it, close."""

    reply: Reply


Answer = Reply | Later | Silence | Vanish | Cut
Handler = Callable[[Request], Answer]


def status_of(answer: Answer) -> str:
    """Name an answer in the statistics: its HTTP status, or what happened instead of one."""
    if isinstance(answer, Reply):
        return str(answer.status)
    return str(answer.reply.status) if isinstance(answer, Later) else type(answer).__name__.lower()


class Server:
    """Listens, keeps its connections, closes them with itself."""

    def __init__(self, handler: Handler, *, max_body_bytes: int) -> None:
        self.handler, self.max_body_bytes = handler, max_body_bytes
        self.connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen on `host:port` (0 = any free port) and give the base URL. Raises `OSError` if it cannot."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), host, port, backlog=4096)
        bound = self._listener.sockets[0].getsockname()
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{name}:{bound[1]}"

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One client: requests are answered strictly in order, one at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request | Reply, bool]] = deque()
        self._busy = self._paused = self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_bytes = self._head_fed_bytes = self._body_bytes = 0
        self._in_head = False

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        self._server.connections.discard(self)
        self._queue.clear()
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request itself was complete; it is answered as if no upgrade had been asked for
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._in_head:
            self._head_fed_bytes += len(data)
            if self._head_fed_bytes > MAX_HEAD_BYTES:  # the parser keeps a header to itself until it ends
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- the parser's side

    def on_message_begin(self) -> None:
        self._begin()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= MAX_HEAD_BYTES:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        expects = self._headers.get("expect", "").lower() == "100-continue"
        if expects and not self._busy and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= self._server.max_body_bytes:
            self._body.append(body)
        else:
            self._body.clear()  # the rest is read and thrown away, so that the client gets to see the 413

    def on_message_complete(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._queue.append((_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), False))
        elif self._body_bytes > self._server.max_body_bytes:
            self._queue.append((_plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE), False))
        else:
            self._queue.append((self._request(), self._parser.should_keep_alive()))
        self._pump()

    def _request(self) -> Request:
        method = self._parser.get_method().decode("ascii")
        path, _, query = self._url.decode("latin-1").partition("?")
        return Request(method, unquote(path), query, self._headers, b"".join(self._body))

    # -- answering

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer what cannot be read, and go on reading for a while: a close now could destroy the answer."""
        if self._transport is None or not self._is_open():
            return
        self._queue.clear()
        self._transport.write(_encode(_plain(status), keep_alive=False))
        self._transport.write_eof()
        self._refused = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def _pump(self) -> None:
        while self._queue and not self._busy and self._is_open():
            item, keep_alive = self._queue.popleft()
            if isinstance(item, Reply):
                answer: Answer = item
                head_only = False
            else:
                answer, head_only = self._ask(item), item.method == "HEAD"
            self._deliver(answer, keep_alive, head_only)
        self._throttle()

    def _is_open(self) -> bool:
        """Say whether anyone would hear an answer; a request nobody hears must not be accepted and charged."""
        return self._transport is not None and not self._transport.is_closing() and not self._refused

    def _throttle(self) -> None:
        """Stop reading from a client that pipelines faster than it is answered."""
        full = len(self._queue) >= MAX_QUEUED_REQUESTS
        if self._transport is None or full == self._paused:
            return
        self._paused = full
        if full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _ask(self, request: Request) -> Answer:
        try:
            return self._server.handler(request)
        except Exception:  # noqa: BLE001  a bug of the sandbox must not look like a fault that was asked for
            traceback.print_exc()
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "sandbox: internal error, see its stderr")

    def _deliver(self, answer: Answer, keep_alive: bool, head_only: bool) -> None:
        transport = self._transport
        if transport is None or not self._is_open():
            return
        match answer:
            case Reply():
                transport.write(_encode(answer, keep_alive=keep_alive, head_only=head_only))
                if not keep_alive:
                    transport.close()
            case Later():
                self._busy = True
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(
                    answer.delay_s, self._deliver_late, answer.reply, keep_alive, head_only
                )
            case Silence():
                self._busy = True
            case Cut():
                whole = _encode(answer.reply, keep_alive=False)
                transport.write(whole[: len(whole) - (len(answer.reply.body) + 1) // 2])
                transport.close()
            case Vanish():
                self._vanish(transport, reset=answer.reset)
            case _:
                assert_never(answer)

    def _deliver_late(self, reply: Reply, keep_alive: bool, head_only: bool) -> None:
        self._busy = False
        self._deliver(reply, keep_alive, head_only)
        self._pump()

    def _vanish(self, transport: asyncio.Transport, *, reset: bool) -> None:
        if reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            transport.abort()
        else:
            transport.close()


def _plain(status: HTTPStatus, text: str = "") -> Reply:
    return Reply(status, (text or status.phrase).encode(), "text/plain; charset=utf-8")


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=128)
def _status_line(status: int) -> str:
    try:
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    except ValueError:
        return f"HTTP/1.1 {status} Unknown\r\n"


def _encode(reply: Reply, *, keep_alive: bool, head_only: bool = False) -> bytes:
    headers = [("content-type", reply.content_type), ("content-length", str(len(reply.body))), *reply.headers]
    if reply.status in _BODILESS:
        headers, head_only = [*reply.headers], True
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = (
        f"{_status_line(reply.status)}date: {_date(int(time.time()))}\r\nserver: sandbox\r\n{lines}"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + (b"" if head_only else reply.body)
