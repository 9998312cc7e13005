"""What a reply to a status query means: the whole table, and that no bytes can break it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.http.port import FailureCause, HttpFailure, HttpResponse, Sent
from workers.providers.classify import classify_poll
from workers.providers.generation import MAX_IMAGES, URL_CHARS
from workers.providers.outcomes import (
    BlockCause,
    Missing,
    PollBlocked,
    PollOutcome,
    PollThrottled,
    PollUnclear,
    ProviderFailed,
    ResultImage,
    Running,
    Succeeded,
)

KEY = "sk-Canary-4F1d"
EXPIRES_S = 1_763_174_708
HTML = b"<html><body><h1>404 Not Found</h1></body></html>"


def poll(
    status: int, body: object = b"", headers: dict[str, str] | None = None, asked: str = "task_1"
) -> PollOutcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = HttpResponse(status, headers or {}, raw)
    return classify_poll(reply, generation_id=asked, secret=KEY, now_s=1_763_000_000)


def generation(status: object, **more: object) -> dict[str, Any]:
    return {"code": 200, "data": {"id": "task_1", "status": status} | more}


def images(entries: object, **more: object) -> dict[str, Any]:
    return generation("completed", result={"images": entries}, **more)


def urls(outcome: PollOutcome) -> list[str]:
    assert isinstance(outcome, Succeeded)
    return [image.url for image in outcome.images]


# --- whose answer it is


@pytest.mark.parametrize("status", ["processing", "completed", "failed"])
@pytest.mark.parametrize(
    "named", [{"id": "task_2"}, {"task_id": "task_2"}, {"id": "task_2", "task_id": "task_3"}]
)
def test_an_answer_about_another_generation_is_not_believed(status: str, named: dict[str, str]) -> None:
    """A cache or a mixed-up connection in between would give an owner the images of another."""
    result = {"images": [{"url": ["https://r.test/a.png"]}]}
    body = {"code": 200, "data": {"status": status, "result": result} | named}
    assert poll(200, body) == PollUnclear("another_generation")


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"id": None},
        {"id": 17},
        {"id": "0197-uuid"},
        {"id": "TASK_1"},
        {"id": "task_2", "task_id": "task_1"},
    ],
)
def test_a_name_of_another_kind_says_nothing(named: dict[str, object]) -> None:
    """Without a name, or with one of some other numbering beside ours, it is the answer to what was asked."""
    assert poll(200, {"code": 200, "data": {"status": "processing"} | named}) == Running("processing")


# --- running


@pytest.mark.parametrize(
    "status", ["submitted", "pending", "queued", "processing", "in_progress", "warming_up", "expired", "?"]
)
def test_every_other_status_is_running(status: str) -> None:
    """Known or not: only the three ends are ends, and the word is kept."""
    assert poll(200, generation(status)) == Running(status, None)


@pytest.mark.parametrize(
    ("given_progress", "progress"),
    [
        (40, 40),
        (0, 0),
        (99.6, 100),
        ("40", 40),
        ("40%", 40),
        (-3, 0),
        (400, 100),
        (True, None),
        ("half", None),
        (None, None),
        ([], None),
        (10**400, None),
    ],
)
def test_progress(given_progress: object, progress: int | None) -> None:
    """A whole percentage from whatever stands there, or nothing."""
    assert poll(200, generation("processing", progress=given_progress)) == Running("processing", progress)


def test_a_status_word_is_cleaned() -> None:
    """An unknown word ends up in logs: printable, and without our key."""
    assert poll(200, generation(f" Odd\n{KEY} ")) == Running("odd [api key]", None)
    assert poll(200, generation("\x00")) == Running("unreadable", None)


# --- succeeded


def test_the_documented_answer() -> None:
    """The example of the gateway's page, whole."""
    body = {
        "code": 200,
        "data": {
            "id": "task_01KA",
            "status": "completed",
            "progress": 100,
            "cost": 0.15,
            "credits_cost": 1.5,
            "result": {
                "images": [{"url": ["https://upload.example/f/image/1.png"], "expires_at": EXPIRES_S}]
            },
            "created": 1763088289,
            "completed": 1763088308,
            "estimated_time": 60,
            "actual_time": 19,
        },
    }
    assert poll(200, body) == Succeeded(
        images=(ResultImage("https://upload.example/f/image/1.png", EXPIRES_S * 1000),),
        provider_cost="0.15",
        created_s=1763088289.0,
        completed_s=1763088308.0,
    )


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"url": ["a", "b", "c"]}], ["a", "b", "c"]),
        ([{"url": "a"}, {"url": "b"}], ["a", "b"]),
        ([{"url": ["a", "b"]}, {"url": "c"}], ["a", "b", "c"]),
        ([{"url": "a"}, {"url": ["a"]}], ["a", "a"]),
        (["a", {"url": "b"}], ["a", "b"]),
        ([{"url": "a"}, {"url": None}, 7, {"url": [1, None, "", "b"]}], ["a", "b"]),
        ([{"url": "https://h/i.png?Expires=1&sig=%2B+%20"}], ["https://h/i.png?Expires=1&sig=%2B+%20"]),
    ],
)
def test_both_layouts_of_urls_are_flattened(entries: object, expected: list[str]) -> None:
    """One URL or several per entry, in order, unchanged, duplicates kept; what is no URL is left out."""
    assert urls(poll(200, images(entries))) == expected


@pytest.mark.parametrize("status", ["completed", "Completed", "succeeded", "SUCCESS"])
def test_the_words_for_done(status: str) -> None:
    """The documented word in any case, and the fork's."""
    assert poll(200, generation(status)) == Succeeded()


@pytest.mark.parametrize("data", [[{"id": "t", "status": "completed"}], {"status": "completed"}])
def test_data_may_be_a_list_of_one(data: object) -> None:
    """The submit's list layout is read in a poll too; an id is not needed."""
    assert poll(200, {"code": 200, "data": data}) == Succeeded()


@pytest.mark.parametrize(
    "body",
    [
        generation("completed"),
        generation("completed", result=None),
        generation("completed", result={}),
        images(None),
        images([]),
        images([{"url": []}]),
        images([{"url": None}, {"url": ""}]),
        images([{"error": {"code": "content_rejected"}}]),
    ],
)
def test_no_images_at_all(body: dict[str, Any]) -> None:
    """Done without images is a fact, judged by the stage."""
    assert poll(200, body) == Succeeded()


@pytest.mark.parametrize(
    "body",
    [
        generation("completed", result="https://h/i.png"),
        generation("completed", result={"images": {"url": "a"}}),
        generation("completed", result={"images": "a"}),
        images([{"b64_json": "iVBOR"}]),
        images([{"image": "a"}]),
        images([[{"url": "a"}]]),
        images([7]),
        images([{"url": {"href": "a"}}]),
        images([{"url": "a\nb"}]),
        images([{"url": "\ud800"}]),
        images([{"url": "x" * (URL_CHARS + 1)}]),
        images([{"url": ["u"] * (MAX_IMAGES + 1)}]),
    ],
)
def test_a_result_that_cannot_be_read_is_not_no_images(body: dict[str, Any]) -> None:
    """Images in an unknown layout are paid for: the job is asked about again, not ended without them."""
    assert poll(200, body) == PollUnclear("unreadable_result")


@pytest.mark.parametrize(
    ("expires_at", "expected_ms"),
    [
        (EXPIRES_S, EXPIRES_S * 1000),
        (EXPIRES_S + 0.5, EXPIRES_S * 1000 + 500),
        (str(EXPIRES_S), EXPIRES_S * 1000),
        (None, None),
        (0, None),
        (86_400, None),
        (EXPIRES_S * 1000, None),
        (True, None),
        ("2025-11-14T00:00:00Z", None),
        (10**400, None),
        ([EXPIRES_S], None),
    ],
)
def test_expires_at(expires_at: object, expected_ms: int | None) -> None:
    """Unix seconds become milliseconds; what cannot be unix seconds is as good as absent."""
    outcome = poll(200, images([{"url": "a", "expires_at": expires_at}]))
    assert outcome == Succeeded(images=(ResultImage("a", expected_ms),))


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (0.15, "0.15"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-05, "0.00001"),
        (3, "3"),
        (0, "0"),
        ("0.150", "0.150"),
        ("free", None),
        (None, None),
        (True, None),
        (1e300, None),
        (1e-300, None),
        (10**400, None),
        ({}, None),
    ],
)
def test_the_cost_is_kept_as_decimal_text(cost: object, text: str | None) -> None:
    """Evidence is kept as it was given, and nothing that is not an amount."""
    assert poll(200, generation("completed", cost=cost)) == Succeeded(provider_cost=text)


def test_numbers_that_json_does_not_have() -> None:
    """NaN and Infinity, which Python's parser takes, are no numbers."""
    body = b'{"data":{"status":"completed","cost":NaN,"created":Infinity,"completed":-Infinity}}'
    assert poll(200, body) == Succeeded()


# --- failed


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"code": 500, "message": "It broke", "type": "task_failed"}, "task_failed", "It broke"),
        ({"code": "content_rejected", "message": "No", "type": "task_failed"}, "content_rejected", "No"),
        ({"code": "", "message": f"with {KEY}", "type": ""}, "failed", "with [api key]"),
        ({"code": 500, "message": "It broke"}, "failed", "It broke"),
        ({"code": [], "message": {}, "type": 3}, "failed", ""),
        ("It\nbroke", "failed", "It broke"),
        (None, "failed", ""),
        (7, "failed", ""),
    ],
)
def test_error_shapes_of_a_failed_generation(error: object, code: str, message: str) -> None:
    """A failure arrives in HTTP 200, its error as an object or a string."""
    assert poll(200, generation("failed", error=error)) == ProviderFailed(code, message)


def test_the_forks_word_for_a_reason() -> None:
    """`fail_reason` is read where there is no error."""
    body = generation("FAILURE", fail_reason="upstream said no")
    assert poll(200, body) == ProviderFailed("failed", "upstream said no")


@pytest.mark.parametrize("status", ["cancelled", "canceled", "Cancelled"])
def test_cancelled_is_a_failure_of_its_own_code(status: str) -> None:
    """Both spellings; the code does not depend on the error."""
    body = generation(status, error={"code": "x", "message": "by admin"})
    assert poll(200, body) == ProviderFailed("cancelled", "by admin")


# --- missing


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            404,
            {
                "error": {
                    "code": 404,
                    "message": "task does not exist or has expired",
                    "type": "not_found_error",
                }
            },
        ),
        (404, {"error": {"code": "", "message": "", "type": ""}}),
        (404, {"error": "task not found"}),
        (410, {"error": {"code": 410, "message": "Gone"}}),
        (
            400,
            {"error": {"code": 400, "message": "Invalid task id", "type": "invalid_request_error"}},
        ),
        (400, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
        (400, {"error": {"code": "", "message": "The task has expired"}}),
        (200, {"code": 404, "message": "Task not found"}),
        (200, {"code": "task_not_exist", "message": "task_not_exist"}),
        (200, {"error": {"code": 400, "message": "invalid task_id"}}),
    ],
)
def test_an_unknown_generation(status: int, body: object) -> None:
    """404, or the 400 that some pages document, from the API itself."""
    assert isinstance(poll(status, body), Missing)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, HTML),
        (404, b""),
        (404, {"detail": "Not Found"}),
        (404, {"error": {"code": "", "message": "Invalid URL (GET /tasks/task_1)"}}),
        (405, HTML),
        (400, {"error": {"code": 400, "message": "Invalid request parameters"}}),
        (400, {"error": {"code": "get_channel_failed", "message": "Please wait and try again later"}}),
        (500, {"error": {"code": 500, "message": "task not found"}}),
    ],
)
def test_who_cannot_know_is_not_believed(status: int, body: object) -> None:
    """A page of something in front of the API, or an error about something else, says nothing of the job."""
    assert isinstance(poll(status, body), PollUnclear)


# --- the account, the rate, the rest


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, b"", BlockCause.INVALID_API_KEY),
        (402, HTML, BlockCause.PAYMENT_REQUIRED),
        (403, {"error": {"code": 403}}, BlockCause.FORBIDDEN),
        (429, {"error": {"code": "insufficient_quota"}}, BlockCause.BILLING),
        (400, {"code": "Arrearage", "message": "No"}, BlockCause.BILLING),
        (200, {"code": 401, "message": "No"}, BlockCause.INVALID_API_KEY),
    ],
)
def test_the_account_may_not_ask(status: int, body: object, cause: BlockCause) -> None:
    """The same answers that block submits."""
    assert poll(status, body) == PollBlocked(cause)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (429, b"", "http_429"),
        (429, {"error": {"code": "Throttling.RateQuota"}}, "Throttling.RateQuota"),
        (200, {"code": 429}, "http_429"),
    ],
)
def test_polls_too_fast(status: int, body: object, cause: str) -> None:
    """With the wait that the provider asks for."""
    assert poll(status, body, {"retry-after": "4"}) == PollThrottled(cause, 4.0)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (200, b"", "unreadable_body"),
        (200, HTML, "unreadable_body"),
        pytest.param(200, b"[" * 100_000, "unreadable_body", id="deep lists"),
        (200, b"null", "no_status"),
        (200, {"code": 200, "data": None}, "no_status"),
        (200, {"code": 200, "data": []}, "no_status"),
        (200, {"code": 200, "data": [{"status": "completed"}] * 2}, "no_status"),
        (200, generation(7), "no_status"),
        (200, generation("  "), "no_status"),
        (200, {"status": "failed", "message": "no envelope"}, "no_status"),
        (200, {"code": 500, "message": "Oops"}, "http_500"),
        (200, {"code": "odd", "message": "Oops"}, "odd"),
        (204, b"", "unreadable_body"),
        (301, HTML, "http_301"),
        (302, HTML, "http_302"),
        (408, b"", "http_408"),
        (422, b"", "http_422"),
        (500, {"error": {"code": 500, "message": "invalid", "type": "server_error"}}, "http_500"),
        (500, {"error": {"code": "build_request_failed"}}, "build_request_failed"),
        (502, HTML, "http_502"),
        (503, {"error": {"code": "get_channel_failed"}}, "get_channel_failed"),
        (504, b"", "http_504"),
        (999, b"", "http_999"),
    ],
)
def test_everything_else_is_asked_again(status: int, body: object, cause: str) -> None:
    """A poll is free: what is not clear is no end."""
    assert poll(status, body) == PollUnclear(cause)


@pytest.mark.parametrize("sent", list(Sent))
def test_a_failed_exchange_is_asked_again(sent: Sent) -> None:
    """Whether a byte was sent does not matter here."""
    failure = HttpFailure(sent, FailureCause.TIMEOUT, "detail")
    assert classify_poll(failure, generation_id="task_1", secret=KEY, now_s=0) == PollUnclear("timeout")


# --- nothing breaks it

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(KEY)
KEYS = st.sampled_from(["code", "message", "error", "type", "url", "images", "expires_at", "b64"])
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner))
GENERATIONS = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed", "cancelled", "processing"]) | SCALARS},
    optional=dict.fromkeys(["progress", "cost", "result", "error", "created", "completed"], DOCUMENTS),
)
ENVELOPES = st.fixed_dictionaries({"data": GENERATIONS | DOCUMENTS}, optional={"code": SCALARS})
BODIES = st.binary(max_size=200) | (ENVELOPES | DOCUMENTS).map(lambda document: json.dumps(document).encode())
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text(max_size=40))


@given(status=st.just(200) | st.integers(0, 700), headers=HEADERS, body=BODIES)
def test_no_answer_breaks_the_classifier(status: int, headers: dict[str, str], body: bytes) -> None:
    """Arbitrary bytes, documents and headers at any status give an outcome; our key is in no text of it."""
    outcome = poll(status, body, headers)
    if isinstance(outcome, Succeeded):
        assert all(image.url for image in outcome.images)
    else:
        assert KEY.lower() not in repr(outcome).lower()
