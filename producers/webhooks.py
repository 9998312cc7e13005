"""What producers know of webhooks: how the deliveries of a job or batch stand, and a test event for an endpoint."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

import httpx

from shared.errors import BatchNotFound, InvalidRequest, JobNotFound
from shared.redis.client import check_server, make_client, translated
from shared.redis.keys import Keys
from shared.webhooks.endpoints import check_webhook, resolve_endpoint
from shared.webhooks.events import BatchEventType, iso
from shared.webhooks.signature import PREFIX, headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.settings import Settings

SECRET_BYTES: Final = 32
_FIELDS: Final = ("event", "state", "attempts", "last_status", "created_at", "tried_at", "ended_at")


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """One delivery. Instants are unix ms; `next_at` is of the next try (or the end of one that runs), if any.

    `last_status` is the endpoint's last answer as a number or a word, or why the delivery ended.
    """

    event_id: str
    event: str
    state: str
    attempts: int
    last_status: str
    created_at: int
    tried_at: int | None
    ended_at: int | None
    next_at: int | None


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """What an endpoint made of a test event: its status, or a word for why there is none."""

    event_id: str
    status: int | None
    trouble: str | None

    @property
    def acknowledged(self) -> bool:
        return self.status is not None and httpx.codes.is_success(self.status)


def new_secret() -> str:
    """Give a fresh secret: `whsec_` and the base64 of 32 random bytes."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def job_deliveries(settings: Settings, job_id: str) -> list[DeliveryStatus]:
    """Read the deliveries of a job's events, in order of the events. Raises JobNotFound, StateUnavailable."""
    keys = Keys.of(settings.redis.namespace)
    with make_client(settings.redis) as client:
        check_server(client, settings)
        with translated(settings.redis.url):
            found: Any = client.hmget(keys.job(job_id), "state", "events")
        if found[0] is None:
            raise JobNotFound(job_id)
        return _read(client, settings, job_event_ids(job_id, int(found[1] or 0)))


def batch_deliveries(settings: Settings, name: str, tenant: str) -> list[DeliveryStatus]:
    """Read the deliveries of a batch's own events. Raises BatchNotFound, StateUnavailable."""
    with make_client(settings.redis) as client:
        check_server(client, settings)
        return _read(client, settings, batch_event_ids(client, settings, tenant, name))


def job_event_ids(job_id: str, count: int) -> list[str]:
    """Give the ids of a job's events so far, as transition.lua gives them."""
    stem = "evt_" + job_id.removeprefix("job_")
    return [f"{stem}_{number}" for number in range(1, count + 1)]


def batch_event_ids(client: Any, settings: Settings, tenant: str, name: str) -> list[str]:
    """Give the ids of a batch's own events, as batch.lua gives them. Raises BatchNotFound, StateUnavailable."""
    with translated(settings.redis.url):
        born = client.hget(Keys.of(settings.redis.namespace).batch(tenant, name), "created_at")
    if born is None:
        raise BatchNotFound(name)
    told = (f"{tenant}:{name}:{event}:{born.decode()}" for event in get_args(BatchEventType))
    return [f"evt_{hashlib.sha1(each.encode(), usedforsecurity=False).hexdigest()[:26]}" for each in told]


def _read(client: Any, settings: Settings, event_ids: Sequence[str]) -> list[DeliveryStatus]:
    """Read those that exist: they go some days after their end."""
    keys = Keys.of(settings.redis.namespace)
    pipe = client.pipeline(transaction=False)
    for event_id in event_ids:
        pipe.hmget(keys.delivery(event_id), *_FIELDS)
        pipe.zscore(keys.index("notify"), event_id)
    with translated(settings.redis.url):
        replies = pipe.execute()
    pairs = zip(event_ids, replies[::2], replies[1::2], strict=True)
    return [
        _status(event_id, fields, next_at) for event_id, fields, next_at in pairs if fields[0] is not None
    ]


def _status(event_id: str, fields: Sequence[bytes | None], next_at: float | None) -> DeliveryStatus:
    event, state, attempts, last, *instants = (None if each is None else each.decode() for each in fields)
    created_at, tried_at, ended_at = (None if each is None else int(each) for each in instants)
    return DeliveryStatus(
        event_id=event_id,
        event=event or "",
        state=state or "",
        attempts=int(attempts or 0),
        last_status=last or "",
        created_at=created_at or 0,
        tried_at=tried_at,
        ended_at=ended_at,
        next_at=None if next_at is None else int(next_at),
    )


def send_test(
    settings: Settings, webhook: str, transport: httpx.BaseTransport | None = None
) -> EndpointAnswer:
    """Send one signed event of type `test` to an endpoint (a URL, or a name of the settings), from this machine.

    Signed and timed as workers do, by this machine's clock; but workers also refuse private addresses, which cannot be
    judged from here. Raises InvalidRequest for a webhook that no job could have, ConfigurationError.
    """
    if issue := check_webhook(settings.webhooks, webhook):
        raise InvalidRequest((issue,))
    endpoint = resolve_endpoint(settings.webhooks, webhook)
    event_id, now_s = f"evt_test_{secrets.token_hex(8)}", int(time.time())
    body = json.dumps({"type": "test", "timestamp": iso(now_s * 1000), "data": {}}).encode()
    signed = headers(endpoint.keys, event_id=event_id, timestamp_s=now_s, body=body)
    agent = {"user-agent": "darkroom"}
    with httpx.Client(
        transport=transport, timeout=settings.webhooks.timeout_s, trust_env=False, headers=agent
    ) as client:
        try:
            answer = client.post(endpoint.url, content=body, headers=dict(signed))
        except httpx.HTTPError as error:  # its text may hold the URL, which may hold the consumer's token
            return EndpointAnswer(event_id, None, _trouble(error))
        return EndpointAnswer(event_id, answer.status_code, None)


def _trouble(error: httpx.HTTPError) -> str:
    match error:
        case httpx.ConnectError():
            return "no connection"
        case httpx.TimeoutException():
            return "no answer in time"
        case _:
            return "the connection broke"
