"""One delivery: what is sent, what each answer means, and when the next try is due."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from shared.settings import WebhookSettings
from shared.webhooks.endpoints import Endpoint
from tests.unit.workers.delivery.loopback_server import answer as raw_answer
from tests.unit.workers.delivery.loopback_server import serving
from workers.delivery.egress import Egress, EgressPolicy
from workers.delivery.webhook import (
    Delivered,
    Disabled,
    TryLater,
    WebhookSender,
    classify,
    next_delivery_delay,
    read_retry_after,
)
from workers.http.port import FailureCause, HttpFailure, HttpResponse, Sent

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from workers.delivery.webhook import DeliveryOutcome
    from workers.http.port import HttpRequest

KEY = b"tests-only-secret-of-32-bytes!!!"
ENDPOINT = Endpoint("https://consumer.example/hooks?token=canary", (KEY,))
NOW_S = 1_770_000_000
DAY_S = 86_400.0
SCHEDULE = WebhookSettings().schedule_s


class Recording:
    """An egress that keeps what it is given."""

    def __init__(self, reply: HttpResponse | HttpFailure) -> None:
        self.reply = reply
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest) -> HttpResponse | HttpFailure:
        self.requests.append(request)
        return self.reply


def answer(status: int, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, headers or {}, b"ignored")


def failure(cause: FailureCause, status: int | None = None) -> HttpFailure:
    return HttpFailure(Sent.MAYBE_SENT, cause, "detail", status)


def http_date(at_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(at_s, UTC), usegmt=True)


async def test_a_delivery_is_one_signed_post_of_the_exact_bytes() -> None:
    """The public library accepts what goes out; time and response size are bounded."""
    egress = Recording(answer(200))
    now_s = int(datetime.now(UTC).timestamp())
    body = b'{"type":"image.completed"}'
    sender = WebhookSender(egress, timeout_s=7)
    assert await sender.send(ENDPOINT, event_id="evt_1", body=body, timestamp_s=now_s) == Delivered(200)
    (request,) = egress.requests
    assert (request.method, request.url, request.body) == ("POST", ENDPOINT.url, body)
    assert (request.deadline_s, request.max_response_bytes) == (7, 64 * 1024)
    sent = dict(request.headers)
    assert sent["content-type"] == "application/json"
    Webhook("whsec_" + b64encode(KEY).decode()).verify(request.body, sent)


async def test_a_retry_keeps_the_id_and_stamps_anew() -> None:
    """The id is the consumer's idempotency key; an old timestamp would be refused as a replay."""
    egress = Recording(answer(500))
    sender = WebhookSender(egress, timeout_s=7)
    for at_s in (NOW_S, NOW_S + 300):
        await sender.send(ENDPOINT, event_id="evt_1", body=b"{}", timestamp_s=at_s)
    first, second = (dict(request.headers) for request in egress.requests)
    assert first["webhook-id"] == second["webhook-id"] == "evt_1"
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == (str(NOW_S), str(NOW_S + 300))
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (answer(200), Delivered(200)),
        (answer(204), Delivered(204)),
        (answer(299), Delivered(299)),
        (answer(300), TryLater("status_300", None, 300)),
        (answer(301), TryLater("status_301", None, 301)),
        (answer(308), TryLater("status_308", None, 308)),
        (answer(400), TryLater("status_400", None, 400)),
        (answer(404), TryLater("status_404", None, 404)),
        (answer(410), Disabled("gone")),
        (answer(410, {"retry-after": "5"}), Disabled("gone")),
        (answer(500), TryLater("status_500", None, 500)),
        (answer(500, {"retry-after": "5"}), TryLater("status_500", None, 500)),
        (answer(301, {"retry-after": "5"}), TryLater("status_301", None, 301)),
        (answer(429, {"retry-after": "120"}), TryLater("status_429", 120, 429)),
        (answer(502, {"retry-after": "120"}), TryLater("status_502", 120, 502)),
        (answer(503, {"retry-after": "120"}), TryLater("status_503", 120, 503)),
        (answer(504, {"retry-after": "120"}), TryLater("status_504", 120, 504)),
        (answer(503), TryLater("status_503", None, 503)),
        (failure(FailureCause.FORBIDDEN_ADDRESS), Disabled("forbidden_address")),
        (failure(FailureCause.INVALID_REQUEST), Disabled("invalid_request")),
        (failure(FailureCause.TIMEOUT), TryLater("timeout")),
        (failure(FailureCause.TLS_FAILED), TryLater("tls_failed")),
        (failure(FailureCause.DNS_FAILED), TryLater("dns_failed")),
        (failure(FailureCause.RESPONSE_TOO_LARGE, 200), Delivered(200)),
        (failure(FailureCause.RESPONSE_TOO_LARGE, 410), Disabled("gone")),
        (failure(FailureCause.RESPONSE_TOO_LARGE, 500), TryLater("status_500", None, 500)),
        (failure(FailureCause.RESPONSE_TOO_LARGE), TryLater("response_too_large")),
        (failure(FailureCause.CLOSED, 200), TryLater("closed", None, 200)),
        (failure(FailureCause.RESET), TryLater("reset")),
    ],
)
def test_what_each_answer_means(reply: HttpResponse | HttpFailure, outcome: DeliveryOutcome) -> None:
    """Only 2xx is success, 410 and forbidden addresses end it, throttling may ask for time, the rest is tried again."""
    assert classify(reply, NOW_S) == outcome


@pytest.mark.parametrize("cause", set(FailureCause))
def test_no_failure_counts_as_delivered(cause: FailureCause) -> None:
    """Without a status nobody acknowledged anything."""
    assert not isinstance(classify(failure(cause), NOW_S), Delivered)


async def delivered_to(url: str, *, allow_private: bool = True, timeout_s: float = 5) -> DeliveryOutcome:
    """Deliver through the real egress."""
    egress = Egress(EgressPolicy(allow_private=allow_private, allow_http=True))
    try:
        sender = WebhookSender(egress, timeout_s)
        return await sender.send(Endpoint(url, (KEY,)), event_id="evt_1", body=b"{}", timestamp_s=NOW_S)
    finally:
        await egress.aclose()


async def test_redirects_are_not_followed() -> None:
    """A redirect is a failure, and the place it names hears nothing."""
    async with (
        serving(b"") as elsewhere,
        serving(raw_answer("301 Moved", f"Location: {elsewhere.url}")) as moved,
    ):
        assert await delivered_to(moved.url) == TryLater("status_301", None, 301)
    assert (len(moved.heads), elsewhere.connections) == (1, 0)


async def test_an_endless_answer_is_cut_and_its_status_counts() -> None:
    """A gigabyte of thanks is still thanks, but only 64 KiB of it are taken."""
    sent_bytes = 0

    async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            sent_bytes += 1_000_000

    async with serving(endless) as server:
        assert await delivered_to(server.url) == Delivered(200)
    assert sent_bytes < 100_000_000


async def test_a_private_address_hears_nothing() -> None:
    """Without permission a loopback endpoint is refused before a connection is made."""
    async with serving(raw_answer("200 OK")) as server:
        assert await delivered_to(server.url, allow_private=False) == Disabled("forbidden_address")
    assert server.connections == 0


async def test_an_endpoint_that_hangs_is_left_at_the_deadline() -> None:
    """The whole delivery is bounded, not only each read."""

    async def hang(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123")

    async with serving(hang) as server:
        outcome = await delivered_to(server.url, timeout_s=0.3)
    assert isinstance(outcome, TryLater)
    assert outcome.cause == "timeout"


@pytest.mark.parametrize(
    ("headers", "wish_s"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 90 "}, 90),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, float("inf")),
        ({"retry-after": http_date(NOW_S + 60)}, 60),
        ({"retry-after": http_date(NOW_S - 60)}, 0),
        ({"retry-after": http_date(NOW_S + 60), "date": http_date(NOW_S + 50)}, 10),
        ({"retry-after": http_date(NOW_S + 60), "date": "rubbish"}, 60),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, 251_632_396_739.0),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], wish_s: float | None) -> None:
    """Seconds or a date, told from the server's own Date where there is one."""
    found = read_retry_after(answer(503, headers), NOW_S)
    assert found == (None if wish_s is None else pytest.approx(wish_s, abs=1e6 if wish_s > 1e11 else 0))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60), st.text(max_size=60))
def test_no_retry_after_makes_it_raise(value: str, date: str) -> None:
    """The header is the receiver's to write."""
    wish_s = read_retry_after(answer(503, {"retry-after": value, "date": date}), NOW_S)
    assert wish_s is None or wish_s >= 0


def test_the_schedule_is_followed_to_its_end() -> None:
    """The wait after the n-th try is the schedule's next entry; after the last there is none."""
    waits = [next_delivery_delay(SCHEDULE, made, None, lambda: 0.5) for made in range(len(SCHEDULE) + 1)]
    assert waits == [*SCHEDULE, None]


@given(
    made=st.integers(0, len(SCHEDULE) - 1),
    wish_s=st.none() | st.floats(),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_the_schedules_with_jitter_or_the_wish(
    made: int, wish_s: float | None, chance: float
) -> None:
    """Never earlier than the schedule (±10 %), later only if asked, and then by a day at most."""
    planned = SCHEDULE[made]
    wait = next_delivery_delay(SCHEDULE, made, wish_s, lambda: chance)
    assert wait is not None
    assert 0.9 * planned <= wait <= max(1.1 * planned, DAY_S)
    if wish_s is None or not wish_s > 0.9 * planned:
        assert wait <= 1.1 * planned
    elif wish_s >= 1.1 * planned:
        assert wait == max(min(wish_s, DAY_S), (0.9 + 0.2 * chance) * planned)


def test_a_wish_does_not_prolong_the_schedule() -> None:
    """Asking for time after the last try brings no further try."""
    assert next_delivery_delay(SCHEDULE, len(SCHEDULE), 60, lambda: 0.5) is None


@pytest.mark.parametrize("absurd_s", [float("inf"), 1e12, DAY_S + 1])
def test_an_absurd_wish_is_clamped_to_a_day(absurd_s: float) -> None:
    """An endpoint cannot put a delivery off for years."""
    assert next_delivery_delay(SCHEDULE, 1, absurd_s, lambda: 0.5) == DAY_S
