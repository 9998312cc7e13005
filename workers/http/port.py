"""The port through which every HTTP request of a worker goes.

One question matters beyond status and body: *was a byte of the request handed over?* A submit is a billed POST, and
trusting an exception's name for the answer charges twice: clients report "the server read it all, then reset" as a
connect error. So an implementation says `NOT_SENT` on a positive proof only (the connect step of this very request
failed, or nothing was handed to a connection) and `MAYBE_SENT` for everything else, what it does not know included.

What every implementation keeps:

- `send` never raises for network trouble; it gives a value. Cancellation passes through.
- `deadline_s` bounds the whole exchange, from the connect to the last byte of the body.
- `max_response_bytes` is enforced while the body arrives, so memory is bounded whatever the server sends.
- Redirects are answers, not instructions. No proxy or netrc from the environment, no cookies, HTTP/1.1 only.
- Bodies are not decompressed: `Accept-Encoding: identity` is asked for, and a compressed answer is given as it came.
- Nothing is sent twice, save a request that never reached a connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_TIMEOUT_S = 10.0  # shorter than any submit deadline, so that a failed connect is told, and proved
DEFAULT_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "darkroom"}


class Sent(StrEnum):
    """Whether a byte of the request may have reached the server."""

    NOT_SENT = "not_sent"
    MAYBE_SENT = "maybe_sent"


class FailureCause(StrEnum):
    """What went wrong. For logs, retries and operators; whether a byte was sent is `HttpFailure.sent` alone."""

    INVALID_REQUEST = "invalid_request"
    FORBIDDEN_ADDRESS = "forbidden_address"
    DNS_FAILED = "dns_failed"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    RESET = "reset"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    RESPONSE_TOO_LARGE = "response_too_large"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest:
    """One request. Its repr shows method and origin only: headers hold keys, paths and queries hold tokens."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    deadline_s: float = 15
    max_response_bytes: int = 8 * 1024 * 1024

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {origin(self.url)}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer that arrived whole. Header names are lower-case; of a repeated header the first is kept."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())


@dataclass(frozen=True, slots=True)
class HttpFailure:
    """No whole answer. `detail` is for people and never holds headers, keys, bodies, paths or queries.

    `status` is the answer's status if its head had arrived before the trouble (a body that was cut or too large).
    """

    sent: Sent
    cause: FailureCause
    detail: str
    status: int | None = None


class HttpClient(Protocol):
    """What the stages know of HTTP."""

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure: ...

    async def aclose(self) -> None: ...


def origin(url: str) -> str:
    """Give scheme, host and port of a URL: all of it that may be shown."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(malformed URL)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def no_time_left() -> HttpFailure:
    """Give the failure of a request whose deadline had passed before anything was done for it."""
    return HttpFailure(
        Sent.NOT_SENT, FailureCause.TIMEOUT, "the deadline had passed before the request began"
    )


def not_built(error: Exception) -> HttpFailure:
    """Give the failure of a request that no client would take; the error's text may quote a header, so only its name."""
    detail = f"the request could not be built ({type(error).__name__}): check method, URL and headers"
    return HttpFailure(Sent.NOT_SENT, FailureCause.INVALID_REQUEST, detail)


def too_large(limit_bytes: int, status: int) -> HttpFailure:
    """Give the failure of a body longer than the request allows."""
    detail = f"the body is longer than {limit_bytes} bytes"
    return HttpFailure(Sent.MAYBE_SENT, FailureCause.RESPONSE_TOO_LARGE, detail, status)
