"""The gateway's requests: addresses, headers, bodies, and where the key is not shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

import workers.providers
from shared.errors import ConfigurationError
from workers.http.port import HttpRequest, HttpResponse
from workers.providers import (
    Accepted,
    GatewayProvider,
    LaneBlocked,
    Provider,
    ProviderFailed,
    Running,
    Throttled,
)

KEY = "sk-canary-4f1d"
BASE = "https://gateway.example/v1"


def provider(base_url: str = BASE) -> Provider:
    return GatewayProvider(base_url, SecretStr(KEY), clock=lambda: 1_763_000_000.0)


def submit(wire: dict[str, Any], base_url: str = BASE) -> HttpRequest:
    return provider(base_url).submit_request(wire, idempotency_key="intent-1", deadline_s=60)


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("https://gateway.example/v1", "https://gateway.example/v1"),
        ("https://gateway.example/v1/", "https://gateway.example/v1"),
        ("https://gateway.example", "https://gateway.example/v1"),
        ("https://gateway.example/", "https://gateway.example/v1"),
        ("http://127.0.0.1:8080//", "http://127.0.0.1:8080/v1"),
        ("https://proxy.example/apimart/", "https://proxy.example/apimart/v1"),
        ("https://proxy.example/apimart/v1", "https://proxy.example/apimart/v1"),
        ("https://gateway.example/notv1", "https://gateway.example/notv1/v1"),
    ],
)
def test_v1_stands_in_the_address_once(base_url: str, root: str) -> None:
    """Whether or not the setting ends in /v1, or in slashes."""
    poll = provider(base_url).poll_request("task_1", deadline_s=15)
    assert submit({"model": "wan2.7-image"}, base_url).url == f"{root}/images/generations"
    assert poll.url == f"{root}/tasks/task_1?language=en"


def test_the_submit_request() -> None:
    """One POST, with the intent's id as Idempotency-Key, and no wish for another response version."""
    request = submit({"model": "wan2.7-image", "prompt": "a", "n": 2})
    assert (request.method, request.deadline_s) == ("POST", 60)
    assert dict(request.headers) == {
        "Authorization": f"Bearer {KEY}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": "intent-1",
    }


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ({"model": "m"}, {"model": "m", "n": 1}),
        ({"model": "m", "n": None, "seed": None}, {"model": "m", "n": 1}),
        ({"prompt": "p", "n": 4, "model": "m"}, {"model": "m", "n": 4, "prompt": "p"}),
        (
            {"model": "m", "n": 1, "watermark": False, "seed": 0, "bbox_list": [[], [[1, 2, 3, 4]]]},
            {"model": "m", "n": 1, "watermark": False, "seed": 0, "bbox_list": [[], [[1, 2, 3, 4]]]},
        ),
        (
            {
                "model": "m",
                "n": 1,
                "image_urls": ["data:image/png;base64,AAAA"],
                "color_palette": [{"hex": "#C2D1E6", "ratio": "23.51%"}],
            },
            {
                "model": "m",
                "n": 1,
                "image_urls": ["data:image/png;base64,AAAA"],
                "color_palette": [{"hex": "#C2D1E6", "ratio": "23.51%"}],
            },
        ),
    ],
)
def test_the_body_holds_model_n_and_what_is_set(wire: dict[str, Any], body: dict[str, Any]) -> None:
    """False, 0 and empty lists are values; None is not."""
    assert json.loads(submit(wire).body) == body


def test_text_is_sent_as_utf_8() -> None:
    """Not as escapes, which treble the size of Chinese."""
    assert '"prompt":"花店"'.encode() in submit({"model": "m", "prompt": "花店"}).body


def test_the_poll_request() -> None:
    """A GET with the key, a language for error texts, and no body."""
    request = provider().poll_request("task_1", deadline_s=15)
    assert (request.method, request.body, request.deadline_s) == ("GET", b"", 15)
    assert dict(request.headers) == {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}


@pytest.mark.parametrize(
    ("generation_id", "escaped"),
    [
        ("a/../b", "a%2F..%2Fb"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("a b&c", "a%20b%26c"),
        ("100%", "100%25"),
        ("花", "%E8%8A%B1"),
        ("task_01K8-x.~", "task_01K8-x.~"),
    ],
)
def test_ids_are_escaped(generation_id: str, escaped: str) -> None:
    """An id is opaque: it cannot lead the question elsewhere."""
    url = provider().poll_request(generation_id, deadline_s=15).url
    assert url == f"{BASE}/tasks/{escaped}?language=en"


def test_the_key_is_in_no_repr() -> None:
    """Neither of the provider nor of what it gives."""
    gateway = provider()
    wire = {"model": "m", "prompt": "secret garden"}
    request = gateway.submit_request(wire, idempotency_key="intent-1", deadline_s=60)
    shown = repr([gateway, request, gateway.poll_request("task_1", deadline_s=15), vars(gateway)])
    assert KEY not in shown
    assert "secret garden" not in shown


def test_replies_are_classified_with_the_account_own_key_and_clock() -> None:
    """The key is scrubbed from what the provider says; the clock is read only for a date without Date."""
    gateway = provider()
    accepted = HttpResponse(200, {}, b'{"code":"success","data":[{"task_id":"task_1"}]}')
    blocked = HttpResponse(401, {}, b'{"error":{"message":"bad key %s"}}' % KEY.encode())
    throttled = HttpResponse(429, {"retry-after": "Thu, 13 Nov 2025 02:13:30 GMT"}, b"")
    assert gateway.submit_outcome(accepted) == Accepted("task_1")
    assert gateway.submit_outcome(throttled) == Throttled("http_429", 10.0)
    outcome = gateway.submit_outcome(blocked)
    assert isinstance(outcome, LaneBlocked)
    assert outcome.detail == "bad key [api key]"


def test_polls_are_classified() -> None:
    """Running, and failed with the key scrubbed."""
    gateway = provider()
    running = HttpResponse(200, {}, b'{"data":{"status":"processing","progress":40}}')
    failed = HttpResponse(200, {}, b'{"data":{"status":"failed","error":"for %s"}}' % KEY.encode())
    assert gateway.poll_outcome(running, "task_1") == Running("processing", 40)
    assert gateway.poll_outcome(failed, "task_1") == ProviderFailed("failed", "for [api key]")


@pytest.mark.parametrize(
    "base_url",
    [
        "gateway.example/v1",
        "ftp://gateway.example/v1",
        "https:///v1",
        "https://gateway.example/v1?key=1",
        "https://gateway.example/v1#top",
        "https://user:pass@gateway.example/v1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(base_url: str) -> None:
    """At start, with a sentence, not at the first submit; what was given is not quoted."""
    with pytest.raises(ConfigurationError, match="base_url") as refusal:
        provider(base_url)
    assert "pass" not in str(refusal.value)


@pytest.mark.parametrize("key", ["", "two words", "sk-line\n", "sk-ключ"])
def test_a_key_that_cannot_be_a_header_is_refused(key: str) -> None:
    """An HTTP client would say so in an error that quotes the key."""
    with pytest.raises(ConfigurationError) as refusal:
        GatewayProvider(BASE, SecretStr(key))
    assert key == "" or key not in str(refusal.value)


def test_the_package_exports_what_it_lists() -> None:
    """The table of contents is the package."""
    assert all(hasattr(workers.providers, name) for name in workers.providers.__all__)
    assert workers.providers.__all__ == sorted(workers.providers.__all__)
