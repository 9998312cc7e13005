"""The webhook sink: verification by the standardwebhooks library, behaviour by path, and its memory."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.unit.sandbox.sandbox_process import Sandbox, ended, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "whsec_" + base64.b64encode(b"a secret of the sink....").decode()
OTHER = "whsec_" + base64.b64encode(b"another secret of it....").decode()
EVENT = json.dumps({"type": "image.completed", "data": {"job_id": "1"}}).encode()


@pytest.fixture(scope="module")
def sink_of_module() -> Iterator[Sandbox]:
    """One process for all tests here."""
    with running("sink", "--secret", SECRET) as sandbox:
        yield sandbox


@pytest.fixture
def sink(sink_of_module: Sandbox) -> Sandbox:
    """A sink that knows one secret and has received nothing."""
    sink_of_module.sink.delete("/received")
    return sink_of_module


def signed(webhook_id: str, body: bytes = EVENT, secret: str = SECRET, age_s: float = 0) -> dict[str, str]:
    at = dt.datetime.now(tz=dt.UTC) - dt.timedelta(seconds=age_s)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
    }


def deliver(
    sandbox: Sandbox, webhook_id: str, path: str = "/ok", body: bytes = EVENT, **options: Any
) -> httpx.Response:
    return sandbox.sink.post(path, content=body, headers=signed(webhook_id, body, **options))


def summary(sandbox: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.sink.get("/summary").json()
    return found


def last(sandbox: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.sink.get("/received").json()["deliveries"][-1]
    return found


def test_a_signed_delivery_is_verified_and_kept(sink: Sandbox) -> None:
    """A good delivery is answered 200, verified, and kept with id, type and parsed body."""
    assert deliver(sink, "msg_1").status_code == 200
    kept = last(sink)
    assert (kept["webhook_id"], kept["type"], kept["verified"], kept["reason"]) == (
        "msg_1",
        "image.completed",
        True,
        "",
    )
    assert kept["body"] == json.loads(EVENT)


def test_the_summary_counts_deliveries_and_ids(sink: Sandbox) -> None:
    """A retried delivery counts twice as a delivery and once as an id."""
    for webhook_id in ("msg_1", "msg_1", "msg_2"):
        deliver(sink, webhook_id)
    deliver(sink, "msg_3", secret=OTHER)
    deliver(sink, "msg_4", body=b'{"type":"batch.completed"}')
    assert summary(sink) == {
        "deliveries": 5,
        "unique_ids": 4,
        "verified": 4,
        "verified_unique_ids": 3,
        "bad_signature": 1,
        "by_type": {"image.completed": 4, "batch.completed": 1},
    }


def test_a_tampered_body_is_not_verified(sink: Sandbox) -> None:
    """One changed byte after signing is a bad signature, still recorded."""
    sink.sink.post("/ok", content=EVENT.replace(b"1", b"2"), headers=signed("msg_1"))
    assert (last(sink)["verified"], last(sink)["reason"]) == (False, "No matching signature found")


@pytest.mark.parametrize("age_s", [600, -600])
def test_a_timestamp_far_from_now_is_not_verified(sink: Sandbox, age_s: float) -> None:
    """A delivery signed ten minutes ago or ahead is refused, as replays should be."""
    deliver(sink, "msg_1", age_s=age_s)
    assert last(sink)["verified"] is False


def test_any_of_several_secrets_and_signatures_will_do() -> None:
    """During a rotation a delivery with both signatures, or one by the newer secret, is verified."""
    with running("sink", "--secret", OTHER, "--secret", SECRET) as sandbox:
        deliver(sandbox, "msg_1")
        headers = signed("msg_2")
        headers["webhook-signature"] = (
            signed("msg_2", secret=OTHER)["webhook-signature"] + " " + headers["webhook-signature"]
        )
        sandbox.sink.post("/ok", content=EVENT, headers=headers)
        assert summary(sandbox)["verified"] == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,@@@"},
        {"webhook-signature": "v1,a"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": ","},
        {"webhook-signature": b"v1,\xff\xfe"},
        {"webhook-signature": "v2,YQ=="},
        {"webhook-signature": ""},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "inf"},
        {"webhook-timestamp": "1e400"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "soon"},
        {"webhook-id": b"\xff\xfe"},
        {"webhook-id": ""},
    ],
    ids=repr,
)
def test_hostile_headers_are_a_bad_signature(sink: Sandbox, changed: dict[str, str | bytes]) -> None:
    """Whatever the headers hold, the sink answers, records a bad signature, and goes on."""
    headers = {name.encode(): value.encode() for name, value in signed("msg_1").items()}
    for name, value in changed.items():
        headers[name.encode()] = value if isinstance(value, bytes) else value.encode()
    answer = sink.sink.post("/ok", content=EVENT, headers=httpx.Headers(headers))
    assert answer.status_code == 200
    assert (last(sink)["verified"], last(sink)["reason"] != "") == (False, True)
    deliver(sink, "msg_2")
    assert last(sink)["verified"] is True


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[" * 100_000, b'{"type": {}}', b"null"], ids=lambda b: repr(b[:9])
)
def test_hostile_bodies_are_kept_as_they_can_be(sink: Sandbox, body: bytes) -> None:
    """A body that is no JSON object, or no text at all, is recorded without a type."""
    headers = signed("msg_1") if body == b"\xff\xfe" else signed("msg_1", body)
    assert sink.sink.post("/ok", content=body, headers=headers).status_code == 200
    assert last(sink)["type"] == ""


def test_without_a_secret_nothing_is_verified() -> None:
    """A sink that was given no secret vouches for nothing."""
    with running("sink") as sandbox:
        deliver(sandbox, "msg_1")
        assert (last(sandbox)["verified"], last(sandbox)["reason"]) == (False, "no secret is configured")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ok", 200),
        ("/anything/else", 200),
        ("/status/500", 500),
        ("/status/204", 204),
        ("/status/100", 400),
        ("/slow/0.01", 200),
        ("/gone", 410),
        ("/redirect", 307),
    ],
)
def test_the_path_decides_the_answer(sink: Sandbox, path: str, status: int) -> None:
    """Each path is answered as it says, and the delivery is recorded all the same."""
    assert deliver(sink, "msg_1", path).status_code == status
    assert (last(sink)["path"], last(sink)["answered"], last(sink)["verified"]) == (path, str(status), True)


def test_fail_first_counts_per_id(sink: Sandbox) -> None:
    """`/fail-first/2` refuses each id twice and then takes it."""
    for webhook_id in ("msg_1", "msg_2"):
        answers = [deliver(sink, webhook_id, "/fail-first/2").status_code for _ in range(4)]
        assert answers == [503, 503, 200, 200]


def test_a_status_can_carry_retry_after(sink: Sandbox) -> None:
    """`/status/429?retry_after=5` sends Retry-After."""
    assert deliver(sink, "msg_1", "/status/429?retry_after=5").headers["retry-after"] == "5"


def test_a_connection_can_be_reset_or_hang(sink: Sandbox) -> None:
    """`/reset` ends the connection and `/hang` never answers; both deliveries are recorded."""
    with pytest.raises(httpx.ReadError):
        deliver(sink, "msg_1", "/reset")
    with pytest.raises(httpx.ReadTimeout):
        sink.sink.post("/hang", content=EVENT, headers=signed("msg_2"), timeout=0.3)
    assert summary(sink)["verified"] == 2


def test_received_is_paged_and_can_be_cleared(sink: Sandbox) -> None:
    """`after` gives what came since, `limit` bounds a page, DELETE starts again."""
    for number in range(5):
        deliver(sink, f"msg_{number}")
    page = sink.sink.get("/received", params={"after": "1", "limit": "2"}).json()
    assert ([each["webhook_id"] for each in page["deliveries"]], page["next"]) == (["msg_1", "msg_2"], 3)
    assert sink.sink.get("/received", params={"after": "5"}).json() == {"deliveries": [], "next": 5}
    assert sink.sink.get("/received", params={"after": "x"}).status_code == 400
    sink.sink.delete("/received")
    assert summary(sink)["deliveries"] == 0
    deliver(sink, "msg_9")
    assert last(sink)["seq"] == 1


def test_other_requests_are_not_deliveries(sink: Sandbox) -> None:
    """Only POSTs are deliveries; health answers, the rest is a 404."""
    assert sink.sink.get("/health").json() == {"ok": True}
    assert sink.sink.get("/ok").status_code == 404
    assert sink.sink.put("/ok", content=EVENT).status_code == 404
    assert summary(sink)["deliveries"] == 0


def test_secrets_can_come_from_the_environment(
    start: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--secret-env` names a variable that holds one or more secrets."""
    monkeypatch.setenv("SINK_SECRETS", f"{OTHER} {SECRET}")
    sandbox = start("all", "--secret-env", "SINK_SECRETS")
    deliver(sandbox, "msg_1")
    assert last(sandbox)["verified"] is True


@pytest.mark.parametrize("secret", ["whsec_@@@hush", "whsec_", "hush-hush-hush!", "whsec_hush\u00e9"])
def test_a_wrong_secret_stops_the_start_and_is_not_shown(secret: str) -> None:
    """A secret that cannot be used gives exit code 2 and one sentence without it."""
    refused = ended("sink", "--secret-env", "SINK_SECRETS", SINK_SECRETS=secret)
    assert (refused.returncode, refused.stderr) == (
        2,
        "sandbox: a webhook secret must be whsec_ and base64\n",
    )


def test_an_empty_environment_variable_stops_the_start() -> None:
    """A named variable without a secret is a mistake, not a sink without secrets."""
    refused = ended("sink", "--secret-env", "NO_SUCH_VARIABLE")
    assert refused.returncode == 2
    assert "NO_SUCH_VARIABLE" in refused.stderr
