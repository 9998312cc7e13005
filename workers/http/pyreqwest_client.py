"""The port on pyreqwest: about 0.1 ms of CPU per small request, for polls, webhooks, downloads, and submits too.

Three of its manners (0.15, pinned) shape this file; the contract tests hold each of them:

- Its exception classes do not tell whether a byte was sent. The chain of causes does: hyper-util's
  `client error (Connect)` is there if and only if no connection came to be for this request.
- Cancelling the await does not stop the request: it goes on in the runtime's thread, and may even be sent later.
  So every request carries the deadline as the client's own total timeout too, which does end it.
- It follows redirects, reads proxies from the environment and decompresses unless told otherwise.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import DecodeError, PyreqwestError, RequestTimeoutError

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
    from collections.abc import Callable, Mapping

    from pyreqwest.client import Client
    from pyreqwest.request import StreamRequest
    from pyreqwest.response import Response

    from workers.http.port import HttpRequest

    Take = Callable[[bytes], object]

_NO_CONNECTION = "client error (Connect)"
_BEFORE_TLS = frozenset({"tcp connect error", "tcp open error"})  # the second: no file descriptor is left
_BROKE_WHILE_SENDING = "client error (SendRequest)"
_EAGER_BYTES = (
    64 * 1024
)  # a body up to this comes with the head: one hop between the threads instead of several
_LENGTH_DIGITS = 16
_GRACE_S = 0.25  # lets the client's own timeout fire first: ours leaves the request running
_IDLE_S = 30.0
_OK = 200


@dataclass(frozen=True, slots=True)
class Pin:
    """Connections to `host` (exactly as the client's URL parser spells it) go to `address`; no DNS is asked."""

    host: str
    address: str


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    headers: Mapping[str, str]


class PyreqwestClient:
    """One pyreqwest client. `fresh` gives each request a connection of its own (submits); else they are pooled.

    Building one reads the system's certificates (about 10 ms): keep it. It needs no event loop to be built.
    """

    def __init__(
        self,
        *,
        fresh: bool = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        pin: Pin | None = None,
        ca_pem: bytes | None = None,
    ) -> None:
        self._eager_bytes = 0 if fresh else _EAGER_BYTES  # 0: the status is known even if the body breaks
        self._client = _build(fresh, connect_timeout_s, pin, ca_pem)

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure:
        """Send, and give the whole answer in memory."""
        body = bytearray()
        head = await self._exchange(request, lambda _status: body.extend)
        if isinstance(head, HttpFailure):
            return head
        return HttpResponse(head.status, head.headers, bytes(body))

    async def stream(self, request: HttpRequest, write: Take) -> HttpResponse | HttpFailure:
        """Send, and hand the body of a 200 to `write` piece by piece; no other body is read.

        What `write` raises leaves this method.
        """
        head = await self._exchange(request, lambda status: write if status == _OK else None)
        if isinstance(head, HttpFailure):
            return head
        return HttpResponse(head.status, head.headers, b"")

    async def aclose(self) -> None:
        await self._client.close()

    async def _exchange(
        self, request: HttpRequest, taker: Callable[[int], Take | None]
    ) -> _Head | HttpFailure:
        if request.deadline_s <= 0:
            return no_time_left()
        try:
            prepared = self._prepare(request)
        except (PyreqwestError, ValueError, TypeError) as error:
            return not_built(error)
        try:
            async with asyncio.timeout(request.deadline_s + _GRACE_S):
                return await _receive(prepared, request.max_response_bytes, taker)
        except PyreqwestError as error:
            return failure_of(error)
        except TimeoutError:
            return HttpFailure(
                Sent.MAYBE_SENT, FailureCause.TIMEOUT, f"no answer in {request.deadline_s:g} s"
            )

    def _prepare(self, request: HttpRequest) -> StreamRequest:
        if not request.url.lower().startswith(("http://", "https://")):
            raise ValueError("not an http URL")  # the client would find out only when sending has begun
        builder = (
            self._client.request(request.method, request.url)
            .headers(request.headers)
            .timeout(timedelta(seconds=request.deadline_s))
            .streamed_read_buffer_limit(self._eager_bytes)
        )
        return (builder.body_bytes(request.body) if request.body else builder).build_streamed()


def _build(fresh: bool, connect_timeout_s: float, pin: Pin | None, ca_pem: bytes | None) -> Client:
    builder = (
        ClientBuilder()
        .follow_redirects(False)
        .referer(False)
        .no_proxy()
        .http1_only()
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .default_cookie_store(False)
        .runtime_multithreaded(False)
        .connect_timeout(timedelta(seconds=connect_timeout_s))
        .pool_idle_timeout(timedelta(seconds=_IDLE_S))
        .default_headers(DEFAULT_HEADERS | ({"Connection": "close"} if fresh else {}))
    )
    if fresh:
        builder = builder.pool_max_idle_per_host(0)
    if pin is not None:
        builder = builder.resolve(pin.host, pin.address, 0)  # the URL's port is used, whatever is given here
    if ca_pem is not None:
        builder = builder.add_root_certificate_pem(ca_pem)
    return builder.build()


async def _receive(
    prepared: StreamRequest, limit_bytes: int, taker: Callable[[int], Take | None]
) -> _Head | HttpFailure:
    async with prepared as response:
        take, head = taker(response.status), _Head(response.status, _headers(response))
        trouble = await _read(response, take, limit_bytes) if take is not None else None
        return trouble or head


async def _read(response: Response, take: Take, limit_bytes: int) -> HttpFailure | None:
    received, reader = 0, response.body_reader
    try:
        if _length(response) <= min(
            limit_bytes, _EAGER_BYTES
        ):  # one step instead of two: no more than that can come
            take((await response.bytes()).to_bytes())
            return None
        # Not `read_chunk`: a server that sends single bytes would keep the loop busy with each of them.
        while (chunk := await reader.read(_EAGER_BYTES)) is not None:
            received += len(chunk)
            if received > limit_bytes:
                return too_large(limit_bytes, response.status)
            take(chunk.to_bytes())
    except PyreqwestError as error:
        return failure_of(error, response.status)
    return None


def _length(response: Response) -> float:
    """Give what Content-Length promises, which the client holds the server to (RFC 9112 §6.3).

    Not beside a Transfer-Encoding, whatever that says: then the length counts for nothing, and the body may never end.
    """
    if "transfer-encoding" in response.headers:
        return math.inf
    value = next(iter(_texts(response, "content-length")), "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < _LENGTH_DIGITS else math.inf


def _headers(response: Response) -> Mapping[str, str]:
    try:
        return dict(response.headers)
    except ValueError:  # a value that is not text: the others still count
        return {name: value for name in response.headers for value in _texts(response, name)}


def _texts(response: Response, name: str) -> list[str]:
    try:
        return response.get_header_all(name)[:1]
    except ValueError:
        return []


def failure_of(error: PyreqwestError, status: int | None = None) -> HttpFailure:
    """Judge an error by its chain of causes; whatever is not proved to be unsent may have been sent."""
    causes = _causes(error)
    unsent = status is None and _NO_CONNECTION in causes and _BROKE_WHILE_SENDING not in causes
    # The first cause names the whole URL, whose query may be a signature.
    said = ": ".join(cause for cause in causes if "for url (" not in cause)[:300]
    detail = f"{error.message}: {said}" if said else str(error.message)
    if unsent:
        return HttpFailure(Sent.NOT_SENT, _connect_cause(causes), detail)
    return HttpFailure(Sent.MAYBE_SENT, _exchange_cause(error, causes), detail, status)


def _causes(error: PyreqwestError) -> list[str]:
    details = error.args[1] if len(error.args) > 1 else None
    causes = details.get("causes") if isinstance(details, dict) else None
    return [str(cause["message"]) for cause in causes or ()]


def _connect_cause(causes: list[str]) -> FailureCause:
    if "dns error" in causes:
        return FailureCause.DNS_FAILED
    if any("deadline has elapsed" in cause or "timed out" in cause for cause in causes):
        return FailureCause.CONNECT_TIMEOUT
    return FailureCause.TLS_FAILED if _BEFORE_TLS.isdisjoint(causes) else FailureCause.CONNECT_FAILED


_TELLTALES = (
    ("reset by peer", FailureCause.RESET),
    ("broken pipe", FailureCause.RESET),
    ("closed", FailureCause.CLOSED),
    ("end of file", FailureCause.CLOSED),
    ("unexpected eof", FailureCause.CLOSED),
)


def _exchange_cause(error: PyreqwestError, causes: list[str]) -> FailureCause:
    if isinstance(error, RequestTimeoutError):
        return FailureCause.TIMEOUT
    told = " ".join(causes).lower()
    for telltale, cause in _TELLTALES:
        if telltale in told:
            return cause
    return FailureCause.PROTOCOL if isinstance(error, DecodeError) else FailureCause.UNEXPECTED
