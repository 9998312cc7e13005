"""A webhook consumer that checks every delivery with the `standardwebhooks` library and remembers it.

The path says how it behaves: `/ok`, `/status/CODE`, `/fail-first/N` (per webhook-id), `/slow/SECONDS`, `/hang`,
`/reset`, `/gone`, `/redirect`; any other path is as `/ok`. Whatever it answers, the delivery is recorded.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections import Counter, OrderedDict, deque
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from standardwebhooks import Webhook, WebhookVerificationError

from sandbox.server import Answer, Later, Reply, Request, Silence, Vanish, status_of

if TYPE_CHECKING:
    from collections.abc import Iterable

V = TypeVar("V")
DELIVERIES_KEPT = 200_000
_IDS_KEPT = 1_000_000
_PAGE = 1000
_MAX_WORD_CHARS = 200
_FINAL_STATUSES = range(200, 600)
_BEHAVIOUR = re.compile(r"/(status|fail-first|slow)/([0-9]{1,6}(?:\.[0-9]{1,3})?)")


class SecretRefused(ValueError):
    """A secret is not `whsec_` and base64; the message never shows it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST as it came. `received_at` is in unix seconds; `body` is parsed if it is JSON, else text."""

    seq: int
    received_at: float
    path: str
    webhook_id: str
    webhook_timestamp: str
    type: str
    verified: bool
    reason: str
    answered: str
    body: object


class Sink:
    """The state of the consumer, and its answers."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._verifiers = [_verifier(secret) for secret in secrets]
        self._clear()

    def _clear(self) -> None:
        self._deliveries: deque[Delivery] = deque(maxlen=DELIVERIES_KEPT)
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._verified_ids: OrderedDict[str, None] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._types: Counter[str] = Counter()

    def handle(self, request: Request) -> Answer:
        if request.method == "POST":
            return self._take(request)
        match request.method, request.path:
            case "GET" | "HEAD", "/received":
                return self._received(request)
            case "GET" | "HEAD", "/summary":
                return _json(self._summary())
            case "GET" | "HEAD", "/health":
                return _json({"ok": True})
            case "DELETE", "/received":
                self._clear()
                return _json(self._summary())
            case _:
                return _json({"error": "no such route"}, 404)

    def _take(self, request: Request) -> Answer:
        webhook_id = request.headers.get("webhook-id", "")
        reason = self._objection(request)
        times = self._seen.pop(webhook_id, 0) + 1
        answer = _behave(request, times)
        parsed = _parse(request.body)
        event = parsed.get("type") if isinstance(parsed, dict) else None
        delivery = Delivery(
            seq=self._counts["deliveries"] + 1,
            received_at=time.time(),
            path=request.path,
            webhook_id=webhook_id,
            webhook_timestamp=request.headers.get("webhook-timestamp", ""),
            type=event[:_MAX_WORD_CHARS] if isinstance(event, str) else "",
            verified=not reason,
            reason=reason,
            answered=status_of(answer),
            body=parsed,
        )
        self._record(delivery, times)
        return answer

    def _record(self, delivery: Delivery, times: int) -> None:
        self._deliveries.append(delivery)
        self._counts["deliveries"] += 1
        self._counts["unique_ids"] += bool(delivery.webhook_id) and times == 1
        self._counts["verified" if delivery.verified else "bad_signature"] += 1
        self._types[delivery.type] += 1
        if delivery.webhook_id:
            _keep(self._seen, delivery.webhook_id, times)
        if delivery.verified:
            self._counts["verified_unique_ids"] += delivery.webhook_id not in self._verified_ids
            _keep(self._verified_ids, delivery.webhook_id, None)

    def _objection(self, request: Request) -> str:
        """Say why a delivery is not to be believed, or nothing if one of the secrets vouches for it."""
        reason = "no secret is configured"
        for verifier in self._verifiers:
            try:
                verifier.verify(request.body, dict(request.headers), json_parse=False)
            except WebhookVerificationError as refused:
                reason = str(refused)
            except ValueError as leaked:
                # The library lets out what splitting, base64 and UTF-8 decoding of hostile input raise.
                reason = f"malformed: {type(leaked).__name__}"
            else:
                return ""
        return reason

    def _received(self, request: Request) -> Reply:
        after = _whole(request.param("after"), 0)
        limit = _whole(request.param("limit"), _PAGE)
        if after is None or limit is None:
            return _json({"error": "after and limit must be whole numbers"}, 400)
        first = self._deliveries[0].seq if self._deliveries else 1
        start = max(0, after - first + 1)
        found = [asdict(delivery) for delivery in islice(self._deliveries, start, start + limit)]
        return _json({"deliveries": found, "next": found[-1]["seq"] if found else after})

    def _summary(self) -> dict[str, object]:
        names = ("deliveries", "unique_ids", "verified", "verified_unique_ids", "bad_signature")
        return {name: self._counts[name] for name in names} | {"by_type": dict(self._types)}


def _keep(kept: OrderedDict[str, V], key: str, value: V) -> None:
    kept[key] = value
    if len(kept) > _IDS_KEPT:
        kept.popitem(last=False)


def _verifier(secret: str) -> Webhook:
    """Read a secret more strictly than the library, which skips every character that is not base64."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key or not secret.startswith("whsec_"):
        raise SecretRefused("a webhook secret must be whsec_ and base64")
    return Webhook(key)


def _behave(request: Request, times: int) -> Answer:
    well = _json({"ok": True})
    match request.path:
        case "/hang":
            return Silence()
        case "/reset":
            return Vanish(reset=True)
        case "/gone":
            return _json({"error": "gone"}, 410)
        case "/redirect":
            return Reply(307, headers=(("Location", "/ok"),))
    asked = _BEHAVIOUR.fullmatch(request.path)
    return _scripted(asked[1], float(asked[2]), request, times) if asked else well


def _scripted(kind: str, number: float, request: Request, times: int) -> Answer:
    well = _json({"ok": True})
    if kind == "slow":
        return Later(number, well)
    if kind == "fail-first":
        return _json({"error": "not yet"}, 503) if times <= number else well
    wait = _whole(request.param("retry_after"), 0)
    headers = (("Retry-After", str(wait)),) if wait else ()
    status = int(number) if number in _FINAL_STATUSES else 400
    return Reply(status, b'{"scripted":true}', headers=headers)


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def _json(document: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(document).encode())


def _whole(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
