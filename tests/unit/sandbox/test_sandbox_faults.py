"""Faults: by marker in the prompt and by rule at runtime, on submits, polls and images."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.unit.sandbox.sandbox_process import KEY, bearer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.sandbox.sandbox_process import Sandbox


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 429, 500, 502, 503, 504])
def test_a_status_is_answered_as_asked(provider: Sandbox, status: int) -> None:
    """`[[fault:STATUS]]` is answered with that status, an error body and no Retry-After."""
    answer = provider.submit(f"cat [[fault:{status}]]")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
    assert "retry-after" not in answer.headers


def test_retry_after_comes_in_both_forms(provider: Sandbox) -> None:
    """Retry-After is given in seconds or as an HTTP-date relative to the Date of the answer."""
    assert provider.submit("cat [[fault:429:7]]").headers["retry-after"] == "7"
    headers = provider.submit("cat [[fault:503:date:60]]").headers
    wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    assert 59 <= wait.total_seconds() <= 61


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("code:get_channel_failed", 500, "get_channel_failed"),
        ("code:get_channel_failed;status=400", 400, "get_channel_failed"),
        ("code:idempotency_unavailable", 503, "idempotency_unavailable"),
        ("code:bad_response_status_code", 422, "bad_response_status_code"),
        ("code:anything_else", 400, "anything_else"),
    ],
)
def test_a_string_code_is_answered_as_asked(provider: Sandbox, fault: str, status: int, code: str) -> None:
    """`[[fault:code:X]]` is answered in the string style, with the status that goes with the code."""
    answer = provider.submit(f"cat [[fault:{fault}]]")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_build_request_failed_is_a_500(provider: Sandbox) -> None:
    """The permanent error dressed as a 500 says so in its message."""
    answer = provider.submit("cat [[fault:build_request_failed]]")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith("build_request_failed: invalid size")


def test_a_refusal_is_a_400(provider: Sandbox) -> None:
    """Moderation before submission is a 400 that names no rule of the request."""
    answer = provider.submit("cat [[fault:refuse]]")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "moderation" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("lost_answer", httpx.RemoteProtocolError),
        ("lost_answer:reset", httpx.ReadError),
        ("cut", httpx.RemoteProtocolError),
    ],
)
def test_a_connection_ends_as_asked(provider: Sandbox, fault: str, error: type[Exception]) -> None:
    """An answer can be lost by a FIN, by a RST, or cut in the middle of its body."""
    with pytest.raises(error):
        provider.submit(f"cat [[fault:{fault}]]")


@pytest.mark.parametrize("fault", ["garbage", "empty", "html"])
def test_a_good_status_can_carry_a_useless_body(provider: Sandbox, fault: str) -> None:
    """Garbage, an empty body and a page for people come with HTTP 200, and hold no JSON."""
    answer = provider.submit(f"cat [[fault:{fault}]]")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|decode"):
        answer.json()


def test_a_redirect_leads_where_asked(provider: Sandbox) -> None:
    """A redirect has the Location of its argument and cannot smuggle in a header."""
    answer = provider.submit("cat [[fault:redirect:http://example.com/\r\nx: y]]")
    assert (answer.status_code, answer.headers["location"]) == (302, "http://example.com/x: y")
    assert "x" not in answer.headers


@pytest.mark.parametrize(
    "fault",
    [
        "[[fault:nope]]",
        "[[fault:partial]]",
        "[[fault:partial:x]]",
        "[[fault:slow]]",
        "[[fault:slow:1;accept=0]]",
        "[[fault:hang:1]]",
        "[[fault:429:soon]]",
        "[[fault:600]]",
        "[[fault:500;on=moon]]",
        "[[fault:refuse;on=poll]]",
        "[[fault:fail;on=image]]",
        "[[fault:500;times=x]]",
        "[[fault:500;often=1]]",
        "[[fault:500;accept=maybe]]",
        "[[fault:]]",
        "[[fault:500",
    ],
)
def test_a_misspelt_fault_is_refused(provider: Sandbox, fault: str) -> None:
    """A marker that means nothing is refused with a message of the sandbox, never ignored."""
    answer = provider.submit(f"cat {fault}")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("sandbox: ")


def test_times_limits_a_fault_to_the_first_submits(provider: Sandbox) -> None:
    """`times=2` fires for the first two submits of a marker, and for another marker anew."""
    for marker in ("first", "second"):
        prompt = f"[[m:{marker}]] cat [[fault:429:1;times=2]]"
        assert [provider.submit(prompt).status_code for _ in range(4)] == [429, 429, 200, 200]


def test_faults_combine(provider: Sandbox) -> None:
    """A fault of the answer and a fate of the task in one prompt both hold."""
    with pytest.raises(httpx.RemoteProtocolError):
        provider.submit("[[m:both]] cat [[fault:partial:1]][[fault:lost_answer]]", n=3)
    assert provider.group("both")["charged_images"] == 1


def test_poll_faults_of_a_prompt(provider: Sandbox) -> None:
    """A marker with `on=poll` leaves the submit alone and spoils the first polls."""
    task_id = provider.accepted("[[m:polls]] cat [[fault:503;on=poll;times=2]]")
    assert [provider.poll(task_id).status_code for _ in range(3)] == [503, 503, 200]


def test_image_faults_of_a_prompt(provider: Sandbox) -> None:
    """A marker with `on=image` spoils downloads: a status, then bytes that are no image."""
    task_id = provider.accepted(
        "[[m:pics]] cat [[fault:500;on=image;times=1]][[fault:garbage;on=image;times=1]]"
    )
    [url] = provider.image_urls(task_id)
    first, second, third = (provider.http.get(url) for _ in range(3))
    assert first.status_code == 500
    assert (second.status_code, second.content[:4] == b"\x89PNG") == (200, False)
    assert third.content[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("fault", "status"), [("status:in_progress", "in_progress"), ("never", "processing")]
)
def test_a_running_task_says_what_it_is_told(provider: Sandbox, fault: str, status: str) -> None:
    """A task can run under another word, and can run for ever."""
    task_id = provider.accepted(f"cat [[fault:{fault}]]" + ("" if fault == "never" else "[[fault:takes:99]]"))
    assert provider.poll(task_id).json()["data"]["status"] == status


def test_a_cancelled_task_ends_without_images(provider: Sandbox) -> None:
    """`cancel` ends the task as cancelled, with neither result nor error."""
    data = provider.finished(provider.accepted("cat [[fault:cancel]]"))
    assert data["status"] == "cancelled"
    assert not {"result", "error"} & data.keys()


def test_no_images_completes_empty(provider: Sandbox) -> None:
    """`no_images` completes with an empty result."""
    assert provider.finished(provider.accepted("cat [[fault:no_images]]"))["result"] == {"images": []}


def test_a_lost_task_is_never_found(provider: Sandbox) -> None:
    """`lost_task` gives a good id that no poll knows."""
    assert provider.poll(provider.accepted("cat [[fault:lost_task]]")).status_code == 404


def test_a_rule_fires_for_the_nth_request(start: Callable[..., Sandbox]) -> None:
    """`nth` spoils exactly one request."""
    sandbox = start("provider")
    sandbox.rules({"on": "submit", "kind": "500", "nth": 2})
    assert [sandbox.submit().status_code for _ in range(3)] == [200, 500, 200]


def test_a_rule_fires_so_many_times_and_for_its_marker(start: Callable[..., Sandbox]) -> None:
    """`times` and `marker` narrow a rule, and the rules show how often they fired."""
    sandbox = start("provider")
    sandbox.rules({"on": "submit", "kind": "429", "arg": "3", "times": 1, "marker": "x"})
    answers = [sandbox.submit(prompt).status_code for prompt in ("cat", "[[m:x]] cat", "[[m:x]] cat")]
    assert answers == [200, 429, 200]
    [rule] = sandbox.http.get("/control/faults").json()["rules"]
    assert rule["fired"] == 1


def test_a_rule_fires_by_chance_the_same_way_for_the_same_seed(start: Callable[..., Sandbox]) -> None:
    """`probability` spoils some requests and not others, and a seed makes it repeatable."""
    runs = []
    for _ in range(2):
        sandbox = start("provider", "--seed", "7")
        sandbox.rules({"on": "submit", "kind": "503", "probability": 0.5})
        runs.append([sandbox.submit().status_code for _ in range(40)])
    assert set(runs[0]) == {200, 503}
    assert runs[0] == runs[1]


def test_rules_are_replaced_and_deleted(start: Callable[..., Sandbox]) -> None:
    """A POST replaces all rules, DELETE removes them."""
    sandbox = start("provider")
    sandbox.rules({"on": "submit", "kind": "500"})
    sandbox.rules({"on": "poll", "kind": "500"})
    task_id = sandbox.accepted()
    assert sandbox.poll(task_id).status_code == 500
    assert sandbox.http.delete("/control/faults").json() == {"rules": []}
    assert sandbox.poll(task_id).status_code == 200


def test_a_rule_can_decide_the_fate_of_a_task(start: Callable[..., Sandbox]) -> None:
    """A rule on submits can make tasks fail, as a marker can."""
    sandbox = start("provider", "--latency", "0")
    sandbox.rules({"on": "submit", "kind": "fail", "arg": "content_rejected"})
    assert sandbox.finished(sandbox.accepted())["error"]["code"] == "content_rejected"


@pytest.mark.parametrize(
    "rules",
    [
        "x",
        [1],
        [{}],
        [{"kind": "nope"}],
        [{"kind": "500", "probability": 2}],
        [{"kind": "500", "nth": -1}],
        [{"kind": "500", "prob": 1}],
        [{"kind": "500"}, {"kind": "partial"}],
    ],
    ids=repr,
)
def test_wrong_rules_change_nothing(provider: Sandbox, rules: object) -> None:
    """Rules that cannot be read are refused as a whole."""
    assert provider.http.post("/control/faults", json={"rules": rules}).status_code == 400
    assert provider.http.get("/control/faults").json() == {"rules": []}


def _keyed(sandbox: Sandbox, key: str, prompt: str = "cat") -> httpx.Response:
    body = b'{"model": "wan2.7-image", "prompt": "%b"}' % prompt.encode()
    return sandbox.post(body, bearer(KEY) | {"Idempotency-Key": key})


def test_idempotency_key_is_ignored_by_default(start: Callable[..., Sandbox]) -> None:
    """Two submits under one key are two tasks, as nothing promises otherwise for this model."""
    sandbox = start("provider")
    first, second = (_keyed(sandbox, "k").json()["data"][0]["task_id"] for _ in range(2))
    assert first != second


def test_idempotency_key_replays_when_honoured(start: Callable[..., Sandbox]) -> None:
    """With the switch on, a key is replayed (also after a lost answer), not reused, not shapeless."""
    sandbox = start("provider", "--idempotency")
    prompt = "[[m:once]] cat [[fault:lost_answer]]"
    with pytest.raises(httpx.RemoteProtocolError):
        _keyed(sandbox, "k", prompt)
    again = _keyed(sandbox, "k", prompt)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["data"][0]["task_id"] == sandbox.group("once")["task_ids"][0]
    assert sandbox.group("once")["accepted"] == 1
    reused = _keyed(sandbox, "k", "another cat")
    assert (reused.status_code, reused.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert _keyed(sandbox, "x" * 192).status_code == 400
