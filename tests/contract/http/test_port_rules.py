"""What every implementation of the port keeps, whatever the server does and whatever the environment says."""

from __future__ import annotations

import asyncio
import gzip
import threading
from typing import TYPE_CHECKING, Literal

import httpx
import pytest

from tests.contract.http.raw_http_server import Peer, RawServer, closed_port
from workers.http import (
    FailureCause,
    HttpFailure,
    HttpRequest,
    HttpResponse,
    HttpxClient,
    PyreqwestClient,
    Sent,
    make_client,
    make_submit_client,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.http.conftest import Flavour

MIB = 1024 * 1024


def exchange(flavour: Flavour, *requests: HttpRequest) -> list[HttpResponse | HttpFailure]:
    """Send the requests one after the other through one client."""

    async def run() -> list[HttpResponse | HttpFailure]:
        client = flavour.make()
        try:
            return [await client.send(request) for request in requests]
        finally:
            await client.aclose()

    return flavour.run(run())


def answer(*lines: str, body: bytes = b"") -> Callable[[Peer], None]:
    """Give a script that answers each request on a connection with these header lines and this body."""
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode("latin-1")

    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.write(head + body)

    return script


def test_a_redirect_is_an_answer(flavour: Flavour) -> None:
    """A followed redirect would take body and Authorization to another server."""
    with (
        RawServer(answer("HTTP/1.1 200 OK")) as elsewhere,
        RawServer(answer("HTTP/1.1 302 Found", f"Location: {elsewhere.url}")) as server,
    ):
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url, body=b"x"))
        assert elsewhere.peers == []
    assert isinstance(outcome, HttpResponse)
    assert (outcome.status, outcome.header("Location")) == (302, elsewhere.url)


def test_the_environment_sets_no_proxy(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would see keys, and would be what the connect step proves something about."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with RawServer(answer("HTTP/1.1 200 OK", body=b"direct")) as server:
        (outcome,) = exchange(flavour, HttpRequest("GET", server.url))
    assert isinstance(outcome, HttpResponse)
    assert outcome.body == b"direct"


def test_requests_carry_what_was_given_and_no_cookie(flavour: Flavour) -> None:
    """Identity is the only coding asked for, our headers arrive once each, and cookies are forgotten."""
    request = HttpRequest("POST", "", (("Authorization", "Bearer k"), ("User-Agent", "mine")), b'{"a":1}')
    with RawServer(answer("HTTP/1.1 200 OK", "Set-Cookie: session=1")) as server:
        request = HttpRequest(request.method, server.url, request.headers, request.body)
        exchange(flavour, request, request)
        heads = b"".join(bytes(peer.received) for peer in server.peers).lower()
    assert heads.count(b"accept-encoding: identity\r\n") == 2
    assert heads.count(b"authorization: bearer k\r\n") == 2
    assert heads.count(b"user-agent: mine\r\n") == heads.count(b"user-agent:") == 2
    assert heads.count(b"content-length: 7\r\n") == 2
    assert heads.count(b'{"a":1}') == 2
    assert b"cookie:" not in heads


def test_a_compressed_answer_is_given_as_it_came(flavour: Flavour) -> None:
    """Decompressing would let a small answer become a huge one."""
    bomb = gzip.compress(b"0" * MIB)
    with RawServer(answer("HTTP/1.1 200 OK", "Content-Encoding: gzip", body=bomb)) as server:
        (outcome,) = exchange(flavour, HttpRequest("GET", server.url))
    assert isinstance(outcome, HttpResponse)
    assert outcome.body == bomb


@pytest.mark.parametrize("odd", ["X-Text: fine", "X-Bytes: \xff\xfe"])
def test_headers_are_lower_case_and_the_first_of_each(flavour: Flavour, odd: str) -> None:
    """One that is not text never costs the answer."""
    lines = ("HTTP/1.1 429 Slow", "Retry-After: 7", "RETRY-AFTER: 9", odd)
    with RawServer(answer(*lines, body=b"later")) as server:
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url))
    assert isinstance(outcome, HttpResponse)
    assert (outcome.status, outcome.body) == (429, b"later")
    assert outcome.headers["retry-after"] == outcome.header("Retry-After") == "7"
    assert outcome.header("Absent") is None


@pytest.mark.parametrize(
    ("head", "chunk"),
    [
        (b"Content-Length: 1073741824\r\n\r\n", b"0" * 65536),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"0" * 65536 + b"\r\n"),
        (b"Connection: close\r\n\r\n", b"0" * 65536),
        (b"", b"X-Endless: " + b"0" * 1000 + b"\r\n"),
    ],
    ids=["1-GB", "chunked", "until-close", "headers"],
)
def test_an_endless_answer_is_cut_off(flavour: Flavour, head: bytes, chunk: bytes) -> None:
    """What the server got rid of bounds what the client can have kept."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(b"HTTP/1.1 200 OK\r\n" + head)
        peer.write_without_end(chunk)

    with RawServer(script) as server:
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url, max_response_bytes=MIB, deadline_s=8))
    assert isinstance(outcome, HttpFailure)
    assert outcome.sent is Sent.MAYBE_SENT
    if head:
        assert (outcome.cause, outcome.status) == (FailureCause.RESPONSE_TOO_LARGE, 200)
    assert server.peers[0].sent_bytes < 32 * MIB


@pytest.mark.parametrize("coding", [b"chunked", b"identity", b"\xff", b"\xff, chunked"])
def test_a_length_beside_a_transfer_encoding_bounds_nothing(flavour: Flavour, coding: bytes) -> None:
    """Of the two headers the length is void: who believes a short one reads on without a limit."""
    chunk = b"0" * 65536
    if coding.endswith(b"chunked"):
        chunk = b"10000\r\n" + chunk + b"\r\n"

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: " + coding + b"\r\n\r\n")
        peer.write_without_end(chunk)

    with RawServer(script) as server:
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url, max_response_bytes=MIB, deadline_s=8))
    assert isinstance(outcome, HttpFailure)
    assert outcome.sent is Sent.MAYBE_SENT
    assert outcome.cause in {
        FailureCause.RESPONSE_TOO_LARGE,
        FailureCause.PROTOCOL,
    }  # h11 takes no odd coding
    assert server.peers[0].sent_bytes < 32 * MIB


def test_an_interim_answer_is_passed_over(flavour: Flavour) -> None:
    """1xx is not the answer."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.write(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok"
        )

    with RawServer(script) as server:
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url))
    assert isinstance(outcome, HttpResponse)
    assert (outcome.status, outcome.body) == (201, b"ok")


def test_a_body_in_single_bytes_is_put_together(flavour: Flavour) -> None:
    """However it was cut up on the way."""
    body = bytes(range(256)) * 40

    def script(peer: Peer) -> None:
        peer.read_request()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    with RawServer(script) as server:
        (outcome,) = exchange(flavour, HttpRequest("GET", server.url))
    assert isinstance(outcome, HttpResponse)
    assert outcome.body == body


def test_a_body_of_exactly_the_limit_is_taken(flavour: Flavour) -> None:
    """The limit itself is allowed."""
    with RawServer(answer("HTTP/1.1 200 OK", body=b"x" * MIB)) as server:
        (outcome,) = exchange(flavour, HttpRequest("GET", server.url, max_response_bytes=MIB))
    assert isinstance(outcome, HttpResponse)
    assert len(outcome.body) == MIB


def test_cancellation_passes_through(flavour: Flavour) -> None:
    """A cancelled send raises, and gives no verdict."""
    arrived = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        arrived.set()
        peer.wait_for_close()

    async def run(url: str) -> None:
        client = flavour.make()
        sending = asyncio.create_task(client.send(HttpRequest("POST", url, deadline_s=2)))
        assert await asyncio.to_thread(arrived.wait, 2)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await client.aclose()

    with RawServer(script) as server:
        flavour.run(run(server.url))
        assert server.posts_seen == 1


def test_a_deadline_that_has_passed_sends_nothing(flavour: Flavour) -> None:
    """Time may run out before our turn comes."""
    with RawServer(answer("HTTP/1.1 200 OK")) as server:
        (outcome,) = exchange(flavour, HttpRequest("POST", server.url, deadline_s=0))
        assert server.peers == []
    assert isinstance(outcome, HttpFailure)
    assert (outcome.sent, outcome.cause) == (Sent.NOT_SENT, FailureCause.TIMEOUT)


def test_streaming_hands_over_only_the_body_of_a_200() -> None:
    """What a download writes to its file is never an error page."""

    async def run(url: str) -> tuple[HttpResponse | HttpFailure, bytes]:
        client, received = PyreqwestClient(), bytearray()
        try:
            return await client.stream(HttpRequest("GET", url), received.extend), bytes(received)
        finally:
            await client.aclose()

    for status, expected in ((200, b"image" * 50_000), (404, b"")):
        with RawServer(answer(f"HTTP/1.1 {status} X", body=b"image" * 50_000)) as server:
            outcome, received = asyncio.run(run(server.url))
        assert isinstance(outcome, HttpResponse)
        assert (outcome.status, outcome.body) == (status, b"")
        assert received == expected


# --- foreign transports ---------------------------------------------------------------------------------------------


def through(
    handler: Callable[[httpx.Request], httpx.Response], request: HttpRequest
) -> HttpResponse | HttpFailure:
    """Send through httpx's mock transport."""

    async def run() -> HttpResponse | HttpFailure:
        client = HttpxClient(httpx.MockTransport(handler))
        try:
            return await client.send(request)
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_a_mock_transport_answers() -> None:
    """Tests of other parts stand on this."""
    outcome = through(
        lambda request: httpx.Response(201, json={"echo": request.content.decode()}, headers={"X-A": "1"}),
        HttpRequest("POST", "https://api.example/v1", body=b"hello"),
    )
    assert isinstance(outcome, HttpResponse)
    assert (outcome.status, outcome.header("x-a"), outcome.body) == (201, "1", b'{"echo":"hello"}')


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("no"),
        httpx.ConnectTimeout("no"),
        httpx.ReadError("no"),
        OSError("no"),
        KeyError("no"),
    ],
)
def test_a_foreign_transport_is_never_believed(error: Exception) -> None:
    """A connect error of a transport that is not httpx's own proves nothing, and nothing it raises escapes."""

    def handler(_request: httpx.Request) -> httpx.Response:
        raise error

    outcome = through(handler, HttpRequest("POST", "https://api.example/v1", body=b"canary"))
    assert isinstance(outcome, HttpFailure)
    assert outcome.sent is Sent.MAYBE_SENT


def test_a_subclass_of_the_own_transport_is_foreign() -> None:
    """It may have retried or delegated before the connect step that its trace shows."""

    class Wrapping(httpx.AsyncHTTPTransport):
        pass

    async def run() -> HttpResponse | HttpFailure:
        client = HttpxClient(Wrapping(verify=False))
        try:
            return await client.send(HttpRequest("POST", f"http://127.0.0.1:{closed_port()}/"))
        finally:
            await client.aclose()

    outcome = asyncio.run(run())
    assert isinstance(outcome, HttpFailure)
    assert outcome.sent is Sent.MAYBE_SENT


# --- what may be shown, what is made --------------------------------------------------------------------------------


def test_reprs_show_no_secret() -> None:
    """Requests and answers end up in logs by accident; keys, prompts and signed URLs must not."""
    request = HttpRequest(
        "POST",
        "https://user:canary@host.example:8443/canary?s=canary",
        (("Authorization", "canary"),),
        b"canary",
    )
    assert repr(request) == "HttpRequest(POST https://host.example:8443, 6 bytes)"
    assert "canary" not in repr(HttpRequest("GET", "http://[canary"))
    assert "canary" not in repr(HttpResponse(200, {"set-cookie": "canary"}, b"canary"))


@pytest.mark.parametrize(("kind", "made"), [("pyreqwest", PyreqwestClient), ("httpx", HttpxClient)])
def test_submit_clients_close_each_connection(
    kind: Literal["pyreqwest", "httpx"], made: type[PyreqwestClient | HttpxClient]
) -> None:
    """The setting names the implementation; either way two submits use two connections."""

    async def run(url: str) -> None:
        client = make_submit_client(kind)
        assert isinstance(client, made)
        for _ in range(2):
            assert isinstance(await client.send(HttpRequest("POST", url)), HttpResponse)
        await client.aclose()

    with RawServer(answer("HTTP/1.1 200 OK")) as server:
        asyncio.run(run(server.url))
        assert len(server.peers) == 2


def test_the_client_for_polls_keeps_its_connection() -> None:
    """Polls are many and may be repeated."""

    async def run(url: str) -> None:
        client = make_client()
        for _ in range(3):
            assert isinstance(await client.send(HttpRequest("GET", url)), HttpResponse)
        await client.aclose()

    with RawServer(answer("HTTP/1.1 200 OK", body=b"{}")) as server:
        asyncio.run(run(server.url))
        assert len(server.peers) == 1
