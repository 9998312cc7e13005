"""Sending one webhook: signed, through the egress guard, and what its answer means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Protocol

from shared.retry import clamp_retry_after
from shared.webhooks.signature import headers
from workers.http.port import FailureCause, HttpFailure, HttpRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from shared.webhooks.endpoints import Endpoint
    from workers.http.port import HttpResponse

RESPONSE_BYTES_MAX: Final = 64 * 1024
RETRY_AFTER_MAX_S: Final = 86_400.0
JITTER: Final = 0.1
_SUCCESS: Final = range(200, 300)
_GONE: Final = 410
_MAY_DEFER: Final = frozenset({429, 502, 503, 504})  # Retry-After of others says nothing [Standard Webhooks]
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint acknowledged it (2xx)."""

    status: int


@dataclass(frozen=True, slots=True)
class TryLater:
    """Not acknowledged. `cause` is a word; `retry_after_s` is the endpoint's wish, at least 0 and not clamped."""

    cause: str
    retry_after_s: float | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Disabled:
    """Never again: `gone` (410), or a URL that webhooks may not reach (`forbidden_address`, `invalid_request`)."""

    cause: str


DeliveryOutcome = Delivered | TryLater | Disabled


class Sender(Protocol):
    """The egress guard."""

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure: ...


class WebhookSender:
    """Sends deliveries. `timeout_s` bounds each, whole."""

    def __init__(self, egress: Sender, timeout_s: float) -> None:
        self._egress, self._timeout_s = egress, timeout_s

    async def send(
        self, endpoint: Endpoint, *, event_id: str, body: bytes, timestamp_s: int
    ) -> DeliveryOutcome:
        """Send once. The answer's body is read up to RESPONSE_BYTES_MAX and ignored.

        `timestamp_s` (unix seconds) is of this attempt: receivers refuse what is more than some minutes off.
        """
        request = HttpRequest(
            "POST",
            endpoint.url,
            headers(endpoint.keys, event_id=event_id, timestamp_s=timestamp_s, body=body),
            body,
            self._timeout_s,
            RESPONSE_BYTES_MAX,
        )
        return classify(await self._egress.send(request), timestamp_s)


def classify(reply: HttpResponse | HttpFailure, sent_at_s: int) -> DeliveryOutcome:
    """Judge an answer: only 2xx is success, redirects are failures [Standard Webhooks].

    A status whose body was too long counts all the same, since bodies are ignored; one whose body was cut does not,
    since the receiver may have died halfway. `sent_at_s` (unix seconds) is used for a Retry-After date only.
    """
    if not isinstance(reply, HttpFailure):
        return _of_status(reply.status, read_retry_after(reply, sent_at_s))
    match reply.cause:
        case FailureCause.FORBIDDEN_ADDRESS | FailureCause.INVALID_REQUEST:
            return Disabled(reply.cause.value)
        case FailureCause.RESPONSE_TOO_LARGE if reply.status is not None:
            return _of_status(reply.status, None)
        case _:
            return TryLater(reply.cause.value, status=reply.status)


def _of_status(status: int, wish_s: float | None) -> DeliveryOutcome:
    if status in _SUCCESS:
        return Delivered(status)
    if status == _GONE:
        return Disabled("gone")
    return TryLater(f"status_{status}", wish_s if status in _MAY_DEFER else None, status)


def read_retry_after(reply: HttpResponse, sent_at_s: int) -> float | None:
    """Read Retry-After (RFC 9110 §10.2.3) as seconds from now; None if there is none that can be read.

    A date is counted from the answer's own Date, else from when we sent: no clock of this machine is asked.
    """
    value = (reply.header("retry-after") or "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until, now = _http_date(value), _http_date(reply.header("date") or "")
    if until is None:
        return None
    return max(0.0, until.timestamp() - (sent_at_s if now is None else now.timestamp()))


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # the last three: old faults of the parser
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def next_delivery_delay(
    schedule_s: Sequence[float], attempts_made: int, retry_after_s: float | None, rng: Callable[[], float]
) -> float | None:
    """Give the wait before the next try; None when the schedule is exhausted.

    `schedule_s` is the wait before each try, `rng` gives numbers of [0, 1). The endpoint's wish may lengthen a wait,
    up to a day, and never shortens it. Jitter is ±10 %.
    """
    if attempts_made >= len(schedule_s):
        return None
    delay_s = schedule_s[attempts_made] * (1 - JITTER + 2 * JITTER * rng())
    return max(delay_s, clamp_retry_after(retry_after_s, RETRY_AFTER_MAX_S) or 0.0)
