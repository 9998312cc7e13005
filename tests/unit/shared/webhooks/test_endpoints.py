"""Where a webhook goes, and what is refused before a job is taken."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import ConfigurationError
from shared.settings import EndpointSettings, WebhookSettings
from shared.settings_section import SecretReference
from shared.webhooks.endpoints import check_webhook, resolve_endpoint

if TYPE_CHECKING:
    from pathlib import Path

OWN, COMMON, OLD = b"o" * 32, b"c" * 32, b"p" * 32
URL = "https://consumer.example/hooks?token=canary-token"


def whsec(key: bytes) -> str:
    return "whsec_" + b64encode(key).decode()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebhookSettings:
    """A secret for URLs in the environment, and an endpoint `shop` with one in a file."""
    monkeypatch.setenv("TESTS_WEBHOOK_SECRET", whsec(COMMON))
    (tmp_path / "secret").write_text(whsec(OWN) + "\n")
    shop = EndpointSettings.model_validate(
        {"url": "https://shop.example/in", "secret": {"file": tmp_path / "secret"}}
    )
    return WebhookSettings(secret=SecretReference(env="TESTS_WEBHOOK_SECRET"), endpoints={"shop": shop})


def test_a_url_is_signed_with_the_common_secret(settings: WebhookSettings) -> None:
    """A URL given on a job goes where it says."""
    endpoint = resolve_endpoint(settings, URL)
    assert (endpoint.url, endpoint.keys) == (URL, (COMMON,))


def test_a_name_is_signed_with_its_own_secret(settings: WebhookSettings) -> None:
    """A configured endpoint brings its URL and its secret."""
    endpoint = resolve_endpoint(settings, "shop")
    assert (endpoint.url, endpoint.keys) == ("https://shop.example/in", (OWN,))


def test_a_rotation_is_read_at_the_next_delivery(settings: WebhookSettings, tmp_path: Path) -> None:
    """Secrets are read when used: a file with the new and the old one takes effect at once, new one first."""
    (tmp_path / "secret").write_text(f"{whsec(OLD)}\n{whsec(OWN)}\n")
    assert resolve_endpoint(settings, "shop").keys == (OLD, OWN)


def test_an_endpoint_shows_neither_secret_nor_url(settings: WebhookSettings) -> None:
    """A repr ends up in logs."""
    shown = repr(resolve_endpoint(settings, URL))
    assert "canary-token" not in shown
    assert "cccc" not in shown


def test_an_unknown_name_says_what_to_add(settings: WebhookSettings) -> None:
    """The job names an endpoint that this worker's settings lack."""
    with pytest.raises(ConfigurationError, match=r"Add webhooks\.endpoints\.bakery"):
        resolve_endpoint(settings, "bakery")


def test_a_url_needs_the_common_secret() -> None:
    """Nothing goes out unsigned."""
    with pytest.raises(ConfigurationError, match=r"Set webhooks\.secret"):
        resolve_endpoint(WebhookSettings(), URL)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", r"webhooks\.endpoints\.shop\.secret: file .* is empty"), ("canary", "does not begin with whsec_")],
)
def test_a_bad_secret_names_its_setting(
    settings: WebhookSettings, tmp_path: Path, content: str, said: str
) -> None:
    """The message says which setting it is about, and nothing of what is in it."""
    (tmp_path / "secret").write_text(content)
    with pytest.raises(ConfigurationError, match=said) as caught:
        resolve_endpoint(settings, "shop")
    assert "webhooks.endpoints.shop.secret" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("webhook", ["shop", URL, "https://consumer.example:443/", "https://[2001:db8::1]/x"])
def test_good_webhooks_pass(settings: WebhookSettings, webhook: str) -> None:
    """A known name and a plain https URL are taken."""
    assert check_webhook(settings, webhook) is None


@pytest.mark.parametrize(
    ("webhook", "rule", "said"),
    [
        ("bakery", "choice", "webhook must be an https URL or the name of a configured endpoint (shop)"),
        ("", "choice", "webhook must be an https URL or the name of a configured endpoint (shop)"),
        (7, "type", "webhook must be a URL or the name of a configured endpoint"),
        ("http://consumer.example/", "scheme", "webhook must use https"),
        ("ftp://consumer.example/", "scheme", "webhook must use https"),
        ("https://user:canary@consumer.example/", "host", "webhook must name a host, without user"),
        ("https://@consumer.example/", "host", "webhook must name a host, without user"),
        ("https:///path", "host", "webhook must name a host"),
        ("https://a%2eexample/", "host", "webhook must name a host"),
        ("https://a.example\\@b.example/", "host", "webhook must name a host"),
        ("https://a.exa\tmple/", "host", "webhook must name a host"),
        ("https://a.example/\n", "host", "webhook must name a host"),
        ("https://[::1/", "url", "webhook is not a URL"),
        ("https://a.example:99999/", "url", "webhook is not a URL"),
        ("https://a.example:8443/", "port", "webhook must use port 443 or 80"),
        ("https://a.example/" + "x" * 2048, "max_length", "webhook must have at most 2048 characters"),
    ],
)
def test_bad_webhooks_are_refused_with_their_rule(
    settings: WebhookSettings, webhook: Any, rule: str, said: str
) -> None:
    """What delivery would refuse in any case is refused at the door, with the rule in words."""
    issue = check_webhook(settings, webhook)
    assert issue is not None
    assert (issue.field, issue.rule) == ("webhook", rule)
    assert issue.message.startswith(said)
    assert "canary" not in issue.message + issue.value


def test_a_url_without_a_secret_is_refused_at_the_door() -> None:
    """Better now than when the image is paid for and cannot be announced."""
    issue = check_webhook(WebhookSettings(), URL)
    assert issue is not None
    assert issue.rule == "secret"
    assert "canary-token" not in issue.message + issue.value


def test_development_settings_allow_http_and_any_port(settings: WebhookSettings) -> None:
    """The demo's sink is http on a free port of this machine."""
    relaxed = settings.model_copy(update={"allow_http": True, "allow_private": True})
    assert check_webhook(relaxed, "http://127.0.0.1:49152/ok") is None
    assert check_webhook(relaxed, "ftp://127.0.0.1/") is not None
