"""Verify a webhook with the standard library alone.

By hand: WEBHOOK_SECRET=whsec_... python verify.py WEBHOOK_ID WEBHOOK_TIMESTAMP WEBHOOK_SIGNATURE <body
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE_S = 300


class Refused(Exception):
    """This request is not from the sender, or it is a replay."""


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Give the event. `headers` finds names in lower case; `body` is the bytes as they came, not parsed and rewritten.

    Raises Refused.
    """
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        raise Refused("no timestamp")
    if abs(time.time() - int(timestamp)) > TOLERANCE_S:
        raise Refused("too old, or one of the clocks is wrong")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    for signature in (
        headers.get("webhook-signature", "").encode().split()
    ):  # several while a secret is rotated
        if hmac.compare_digest(signature, expected):
            event: dict[str, Any] = json.loads(body)
            return event
    raise Refused("no signature fits")


if __name__ == "__main__":
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    try:
        found = verify(
            os.environ["WEBHOOK_SECRET"], dict(zip(names, sys.argv[1:], strict=True)), sys.stdin.buffer.read()
        )
    except Refused as refused:
        sys.exit(f"refused: {refused}")
    print("verified", found["type"])
