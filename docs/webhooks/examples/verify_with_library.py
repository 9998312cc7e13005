"""Verify a webhook with the standardwebhooks library (`pip install standardwebhooks`); use as verify.py."""

from __future__ import annotations

import json
import os
import sys

from standardwebhooks import Webhook, WebhookVerificationError

headers = dict(zip(("webhook-id", "webhook-timestamp", "webhook-signature"), sys.argv[1:], strict=True))
body = sys.stdin.buffer.read()
try:
    Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, headers)
except WebhookVerificationError as refused:
    sys.exit(f"refused: {refused}")
print("verified", json.loads(body)["type"])
