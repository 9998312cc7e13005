"""A TCP server that a test scripts byte by byte, and that remembers what reached it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

_PATIENCE_S = 10


@dataclass
class Peer:
    """One accepted connection."""

    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    sent_bytes: int = 0

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes, or fewer if the client ends."""
        got = bytearray()
        while len(got) < size and (chunk := self.sock.recv(min(65536, size - len(got)))):
            got += chunk
        self.received += got
        return bytes(got)

    def read_head(self) -> bytes:
        """Read up to the empty line, byte by byte so that nothing of the body is taken."""
        head = bytearray()
        while not head.endswith(b"\r\n\r\n") and (byte := self.read(1)):
            head += byte
        return bytes(head)

    def read_request(self) -> bytes:
        """Read head and whole body; give the head."""
        head = self.read_head()
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self.read(int(line.split(b":")[1]))
        return head

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent_bytes += len(data)

    def write_without_end(self, chunk: bytes) -> None:
        """Write `chunk` again and again, until the client goes away."""
        with contextlib.suppress(OSError):
            while True:
                self.write(chunk)

    def wait_for_close(self) -> None:
        """Read until the client goes away."""
        with contextlib.suppress(OSError):
            while chunk := self.sock.recv(65536):
                self.received += chunk

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class RawServer:
    """Runs `script` in a thread for each connection to a port of its own, on loopback."""

    def __init__(self, script: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> None:
        self.peers: list[Peer] = []
        self._script, self._tls = script, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://localhost:{self.port}/submit?signature=canary-query"

    @property
    def posts_seen(self) -> int:
        """Count the request heads that were read, over all connections."""
        return sum(bytes(peer.received).count(b"POST /submit") for peer in self.peers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive(), "a server script did not end"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(_PATIENCE_S)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        peer = Peer(sock)
        self.peers.append(peer)
        try:
            if self._tls is not None:
                peer.sock = self._tls.wrap_socket(sock, server_side=True)
            self._script(peer)
        except OSError:
            pass  # the client went away: scripts need not care
        finally:
            peer.sock.close()


@contextlib.contextmanager
def full_backlog() -> Iterator[socket.socket]:
    """Give a listening socket whose queue is full, so that connecting to it hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener


def closed_port() -> int:
    """Give a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
