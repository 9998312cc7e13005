"""Stands between the workers and a provider or webhook sink: passes everything on, and spoils the answers it is told to.

What the sandbox can do by itself (statuses, lost answers, hangs) it is told by a rule. Here is the rest: bodies that
never end, bytes that drip, resets in the middle, answers of the wrong shape, somebody else's generation id.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

On = Literal["submit", "poll", "image", "event"]
HOST: Final = "127.0.0.1"
_CHUNK: Final = bytes(1 << 16)
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time [socket(7)]


@dataclass(frozen=True, slots=True)
class Passed:
    """What was answered, before it is spoilt."""

    status: int
    body: bytes


@dataclass
class Twist:
    """Spoils the first `times` answers of a kind (0: all of them). Without `pass_on` the request goes no further."""

    on: On
    spoil: Callable[[socket.socket, Passed], None]
    times: int = 0
    pass_on: bool = True
    done: int = 0


@dataclass
class Middleman:
    """A server of its own; `url` replaces the other's."""

    upstream: str
    twists: list[Twist] = field(default_factory=list)
    seen: list[tuple[float, str]] = field(default_factory=list)  # (monotonic s, kind) of each request

    def __enter__(self) -> Self:
        self._lock, self.ended = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer((HOST, 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}"

    def twist_of(self, kind: str) -> Twist | None:
        """Give the twist for this request, and count it; the first that is not used up."""
        with self._lock:
            self.seen.append((time.monotonic(), kind))
            for twist in self.twists:
                if twist.on == kind and not (twist.times and twist.done >= twist.times):
                    twist.done += 1
                    return twist
        return None


def _handler_of(middleman: Middleman) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._answer("submit" if self.path.endswith("/images/generations") else "event", body)

        def do_GET(self) -> None:
            self._answer("image" if "/f/image/" in self.path else "poll", None)

        def _answer(self, kind: str, body: bytes | None) -> None:
            twist = middleman.twist_of(kind)
            passed = Passed(0, b"")
            if twist is None or twist.pass_on:
                passed = self._pass_on(body)
            with contextlib.suppress(OSError):
                if twist is None:
                    self.wfile.write(http(passed.body, passed.status))
                else:
                    twist.spoil(self.connection, passed)

        def _pass_on(self, body: bytes | None) -> Passed:
            there = urlsplit(middleman.upstream)
            connection = HTTPConnection(str(there.hostname), there.port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return Passed(answer.status, answer.read())

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def http(body: bytes, status: int = 200, *, length: int | None = None, more: str = "") -> bytes:
    """Give an answer as bytes; `length` may lie."""
    told = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {told}\r\n"
        f"{more}connection: close\r\n\r\n"
    ).encode() + body


def says(document: object, status: int = 200) -> Callable[[socket.socket, Passed], None]:
    """Answer with this instead."""
    return lambda connection, _: connection.sendall(http(json.dumps(document).encode(), status))


def says_bytes(body: bytes, status: int = 200, more: str = "") -> Callable[[socket.socket, Passed], None]:
    """Answer with these bytes as the body; `more` are header lines, each with its CRLF."""
    return lambda connection, _: connection.sendall(http(body, status, more=more))


def changed(change: Callable[[Any], object]) -> Callable[[socket.socket, Passed], None]:
    """Answer with the provider's own document, changed."""

    def spoil(connection: socket.socket, passed: Passed) -> None:
        document = json.loads(passed.body)
        connection.sendall(http(json.dumps(change(document)).encode(), passed.status))

    return spoil


def endless(mib: int, status: int = 200) -> Callable[[socket.socket, Passed], None]:
    """Send a body of so many MiB, as long as anybody reads."""

    def spoil(connection: socket.socket, _: Passed) -> None:
        connection.sendall(http(b"", status, length=mib << 20))
        for _chunk in range(mib << 4):
            connection.sendall(_CHUNK)

    return spoil


def dripping(byte_every_s: float, for_s: float) -> Callable[[socket.socket, Passed], None]:
    """Send the answer byte by byte, head and body, so slowly that a timeout per read never fires."""

    def spoil(connection: socket.socket, passed: Passed) -> None:
        until = time.monotonic() + for_s
        for byte in http(passed.body, passed.status):
            if time.monotonic() > until:
                return
            connection.sendall(bytes([byte]))
            time.sleep(byte_every_s)

    return spoil


def stopping(*, after: Literal["head", "half"], reset: bool) -> Callable[[socket.socket, Passed], None]:
    """End the connection inside the answer."""

    def spoil(connection: socket.socket, passed: Passed) -> None:
        whole = http(passed.body, passed.status)
        half = len(whole) - len(passed.body) + (len(passed.body) // 2 if after == "half" else 0)
        connection.sendall(whole[:half])
        time.sleep(0.05)  # what was sent should arrive before the reset destroys it
        if reset:
            vanish(connection, passed)

    return spoil


def vanish(connection: socket.socket, _: Passed) -> None:
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    connection.close()


def silent(for_s: float) -> Callable[[socket.socket, Passed], None]:
    """Keep the connection open and say nothing, as behind a firewall that forgot it."""
    return lambda _connection, _passed: time.sleep(for_s)
