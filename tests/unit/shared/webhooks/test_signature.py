"""Signing, judged by the public library and the answer known to the suites of the specification."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from shared.errors import ConfigurationError
from shared.webhooks.signature import decode_secret, decode_secrets, headers, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = st.binary(min_size=24, max_size=64)
IDS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789_-", min_size=1, max_size=128)
CANARY = "q7CanaryCanaryCanary"


def whsec(key: bytes) -> str:
    return "whsec_" + b64encode(key).decode()


def test_known_answer() -> None:
    """The signature that the specification's reference suites expect comes out."""
    signed = sign(
        [decode_secret(SECRET)],
        event_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_s=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(key=KEYS, event_id=IDS, timestamp_s=st.integers(1, 4_000_000_000), body=st.text(max_size=200))
def test_signatures_equal_those_of_the_library(
    key: bytes, event_id: str, timestamp_s: int, body: str
) -> None:
    """For any key, id, second and text, the public library signs the same."""
    theirs = Webhook(whsec(key)).sign(event_id, datetime.fromtimestamp(timestamp_s, UTC), body)
    assert sign([key], event_id=event_id, timestamp_s=timestamp_s, body=body.encode()) == theirs


@given(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), body=st.binary(max_size=50))
def test_each_secret_of_a_rotation_verifies(keys: list[bytes], body: bytes) -> None:
    """A consumer that knows any one of the secrets accepts the delivery; one that knows none refuses it."""
    text = b64encode(body)
    now_s = int(datetime.now(UTC).timestamp())
    sent = dict(headers(keys, event_id="evt_1", timestamp_s=now_s, body=text))
    for key in keys:
        Webhook(whsec(key)).verify(text, sent, json_parse=False)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(whsec(b"?" * 65)).verify(text, sent, json_parse=False)


def test_headers_are_those_of_the_standard() -> None:
    """Id, timestamp in seconds and one signature per secret, in the order of the secrets."""
    old, new = b"o" * 24, b"n" * 32
    sent = dict(headers([new, old], event_id="evt_1", timestamp_s=7, body=b"{}"))
    each = [sign([key], event_id="evt_1", timestamp_s=7, body=b"{}") for key in (new, old)]
    assert sent == {
        "content-type": "application/json",
        "webhook-id": "evt_1",
        "webhook-timestamp": "7",
        "webhook-signature": " ".join(each),
    }


@pytest.mark.parametrize("event_id", ["a.b", "", "a b", "a\r\nx: y", "ä", "x" * 129])
def test_an_id_that_could_be_read_otherwise_is_refused(event_id: str) -> None:
    """A dot would move the border between id and timestamp; anything else odd would be a header's trouble."""
    with pytest.raises(ValueError, match="event id"):
        sign([b"k" * 24], event_id=event_id, timestamp_s=1, body=b"")


def test_nothing_is_sent_unsigned() -> None:
    """No key is an error, not an empty signature."""
    with pytest.raises(ValueError, match="without a key"):
        sign([], event_id="evt_1", timestamp_s=1, body=b"")


@given(KEYS)
def test_a_secret_decodes_to_its_key(key: bytes) -> None:
    """What was encoded comes back, white space around it (a file's last newline) aside."""
    assert decode_secret(f" {whsec(key)}\n") == key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CANARY, "does not begin with whsec_"),
        (f"WHSEC_{CANARY}", "does not begin with whsec_"),
        (f"whsec_{CANARY}!", "no padded base64"),
        (f"whsec_{CANARY}é", "no padded base64"),
        (f"whsec_{CANARY}A", "no padded base64"),
        (f"whsec_{CANARY}", "this one holds 15"),
        (whsec(b"x" * 65), "this one holds 65"),
        (f"whsk_{CANARY}", "ed25519"),
        (f"whpk_{CANARY}", "ed25519"),
        ("", "does not begin with whsec_"),
    ],
)
def test_a_malformed_secret_is_told_but_never_shown(text: str, said: str) -> None:
    """The error says what is wrong and what to do, without a character of the secret."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        decode_secret(text)
    assert "Make one of 32 random bytes" in str(caught.value)
    assert "Canary" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_several_secrets_are_separated_by_white_space() -> None:
    """During a rotation a file holds both, each on its line."""
    one, two = b"1" * 24, b"2" * 64
    assert decode_secrets(f"{whsec(one)}\n{whsec(two)}\n") == (one, two)


def test_one_malformed_secret_of_several_is_an_error() -> None:
    """It must not drop out silently, nor must an empty list pass."""
    with pytest.raises(ConfigurationError, match="does not begin"):
        decode_secrets(f"{SECRET} {CANARY}")
    with pytest.raises(ConfigurationError, match="empty"):
        decode_secrets(" \n")
