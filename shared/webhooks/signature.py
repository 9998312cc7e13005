"""Signing by Standard Webhooks 1.0.0 (symmetric, `v1`): pure.

Signed is `{id}.{timestamp}.{body}` with HMAC-SHA256; the header lists one signature per secret, so that a consumer
can rotate. The id is stable over retries, the timestamp is of the attempt (unix seconds), the body is the exact bytes
that are sent.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)  # [Standard Webhooks: 24 to 64 bytes]
_ASYMMETRIC: Final = ("whsk_", "whpk_")
_ID: Final = re.compile(
    r"[A-Za-z0-9_-]{1,128}"
)  # no '.', which separates what is signed; nothing odd in a header
_ADVICE: Final = "Make one of 32 random bytes: whsec_ and their base64."


def decode_secret(text: str) -> bytes:
    """Give the key of a `whsec_...` secret. Raises ConfigurationError, which never shows the secret."""
    text = text.strip()
    if text.startswith(_ASYMMETRIC):
        raise ConfigurationError(f"a webhook secret is an ed25519 key, which signs v1a, not v1. {_ADVICE}")
    if not text.startswith(PREFIX):
        raise ConfigurationError(f"a webhook secret does not begin with {PREFIX}. {_ADVICE}")
    try:
        key = b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ConfigurationError(
            f"a webhook secret has no padded base64 after {PREFIX} (standard alphabet). {_ADVICE}"
        ) from None
    if len(key) not in SECRET_BYTES:
        raise ConfigurationError(
            f"a webhook secret must hold 24 to 64 bytes, this one holds {len(key)}. {_ADVICE}"
        )
    return key


def decode_secrets(text: str) -> tuple[bytes, ...]:
    """Give the keys of one or more secrets, separated by white space: during a rotation, the new and the old one."""
    keys = tuple(decode_secret(each) for each in text.split())
    if not keys:
        raise ConfigurationError(f"a webhook secret is empty. {_ADVICE}")
    return keys


def sign(keys: Sequence[bytes], *, event_id: str, timestamp_s: int, body: bytes) -> str:
    """Give the value of `webhook-signature`: one `v1,` signature per key.

    Raises ValueError for an id that is not 1-128 letters, digits, '_' or '-', or if there is no key.
    """
    if not _ID.fullmatch(event_id):
        raise ValueError("an event id is 1-128 letters, digits, '_' or '-'")
    if not keys:
        raise ValueError("nothing can be signed without a key")
    text = f"{event_id}.{timestamp_s}.".encode() + body
    return " ".join("v1," + b64encode(hmac.new(key, text, "sha256").digest()).decode() for key in keys)


def headers(
    keys: Sequence[bytes], *, event_id: str, timestamp_s: int, body: bytes
) -> tuple[tuple[str, str], ...]:
    """Give the headers of one attempt."""
    return (
        ("content-type", "application/json"),
        ("webhook-id", event_id),
        ("webhook-timestamp", str(timestamp_s)),
        ("webhook-signature", sign(keys, event_id=event_id, timestamp_s=timestamp_s, body=body)),
    )
