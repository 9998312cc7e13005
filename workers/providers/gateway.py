"""The apimart-style gateway: `POST {base}/images/generations`, `GET {base}/tasks/{id}`.

Contract: the vendor's page of wan2.7-image, and the public pages of the gateway it is a re-host of. Whether the
gateway honours Idempotency-Key for this model is not known: it is sent, and nothing relies on it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pydantic_core import to_json

from shared.errors import ConfigurationError
from workers.http.port import HttpRequest
from workers.providers.classify import classify_poll, classify_submit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import SecretStr

    from workers.http.port import HttpFailure, HttpResponse
    from workers.providers.outcomes import PollOutcome, SubmitOutcome


class GatewayProvider:
    """One account at the gateway.

    `base_url` is with or without a trailing `/v1`. `clock` gives unix seconds; it is looked at only for a Retry-After
    date in an answer without a Date header. Raises ConfigurationError for a URL or key that cannot be sent.
    """

    def __init__(self, base_url: str, api_key: SecretStr, *, clock: Callable[[], float] = time.time) -> None:
        self._base, self._key, self._clock = _api_base(base_url), api_key, clock
        if not _is_visible_ascii(api_key.get_secret_value()):
            raise ConfigurationError(
                "the API key holds a space, a control or a non-ASCII character. Check it."
            )

    def __repr__(self) -> str:
        return f"GatewayProvider({self._base!r})"

    def submit_request(
        self, wire: Mapping[str, object], *, idempotency_key: str, deadline_s: float
    ) -> HttpRequest:
        """Build the billed POST. `idempotency_key` is the intent's id: visible ASCII, 191 characters at most.

        `n` is always sent: upstream pages differ on its default, and every image costs. What is unset is left out.
        """
        is_set = {name: value for name, value in wire.items() if value is not None}
        headers = (
            *self._headers(),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", idempotency_key),
        )
        body = to_json({"model": wire["model"], "n": 1} | is_set)
        return HttpRequest("POST", f"{self._base}/images/generations", headers, body, deadline_s)

    def submit_outcome(self, reply: HttpResponse | HttpFailure) -> SubmitOutcome:
        return classify_submit(reply, secret=self._key.get_secret_value(), now_s=self._clock())

    def poll_request(self, generation_id: str, *, deadline_s: float) -> HttpRequest:
        url = f"{self._base}/tasks/{quote(generation_id, safe='')}?language=en"
        return HttpRequest("GET", url, self._headers(), b"", deadline_s)

    def poll_outcome(self, reply: HttpResponse | HttpFailure, generation_id: str) -> PollOutcome:
        key = self._key.get_secret_value()
        return classify_poll(reply, generation_id=generation_id, secret=key, now_s=self._clock())

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (
            ("Authorization", f"Bearer {self._key.get_secret_value()}"),
            ("Accept", "application/json"),
        )


def _api_base(base_url: str) -> str:
    """Give the URL that ends in /v1, once."""
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError("base_url must be an http or https URL. Correct the account's base_url.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            "base_url must not carry a user, a query or a fragment. Correct the account's base_url."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def _is_visible_ascii(text: str) -> bool:
    return bool(text) and all("!" <= char <= "~" for char in text)
