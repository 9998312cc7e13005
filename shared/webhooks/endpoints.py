"""Where a job's webhook goes: a URL, or the name of an endpoint in the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from shared.errors import ConfigurationError, Issue
from shared.webhooks.signature import decode_secrets

if TYPE_CHECKING:
    from shared.settings import WebhookSettings
    from shared.settings_section import SecretReference

URL_CHARS_MAX: Final = 2048
_WEB_PORTS: Final = frozenset({80, 443})  # as workers.delivery.egress allows
_PARSERS_DISAGREE: Final = re.compile(r"[\x00-\x20\x7f\\]")
_NOT_IN_AUTHORITY: Final = frozenset("@%")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A destination and the keys that sign for it."""

    url: str = field(repr=False)  # its path or query may hold the consumer's own token
    keys: tuple[bytes, ...] = field(repr=False)


def resolve_endpoint(settings: WebhookSettings, webhook: str) -> Endpoint:
    """Give where to send and what to sign with; secrets are read now.

    Raises ConfigurationError for an unknown name, or a secret that is missing or malformed.
    """
    named = settings.endpoints.get(webhook)
    if named is not None:
        return Endpoint(str(named.url), _keys(named.secret, f"webhooks.endpoints.{webhook}.secret"))
    if "://" not in webhook:
        shown = webhook[:80]
        raise ConfigurationError(f"no webhook endpoint is named {shown!r}. Add webhooks.endpoints.{shown}.")
    if settings.secret is None:
        raise ConfigurationError("webhooks to URLs need a secret to sign with. Set webhooks.secret.")
    return Endpoint(webhook, _keys(settings.secret, "webhooks.secret"))


def _keys(reference: SecretReference, setting: str) -> tuple[bytes, ...]:
    text = reference.read(setting).get_secret_value()
    try:
        return decode_secrets(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{setting}: {error}") from None


def check_webhook(settings: WebhookSettings, webhook: str) -> Issue | None:
    """Say what is wrong with a job's webhook, if anything: what delivery would refuse whatever the network says.

    The address is judged at delivery only: it may change. No value shows more of a URL than its scheme and host.
    """
    if not isinstance(webhook, str):
        return Issue("webhook", "type", "webhook must be a URL or the name of a configured endpoint")
    if webhook in settings.endpoints:
        return None
    if "://" not in webhook:
        names = ", ".join(sorted(settings.endpoints)) or "none is configured"
        sentence = f"webhook must be an https URL or the name of a configured endpoint ({names})"
        return Issue("webhook", "choice", sentence, webhook[:80])
    if len(webhook) > URL_CHARS_MAX:
        sentence = f"webhook must have at most {URL_CHARS_MAX} characters"
        return Issue("webhook", "max_length", sentence, f"{len(webhook)} characters")
    return _url_issue(settings, webhook)


def _url_issue(settings: WebhookSettings, webhook: str) -> Issue | None:
    try:
        parts, port = urlsplit(webhook), urlsplit(webhook).port
    except ValueError:
        return Issue("webhook", "url", "webhook is not a URL")
    schemes = ("https", "http") if settings.allow_http else ("https",)
    if parts.scheme not in schemes:
        return Issue("webhook", "scheme", f"webhook must use {' or '.join(schemes)}", parts.scheme[:80])
    if not _is_plain(webhook, parts):
        sentence = "webhook must name a host, without user, password, escapes, white space or backslashes"
        return Issue("webhook", "host", sentence)
    if port is not None and port not in _WEB_PORTS and not settings.allow_private:
        return Issue("webhook", "port", "webhook must use port 443 or 80", str(port))
    if settings.secret is None:
        return Issue(
            "webhook", "secret", "webhook as a URL needs webhooks.secret to be set", parts.hostname or ""
        )
    return None


def _is_plain(webhook: str, parts: SplitResult) -> bool:
    """Say whether every parser reads the same host; `urlsplit` for one drops tabs and newlines silently."""
    return bool(
        parts.hostname and not _PARSERS_DISAGREE.search(webhook) and not _NOT_IN_AUTHORITY & set(parts.netloc)
    )
