"""The port on httpx: for users' own transports, for tests (`MockTransport`), and for submits if settings say so.

The transport is called directly. `httpx.AsyncClient` would add what the port forbids (redirects, cookies, proxies of
the environment, decompression) at several times the CPU.

Whether a byte was sent is told by the trace of httpcore, which sits under httpx's own transport: a request whose
connect step began and whose head was never begun to be written was not sent, however it ended. A foreign transport
(`MockTransport`, a subclass, a user's own) need not emit that trace, may retry or delegate, and is never believed:
any trouble in it is `MAYBE_SENT`, `httpx.ConnectError` included. Only a request that could not even be built, and so
was never handed to the transport, is `NOT_SENT` there.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import TYPE_CHECKING

import httpx

from workers.http.port import (
    CONNECT_TIMEOUT_S,
    DEFAULT_HEADERS,
    FailureCause,
    HttpFailure,
    HttpResponse,
    Sent,
    no_time_left,
    not_built,
    too_large,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workers.http.port import HttpRequest

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header's name, RFC 9110 section 5.6.2
_IDLE_S = 30.0
_IDLE_CONNECTIONS = 32  # httpcore's pool costs CPU in proportion to its connections


class HttpxClient:
    """Requests through an httpx transport; httpx's own if none is given.

    `fresh` gives each request a connection of its own (submits). With a transport that is given, how connections are
    used is that transport's affair, save for a `Connection: close` in a fresh client. `aclose` closes the transport.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        fresh: bool = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._transport = _own_transport(fresh) if transport is None else transport
        self._traced = type(self._transport) is httpx.AsyncHTTPTransport  # a subclass may do anything
        self._headers = DEFAULT_HEADERS | ({"Connection": "close"} if fresh else {})
        self._timeouts = {"connect": connect_timeout_s, "read": None, "write": None, "pool": None}

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure:
        """Send, and give the whole answer in memory."""
        if request.deadline_s <= 0:
            return no_time_left()
        exchange = _Exchange()
        try:
            prepared = self._prepare(request, exchange)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            return not_built(error)
        try:
            async with asyncio.timeout(request.deadline_s):
                return await self._receive(prepared, request.max_response_bytes, exchange)
        except Exception as error:  # noqa: BLE001 - a transport may raise anything, and a billed POST needs an answer
            return exchange.failure(error, traced=self._traced)

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _prepare(self, request: HttpRequest, exchange: _Exchange) -> httpx.Request:
        headers = httpx.Headers(self._headers)
        for name, value in request.headers:
            if not (_TOKEN.fullmatch(name) and value.isprintable()):
                raise ValueError("malformed header")  # h11 would find out only when sending has begun
            headers[name] = value
        prepared = httpx.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.body or None,
            extensions={"timeout": self._timeouts, "trace": exchange.trace},
        )
        if prepared.url.scheme not in {"http", "https"} or not prepared.url.host:
            raise ValueError("not an http URL")
        return prepared

    async def _receive(
        self, prepared: httpx.Request, limit_bytes: int, exchange: _Exchange
    ) -> HttpResponse | HttpFailure:
        response = await self._transport.handle_async_request(prepared)
        exchange.status = response.status_code
        try:
            body = bytearray()
            async for chunk in _stream(response):
                body += chunk
                if len(body) > limit_bytes:
                    return too_large(limit_bytes, response.status_code)
            return HttpResponse(response.status_code, _first_values(response.headers), bytes(body))
        finally:
            await response.aclose()


class _Exchange:
    """What is known of one request: how far it got."""

    __slots__ = ("connecting", "status", "tls", "writing")

    def __init__(self) -> None:
        self.connecting = self.tls = self.writing = False
        self.status: int | None = None

    async def trace(self, event: str, _info: Mapping[str, object]) -> None:
        """Take an event of httpcore's trace; the names are documented as its `trace` extension."""
        if event == "connection.connect_tcp.started":
            self.connecting = True
        elif event == "connection.start_tls.started":
            self.tls = True
        elif event.endswith("send_request_headers.started"):
            self.writing = True

    def failure(self, error: Exception, *, traced: bool) -> HttpFailure:
        """Judge. The error's text is not shown: h11 quotes headers and what the server sent."""
        unsent = traced and self.connecting and not self.writing
        cause = self._connect_cause(error) if unsent else _exchange_cause(error)
        sent = Sent.NOT_SENT if unsent else Sent.MAYBE_SENT
        return HttpFailure(sent, cause, f"{cause.value} ({type(error).__name__})", self.status)

    def _connect_cause(self, error: Exception) -> FailureCause:
        if any(isinstance(cause, socket.gaierror) for cause in _chain(error)):
            return FailureCause.DNS_FAILED
        if isinstance(error, (httpx.ConnectTimeout, TimeoutError)):
            return FailureCause.CONNECT_TIMEOUT
        return FailureCause.TLS_FAILED if self.tls else FailureCause.CONNECT_FAILED


def _own_transport(fresh: bool) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(
        max_connections=None,  # a pool that makes requests wait would hide how far each got
        max_keepalive_connections=0 if fresh else _IDLE_CONNECTIONS,
        keepalive_expiry=_IDLE_S,
    )
    # The system's certificates, as the other implementation uses them; httpx itself would take certifi's.
    return httpx.AsyncHTTPTransport(
        verify=ssl.create_default_context(), trust_env=False, http2=False, retries=0, limits=limits
    )


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    """Give the raw body; `aiter_raw` would refuse the ready-made responses of `MockTransport`."""
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise TypeError("the transport gave a synchronous body")
    return response.stream


def _first_values(headers: httpx.Headers) -> dict[str, str]:
    return dict(reversed(headers.multi_items()))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _exchange_cause(error: Exception) -> FailureCause:
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return FailureCause.TIMEOUT
    if isinstance(error, httpx.RemoteProtocolError):  # h11's words for an end in the head and in the body
        ended = "disconnected" in str(error) or "closed connection" in str(error)
        return FailureCause.CLOSED if ended else FailureCause.PROTOCOL
    if isinstance(error, httpx.NetworkError):
        return FailureCause.RESET
    return FailureCause.PROTOCOL if isinstance(error, httpx.ProtocolError) else FailureCause.UNEXPECTED
