"""Who may submit must tell truly whether a byte was sent, and must never send twice: a submit is billed.

Each implementation meets a raw socket server that misbehaves in every way that was seen to fool a client. `NOT_SENT`
is right only where no connection came to be; a peer that read nothing and reset proves nothing, since the bytes were
handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract.http.raw_http_server import Peer, RawServer, closed_port, full_backlog
from tests.descriptors import none_left
from workers.http import FailureCause, HttpFailure, HttpRequest, HttpResponse, Sent

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.http.conftest import Flavour

BODY = b"x" * (4 * 1024 * 1024)  # more than the sockets' buffers hold: half a body is half sent
SLACK_S = 3.0  # for a busy machine; what matters is that nothing hangs

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def post(
    flavour: Flavour,
    url: str,
    deadline_s: float = 5,
    connect_timeout_s: float = 5,
    trusted: Path | None = None,
) -> HttpResponse | HttpFailure:
    """Send one POST with a client of its own, within the deadline."""

    async def run() -> HttpResponse | HttpFailure:
        client = flavour.make(connect_timeout_s, trusted)
        headers = (("Authorization", "Bearer canary-key"),)
        began = time.monotonic()
        try:
            return await client.send(HttpRequest("POST", url, headers, BODY, deadline_s))
        finally:
            assert time.monotonic() - began < deadline_s + SLACK_S
            await client.aclose()

    return flavour.run(run())


def assert_failed(outcome: HttpResponse | HttpFailure, sent: Sent, *causes: FailureCause) -> None:
    """Check the verdict, and that nothing private is in it."""
    assert isinstance(outcome, HttpFailure)
    assert outcome.sent is sent
    assert outcome.cause in causes
    assert "canary" not in repr(outcome)


def hang(peer: Peer) -> None:
    """Read the head and nothing more, answer nothing."""
    peer.read_head()
    time.sleep(0.6)


def hang_after_all(peer: Peer) -> None:
    """Read all, answer nothing."""
    peer.read_request()
    peer.wait_for_close()


def ending(share: float, *, reset: bool) -> Callable[[Peer], None]:
    """Give a script that reads this share of the body (or not even the head), then ends."""

    def script(peer: Peer) -> None:
        if share:
            peer.read_head()
            peer.read(int(len(BODY) * share))
        else:
            time.sleep(0.1)  # the client has written what the buffers take
        if reset:
            peer.reset()

    return script


def answering(*pieces: bytes) -> Callable[[Peer], None]:
    """Give a script that reads all, answers these bytes, and closes."""

    def script(peer: Peer) -> None:
        peer.read_request()
        for piece in pieces:
            peer.write(piece)

    return script


def stalling(answer: bytes) -> Callable[[Peer], None]:
    """Give a script that reads all, answers these bytes, and then leaves the client waiting."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(answer)
        peer.wait_for_close()

    return script


# --- not sent: no connection came to be -----------------------------------------------------------------------------


def test_refused_connection_is_not_sent(flavour: Flavour) -> None:
    """Nobody listens on the port."""
    outcome = post(flavour, f"http://127.0.0.1:{closed_port()}/")
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.CONNECT_FAILED)


def test_unknown_name_is_not_sent(flavour: Flavour) -> None:
    """The name does not resolve; `.invalid` never does (RFC 6761)."""
    outcome = post(flavour, "http://darkroom-contract.invalid/")
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.DNS_FAILED)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_socket_that_cannot_be_opened_is_not_sent(flavour: Flavour, scheme: str) -> None:
    """This process has no file descriptor left: nothing is wrong with TLS."""

    async def run() -> HttpResponse | HttpFailure:
        client = flavour.make()
        first = HttpRequest("POST", f"{scheme}://127.0.0.1:{closed_port()}/", (), BODY, 5)
        await client.send(first)  # what is opened once is open
        with none_left():
            outcome = await client.send(first)
        await client.aclose()
        return outcome

    assert_failed(flavour.run(run()), Sent.NOT_SENT, FailureCause.CONNECT_FAILED)


def test_connect_timeout_is_not_sent(flavour: Flavour) -> None:
    """The listen queue is full, and the connect step gives up before the deadline."""
    with full_backlog() as listener:
        outcome = post(flavour, f"http://127.0.0.1:{listener.getsockname()[1]}/", connect_timeout_s=0.3)
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.CONNECT_TIMEOUT)


def test_plain_text_behind_https_is_not_sent(flavour: Flavour) -> None:
    """TLS cannot be agreed, so no byte of the request can have been written."""

    def script(peer: Peer) -> None:
        peer.read(1)
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(script) as server:
        outcome = post(flavour, server.url.replace("http:", "https:"))
        assert server.posts_seen == 0
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.TLS_FAILED)


def test_untrusted_certificate_is_not_sent(flavour: Flavour, server_tls: ssl.SSLContext) -> None:
    """The handshake fails at the client."""
    with RawServer(hang_after_all, server_tls) as server:
        outcome = post(flavour, server.url)
        assert server.posts_seen == 0
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.TLS_FAILED)


def test_silent_tls_handshake_is_not_sent(flavour: Flavour) -> None:
    """The server accepts and never says a word of TLS; the connect timeout covers the handshake."""
    with RawServer(Peer.wait_for_close) as server:
        outcome = post(flavour, server.url.replace("http:", "https:"), connect_timeout_s=0.3)
    assert_failed(outcome, Sent.NOT_SENT, FailureCause.CONNECT_TIMEOUT)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://", ()),
        ("ftp://127.0.0.1/", ()),
        ("no url", ()),
        ("http://127.0.0.1:1/", (("Authorization", "Bearer canary\nkey"),)),
        ("http://127.0.0.1:1/", (("bad name", "x"),)),
    ],
)
def test_a_request_that_cannot_be_built_is_not_sent(
    flavour: Flavour, url: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """No client would take it, and the failure does not quote the header."""

    async def run() -> HttpResponse | HttpFailure:
        client = flavour.make()
        try:
            return await client.send(HttpRequest("POST", url, headers, b"x"))
        finally:
            await client.aclose()

    assert_failed(flavour.run(run()), Sent.NOT_SENT, FailureCause.INVALID_REQUEST)


# --- maybe sent: a connection was there -----------------------------------------------------------------------------


def test_the_deadline_ends_the_request_for_good(fresh: Flavour) -> None:
    """The deadline passes while connecting: nothing is written when the server comes back after it."""
    with full_backlog() as listener:
        outcome = post(fresh, f"http://127.0.0.1:{listener.getsockname()[1]}/", deadline_s=0.3)
        assert isinstance(outcome, HttpFailure)
        assert outcome.cause in {FailureCause.TIMEOUT, FailureCause.CONNECT_TIMEOUT}
        assert received_within(1.5, listener) == b""  # the kernel tries a lost SYN again after 1 s


def received_within(patience_s: float, listener: socket.socket) -> bytes:
    """Accept whoever comes, and give all that they say."""
    until = time.monotonic() + patience_s
    received = b""
    with contextlib.suppress(TimeoutError):
        while (left_s := until - time.monotonic()) > 0:
            listener.settimeout(left_s)
            accepted, _ = listener.accept()
            with accepted, contextlib.suppress(TimeoutError):
                accepted.settimeout(0.05)
                received += accepted.recv(1000)
    return received


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["none", "half", "all"])
def test_a_connection_that_ends_is_maybe_sent(flavour: Flavour, share: float, reset: bool) -> None:
    """The server ends the connection having read none, half or all of the body; none is no proof either."""
    with RawServer(ending(share, reset=reset)) as server:
        outcome = post(flavour, server.url)
        assert len(server.peers) == 1
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.RESET, FailureCause.CLOSED)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("share", [0, 1], ids=["none", "all"])
def test_a_tls_connection_that_ends_is_maybe_sent(
    flavour: Flavour, share: float, reset: bool, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    """The same after a good handshake."""
    with RawServer(ending(share, reset=reset), server_tls) as server:
        outcome = post(flavour, server.url, trusted=certificate)
        assert len(server.peers) == 1
        assert server.posts_seen == (1 if share else 0)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.RESET, FailureCause.CLOSED)


@pytest.mark.parametrize("script", [hang, hang_after_all])
def test_silence_is_maybe_sent(flavour: Flavour, script: Callable[[Peer], None]) -> None:
    """The deadline passes while the body is being written, or while an answer is awaited."""
    with RawServer(script) as server:
        outcome = post(flavour, server.url, deadline_s=0.4)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.TIMEOUT)
    assert server.posts_seen == 1
    assert len(server.peers) == 1


def test_a_dripping_head_ends_at_the_deadline(flavour: Flavour) -> None:
    """A slow-loris server keeps every single read short."""

    def script(peer: Peer) -> None:
        peer.read_request()
        while True:
            peer.write(b"H" if not peer.sent_bytes else b"T")
            time.sleep(0.02)

    with RawServer(script) as server:
        outcome = post(flavour, server.url, deadline_s=0.4)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.TIMEOUT, FailureCause.PROTOCOL)
    assert server.posts_seen == 1


def test_silence_in_the_body_is_maybe_sent_with_its_status(fresh: Flavour) -> None:
    """The head came, the body never ends; a submit's status is kept, for it may tell what became of the request."""
    with RawServer(stalling(b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nabc")) as server:
        outcome = post(fresh, server.url, deadline_s=0.4)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.TIMEOUT)
    assert isinstance(outcome, HttpFailure)
    assert outcome.status == 401
    assert server.posts_seen == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
    ids=["length", "in-chunk", "between-chunks"],
)
def test_a_cut_body_is_maybe_sent(flavour: Flavour, answer: bytes) -> None:
    """A body shorter than announced is a failure, never a short answer."""
    with RawServer(answering(answer)) as server:
        outcome = post(flavour, server.url)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.CLOSED, FailureCause.RESET)
    assert server.posts_seen == 1


def test_garbage_is_maybe_sent(flavour: Flavour) -> None:
    """What answers does not speak HTTP, and what it says is not quoted."""
    with RawServer(answering(b"SSH-2.0-canary\r\n\r\n")) as server:
        outcome = post(flavour, server.url)
    assert_failed(outcome, Sent.MAYBE_SENT, FailureCause.PROTOCOL)
    assert server.posts_seen == 1


def test_an_answer_before_the_end_of_the_body_is_never_not_sent(flavour: Flavour) -> None:
    """A server that refuses early and closes gives its answer or an ambiguity."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        time.sleep(0.1)

    with RawServer(script) as server:
        outcome = post(flavour, server.url)
        assert len(server.peers) == 1
    if isinstance(outcome, HttpResponse):
        assert outcome.status == 413
    else:
        assert outcome.sent is Sent.MAYBE_SENT


# --- connections used again -----------------------------------------------------------------------------------------


def two_posts(
    flavour: Flavour, server: RawServer, between: Callable[[], None]
) -> list[HttpResponse | HttpFailure]:
    """Send two POSTs one after the other through one client."""

    async def run() -> list[HttpResponse | HttpFailure]:
        client = flavour.make()
        request = HttpRequest("POST", server.url, body=b"x" * 1000, deadline_s=5)
        try:
            first = await client.send(request)
            await asyncio.to_thread(between)
            return [first, await client.send(request)]
        finally:
            await client.aclose()

    return flavour.run(run())


def test_fresh_requests_never_share_a_connection(fresh: Flavour) -> None:
    """A submit cannot meet a stale connection, because it never meets a used one."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(OK)
        peer.wait_for_close()

    with RawServer(script) as server:
        outcomes = two_posts(fresh, server, lambda: None)
        assert len(server.peers) == 2
    assert [getattr(outcome, "status", None) for outcome in outcomes] == [200, 200]
    assert server.posts_seen == 2


def test_a_stale_connection_is_replaced(pooled: Flavour) -> None:
    """The server closed the idle connection: the second request goes over a new one, once."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(OK)

    with RawServer(script) as server:
        outcomes = two_posts(pooled, server, lambda: time.sleep(0.4))
    assert [getattr(outcome, "status", None) for outcome in outcomes] == [200, 200]
    assert server.posts_seen == 2


@pytest.mark.parametrize("whole", [True, False], ids=["all", "first-byte"])
def test_a_connection_closed_upon_its_second_request_is_maybe_sent(pooled: Flavour, whole: bool) -> None:
    """The reused connection took the request before it ended: not sent again, not called unsent."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(OK)
        peer.read(1)
        if whole:
            peer.read_request()

    with RawServer(script) as server:
        outcomes = two_posts(pooled, server, lambda: None)
        assert len(server.peers) == 1
    assert isinstance(outcomes[0], HttpResponse)
    assert_failed(outcomes[1], Sent.MAYBE_SENT, FailureCause.CLOSED, FailureCause.RESET)
