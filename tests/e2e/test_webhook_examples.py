"""What docs/webhooks.md tells consumers, on real deliveries of a real worker: schemas, bodies, and every example."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from jsonschema import Draft202012Validator

from shared.settings import WebhookSettings
from shared.settings_section import SecretReference
from shared.webhooks.events import EVENT_TYPES
from shared.webhooks.signature import decode_secrets, sign
from tests.e2e.conftest import House
from tests.e2e.hooks import Delivery, Hooks
from tests.process import HOST, ROOT, Proc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("webhook_examples")]

PAGES: Final = ROOT / "docs" / "webhooks"
EXAMPLES: Final = PAGES / "examples"
OLD: Final = "whsec_" + "b2xkIHNlY3JldCBvZiB0aGUgdGVzdHMsIDMyIGJ5dGVzIQ=="
OTHER: Final = "whsec_" + "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzLCBsb25n"
TOLERANCE_S: Final = 300
VERIFIERS: Final[dict[str, Sequence[str]]] = {
    "python": (sys.executable, "verify.py"),
    "library": (sys.executable, "verify_with_library.py"),
    "node": ("node", "verify.mjs"),
    "openssl": ("sh", "verify.sh"),
}


def settings_of(house: House, folder: Path) -> None:
    """Change what the page shows otherwise: public links, a rotation under way, stalls at once."""
    (folder / "rotating").write_text(f"{house.sink.secret}\n{OLD}\n")
    storage = house.settings.storage.model_copy(
        update={"links": "public", "public_base_url": "https://images.example.com"}
    )
    hooks = WebhookSettings(
        secret=SecretReference(file=folder / "rotating"), allow_private=True, allow_http=True
    )
    limits = house.settings.limits.model_copy(update={"batch_stalled_s": 1})
    house.settings = house.settings.model_copy(
        update={"storage": storage, "webhooks": hooks, "limits": limits}
    )


def run_all(house: House, hooks: Hooks) -> None:
    """Have every type of event delivered."""
    first = {"model": "wan2.7-image", "size": "1K"}
    faults = {"good": "", "bad": "[[fault:fail:data_inspection]]", "unknown": "[[fault:lost_answer]]"}
    house.worker()
    orders = [
        {**first, "prompt": f"a lighthouse at dusk [[m:{name}]] {fault}"} for name, fault in faults.items()
    ]
    never = house.darkroom.enqueue(
        {**first, "prompt": "a lighthouse at noon [[fault:never]]"}, webhook=hooks.url, batch="cancelled"
    )
    for name, requests in {"catalogue": orders[:2], "stalled": orders[2:]}.items():
        house.darkroom.enqueue_many(requests, batch=name, webhook=hooks.url, metadata={"order": 4711})
    house.until(
        lambda: house.darkroom.get(never.job_id).state == "generating", 30, "the endless generation runs"
    )
    house.darkroom.cancel(never.job_id)
    house.until(lambda: set(hooks.by_type()) >= set(EVENT_TYPES), 60, "an event of every type")


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> list[Delivery]:
    """Every delivery of the run."""
    folder = tmp_path_factory.mktemp("hooks")
    with House(folder) as house, Hooks() as hooks:
        settings_of(house, folder)
        run_all(house, hooks)
    return hooks.deliveries


@pytest.fixture(scope="module")
def delivered(received: list[Delivery]) -> dict[str, Delivery]:
    """One delivery of each type."""
    return Hooks(received).by_type()


def schema_of(event_type: str) -> Draft202012Validator:
    schema = json.loads((PAGES / "schema" / f"{event_type}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def secret_of_the_house() -> str:
    return "whsec_" + "dGVzdHMtb25seS1zZWNyZXQtb2YtMzItYnl0ZXMhISE="


def test_every_body_keeps_the_schema_of_its_event(received: list[Delivery]) -> None:
    """All that came in the run."""
    validators = {each: schema_of(each) for each in EVENT_TYPES}
    for delivery in received:
        assert list(validators[delivery.event["type"]].iter_errors(delivery.event)) == []


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_schema_fits_its_own_event_alone(delivered: dict[str, Delivery], event_type: str) -> None:
    """No schema takes the body of another event, or one that lacks a field, so that the check can fail."""
    schema, event = schema_of(event_type), delivered[event_type].event
    assert [each for each, one in delivered.items() if schema.is_valid(one.event)] == [event_type]
    for field in event["data"]:
        less = {name: value for name, value in event["data"].items() if name != field}
        assert not schema.is_valid({**event, "data": less}), field
    assert schema.is_valid({**event, "data": {**event["data"], "of_a_later_version": 1}})


def shape(value: Any) -> Any:
    """Give the names and JSON types of a body: what must be the same in the page and in life."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_page_shows_bodies_as_they_are(delivered: dict[str, Delivery], event_type: str) -> None:
    """The printed body has the fields, and the nulls, of the one just received."""
    printed = json.loads((PAGES / "bodies" / f"{event_type}.json").read_text())
    assert shape(printed) == shape(delivered[event_type].event)


# --- the examples ---------------------------------------------------------------------------------------------------


def verified(verifier: str, secret: str, signed: Sequence[str], body: bytes) -> tuple[bool, str]:
    """Run an example; give its verdict, and what it said."""
    ran = subprocess.run(
        [*VERIFIERS[verifier], *signed], cwd=EXAMPLES, env={**os.environ, "WEBHOOK_SECRET": secret},
        input=body, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode in (0, 1), ran.stderr.decode()
    said = (ran.stdout + ran.stderr).decode().strip()
    assert said.startswith("refused: " if ran.returncode else "verified")
    return ran.returncode == 0, said


def resigned(delivery: Delivery, secret: str, shift_s: int) -> tuple[str, str, str]:
    """Sign a delivery again, rightly, but at another time."""
    at_s = int(delivery.headers["webhook-timestamp"]) + shift_s
    signature = sign(decode_secrets(secret), event_id=delivery.id, timestamp_s=at_s, body=delivery.body)
    return delivery.id, str(at_s), signature


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_an_example_accepts_what_is_ours(delivered: dict[str, Delivery], verifier: str) -> None:
    """With the new secret as with the old one, as both sign while a secret is rotated."""
    for event_type, secret in {"image.completed": secret_of_the_house(), "batch.completed": OLD}.items():
        delivery = delivered[event_type]
        accepted, said = verified(verifier, secret, delivery.signed, delivery.body)
        assert accepted, said
        assert said == (f"verified {event_type}" if verifier != "openssl" else "verified")


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_an_example_refuses_what_is_not_ours(delivered: dict[str, Delivery], verifier: str) -> None:
    """One bit of the body flipped, another id, another secret, no signature, another version's signature."""
    delivery, secret = delivered["image.completed"], secret_of_the_house()
    event_id, timestamp, signature = delivery.signed
    flipped = bytearray(delivery.body)
    flipped[len(flipped) // 2] ^= 1
    forgeries: dict[str, tuple[str, Sequence[str], bytes]] = {
        "body": (secret, delivery.signed, bytes(flipped)),
        "id": (secret, (event_id + "0", timestamp, signature), delivery.body),
        "secret": (OTHER, delivery.signed, delivery.body),
        "none": (secret, (event_id, timestamp, ""), delivery.body),
        "version": (secret, (event_id, timestamp, signature.replace("v1,", "v2,")), delivery.body),
    }
    for what, forgery in forgeries.items():
        accepted, said = verified(verifier, *forgery)
        assert not accepted, what
        assert re.search("signature|Missing required headers", said), (what, said)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_an_example_refuses_a_replay(delivered: dict[str, Delivery], verifier: str) -> None:
    """A right signature of more than five minutes ago, or from so far in the future, is refused; a younger one is not."""
    delivery, secret = delivered["image.completed"], secret_of_the_house()
    for shift_s, expected in {
        -2 * TOLERANCE_S: False, -TOLERANCE_S // 2: True, TOLERANCE_S // 2: True, 2 * TOLERANCE_S: False,
    }.items():  # fmt: skip
        accepted, said = verified(verifier, secret, resigned(delivery, secret, shift_s), delivery.body)
        assert accepted is expected, (shift_s, said)


class ReceiverProc(Proc):
    """The receiver of the page, as printed, in a folder of its own."""

    def __init__(self, folder: Path, secret: str) -> None:
        super().__init__("receiver", folder, {"WEBHOOK_SECRET": secret})
        for name in ("verify.py", "receiver.py"):
            shutil.copy(EXAMPLES / name, folder)

    def command(self) -> Sequence[str]:
        return ["sh", "-c", f"cd {self.folder} && exec {sys.executable} receiver.py 0"]

    def ready(self) -> bool:
        return bool(self._announced())

    def _announced(self) -> list[str]:
        return re.findall(rf"^(http://{HOST}:[0-9]+)$", self.log(), re.MULTILINE)

    @property
    def url(self) -> str:
        return self._announced()[0]

    def kept(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.folder / "events.sqlite3")) as events:
            return events.execute("select id, type from events order by rowid").fetchall()


def test_the_receiver_keeps_each_event_once(delivered: dict[str, Delivery], tmp_path: Path) -> None:
    """Every delivery is acknowledged however often it comes; a forged one is not, and leaves nothing."""
    with ReceiverProc(tmp_path, secret_of_the_house()) as receiver, httpx.Client(trust_env=False) as client:
        for delivery in delivered.values():
            for _ in range(2):
                answer = client.post(receiver.url, content=delivery.body, headers=delivery.headers)
                assert answer.status_code == 204
        forged = client.post(
            receiver.url, content=delivery.body.replace(b"batch", b"catch", 1), headers=delivery.headers
        )
        assert forged.status_code == 400
        assert receiver.kept() == [(delivery.id, each) for each, delivery in delivered.items()]


def test_the_receiver_is_one_for_a_worker(house: House, tmp_path: Path) -> None:
    """Events of a real batch arrive, and the deliveries end."""
    with ReceiverProc(tmp_path / "receiver", house.sink.secret) as receiver:
        house.worker()
        house.darkroom.enqueue_many(house.requests(2), batch="b", webhook=receiver.url)
        house.until(lambda: len(receiver.kept()) == 3, 40, "three events")
        assert sorted(kind for _, kind in receiver.kept()) == [
            "batch.completed", "image.completed", "image.completed",
        ]  # fmt: skip


def test_an_event_of_ones_own_is_sent_with_curl(delivered: dict[str, Delivery], tmp_path: Path) -> None:
    """The printed script signs as we do: the receiver takes it with the right secret alone."""
    body = delivered["image.completed"].body
    with ReceiverProc(tmp_path, OTHER) as receiver:
        sent = {
            secret: subprocess.run(
                ["sh", str(EXAMPLES / "send.sh"), receiver.url],
                env={**os.environ, "WEBHOOK_SECRET": secret}, input=body, capture_output=True, timeout=30, check=False,
            )
            for secret in (OTHER, OLD)
        }  # fmt: skip
        assert sent[OTHER].stdout.strip() == b"204", sent[OTHER].stderr
        assert sent[OLD].returncode != 0
        assert [kind for _, kind in receiver.kept()] == ["image.completed"]
