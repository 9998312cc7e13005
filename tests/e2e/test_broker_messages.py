"""What anybody may write into a queue of the broker: no worker ends over it, and none goes deaf."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from shared.broker import STAGES, task_name

if TYPE_CHECKING:
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(180)

BODY = base64.b64encode(json.dumps([["main/wan2.7-image"], {}, {}]).encode()).decode()


def message(**changes: Any) -> dict[str, Any]:
    """Give a hint as Celery writes it, with changes; `headers` and `properties` are changed field by field."""
    properties = {
        "correlation_id": "1", "reply_to": "", "delivery_mode": 1, "priority": 0, "body_encoding": "base64",
        "delivery_info": {"exchange": "darkroom", "routing_key": "darkroom.poll"}, "delivery_tag": "tag",
    }  # fmt: skip
    headers = {
        "lang": "py",
        "task": "darkroom.poll",
        "id": "1",
        "root_id": "1",
        "retries": 0,
        "timelimit": [None, None],
    }
    for name, fields in (("properties", properties), ("headers", headers)):
        if isinstance(changes.get(name), dict):
            changes[name] = fields | changes[name]
    plain = {"body": BODY, "content-encoding": "utf-8", "content-type": "application/json"}
    return plain | {"properties": properties, "headers": headers} | changes


GARBAGE: dict[str, Any] = {
    "no JSON": "no message",
    "no text": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "a list": [],
    "null": None,
    "a number": 7,
    "nothing in it": {},
    "properties of the wrong type": message(properties=[]),
    "no delivery tag": message(properties={"delivery_tag": None}),
    "a tag that is a list": message(properties={"delivery_tag": ["t"]}),
    "no delivery info": message(properties={"delivery_info": None}),
    "an exchange that is a list": message(properties={"delivery_info": {"exchange": [], "routing_key": {}}}),
    "bad base64": message(body="a"),
    "no such encoding of the body": message(properties={"body_encoding": "rot13"}),
    "headers of the wrong type": message(headers=[]),
    "headers that are null": message(headers=None),
    "no such task": message(headers={"task": "os.system"}),
    "a task that is a list": message(headers={"task": ["darkroom.poll"]}),
    "an id that is an object": message(headers={"id": {"a": 1}}),
    "time limits that are none": message(headers={"timelimit": 5}),
    "an ETA that is none": message(headers={"eta": "tomorrow"}),
    "an expiry that is none": message(headers={"expires": [1]}),
    "retries that are none": message(headers={"retries": "x"}),
    "pickle": message(**{"content-type": "application/x-python-serialize", "content-encoding": "binary"}),
    "no such charset": message(**{"content-encoding": "utf-99"}),
    "arguments of the wrong shape": message(body=base64.b64encode(b'{"a": 1}').decode()),
    "a lane that is none": message(body=base64.b64encode(b'[[{"a": 1}], {}, {}]').decode()),
    "too many arguments": message(body=base64.b64encode(b'[["a", "b", "c"], {"d": 1}, {}]').decode()),
    "callbacks": message(
        body=base64.b64encode(b'[[""], {}, {"callbacks": [{"task": "x"}], "chord": 7}]').decode()
    ),
    "huge": message(body=base64.b64encode(b"a" * 4_000_000).decode()),
}


def test_no_message_ends_a_worker_or_makes_it_deaf(house: House) -> None:
    """Each of them, forty times in every queue, more than a worker takes at once; then work goes on as ever."""
    prefix = f"{house.settings.redis.namespace}.broker."
    worker = house.worker()
    with house.broker.client() as broker:
        for each in GARBAGE.values():
            raw = each if isinstance(each, str | bytes) else json.dumps(each)
            times = 40 if len(raw) < 10_000 else 2
            for stage in STAGES:
                broker.lpush(f"{prefix}{task_name(stage)}", *[raw] * times)
        house.until(
            lambda: not sum(broker.llen(f"{prefix}{task_name(stage)}") for stage in STAGES),
            60,
            "queues are read",
        )
        assert worker.running, worker.log()[-4000:]
        house.enqueue(5)
        house.until(lambda: house.counts() == {"completed": 5}, 60, "jobs are worked on")
        house.until(lambda: not broker.hlen(f"{prefix}unacked"), 30, "nothing is kept back")
    assert worker.running, worker.log()[-4000:]
    assert house.ledger()["submits_seen"] == 5
    assert "broker_message_dropped" in worker.log()
