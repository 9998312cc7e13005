"""What a reply to the billed POST means: the whole table, and that no bytes can break it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.http.port import FailureCause, HttpFailure, HttpResponse, Sent
from workers.providers.classify import NOT_EXECUTED_CODES, classify_submit
from workers.providers.outcomes import (
    MESSAGE_CHARS,
    Accepted,
    Ambiguous,
    BlockCause,
    LaneBlocked,
    NotExecuted,
    NotSent,
    Refused,
    SubmitOutcome,
    Throttled,
    Unsendable,
)

ID = "task_01K8SGYNNNVBQTXNR4MM964S7K"
KEY = "sk-canary-4f1d"
HTML = b"<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>"


def submit(status: int, body: object = b"", headers: dict[str, str] | None = None) -> SubmitOutcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_submit(HttpResponse(status, headers or {}, raw), secret=KEY, now_s=1_763_000_000)


def object_error(code: object, message: object = "No", kind: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": kind}}


# --- accepted


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"code": "success", "message": "", "data": [{"task_id": ID, "status": "processing"}]}),
        (200, {"code": 200, "data": [{"status": "submitted", "task_id": ID}]}),
        (200, {"code": 200, "data": {"id": ID, "status": "pending", "task_info": {"can_cancel": True}}}),
        (202, {"code": 202, "data": {"id": ID, "object": "generation.task"}, "request_id": "req_1"}),
        (200, {"code": "200", "data": [{"id": ID}]}),
        (201, {"data": {"task_id": ID}}),
    ],
)
def test_every_submit_shape_gives_the_id(status: int, body: object) -> None:
    """All shapes of the envelope that are in circulation are accepted."""
    assert submit(status, body) == Accepted(ID)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([{"task_id": "a", "id": "b"}], "a"),
        ([{"id": "b"}, {"task_id": "b"}, None], "b"),
        ({"task_id": "d", "id": "e"}, "d"),
        ({"task_id": None, "id": "e"}, "e"),
        ([{"task_id": " f "}], "f"),
        ([{"task_id": 123456}], "123456"),
    ],
)
def test_the_order_in_which_ids_are_looked_for(data: object, expected: str) -> None:
    """`task_id` comes before `id`; a number is an id too."""
    assert submit(200, {"code": 200, "data": data}) == Accepted(expected)


def test_several_generations_are_ambiguous() -> None:
    """A job has one: the others would be billed and belong to nobody, so all are named to an operator."""
    data = [{"task_id": ID}, {"id": "task_2"}, {"task_id": ID}]
    assert submit(200, {"code": 200, "data": data}) == Ambiguous("several_generations", f"{ID} task_2")
    many = [{"task_id": f"task_{nr}" + "x" * 240} for nr in range(1000)]
    outcome = submit(200, {"code": 200, "data": many})
    assert isinstance(outcome, Ambiguous)
    assert len(outcome.generation_id) < 5000


@pytest.mark.parametrize(
    "envelope",
    [
        {"code": 500},
        {"code": "get_channel_failed"},
        {"code": 0},
        {"error": {"code": 401, "message": "?"}},
        {"code": [], "message": {}},
    ],
)
def test_an_id_wins_over_an_odd_code(envelope: dict[str, Any]) -> None:
    """With an id in a 2xx there is a generation, whatever else is said: polls will tell."""
    assert submit(200, envelope | {"data": [{"task_id": ID}]}) == Accepted(ID)


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"code":200,"data":{"id":"%s"}}' % ID.encode(),
        b'{"message":"\xff\xfe","data":{"id":"%s"}}' % ID.encode(),
        b'{"message":"two\nlines\t","data":{"id":"%s"}}' % ID.encode(),
        b'{"message":"\\ud800","data":{"id":"%s"}}' % ID.encode(),
        b'{"data":null,"data":{"id":"%s"}}' % ID.encode(),
    ],
)
def test_slightly_broken_json_does_not_hide_a_paid_id(body: bytes) -> None:
    """A byte order mark, broken UTF-8, raw control characters, duplicate keys: the id is still read."""
    assert submit(200, body) == Accepted(ID)


@pytest.mark.parametrize(
    "task_id",
    ["", "   ", None, True, 0, -1, 1.5, 10**30, [], {}, "a\nb", "\ud800", "a\ufffd", "..", ".", "x" * 256],
)
def test_what_is_not_an_id(task_id: object) -> None:
    """What cannot be asked for again is not an id: the outcome is not known."""
    assert submit(200, {"code": 200, "data": [{"task_id": task_id}]}) == Ambiguous("no_generation_id")


# --- no whole answer


@pytest.mark.parametrize("cause", list(FailureCause))
def test_only_the_proof_of_the_port_counts(cause: FailureCause) -> None:
    """Whatever a failure is called, what may have been sent is ambiguous, and only what was not is not."""
    unsent = Unsendable("detail") if cause is FailureCause.INVALID_REQUEST else NotSent(cause.value)
    assert submit_failure(Sent.NOT_SENT, cause) == unsent
    assert submit_failure(Sent.MAYBE_SENT, cause) == Ambiguous(cause.value)


def submit_failure(sent: Sent, cause: FailureCause) -> SubmitOutcome:
    return classify_submit(HttpFailure(sent, cause, "detail"), secret=KEY, now_s=0)


# --- not executed


@pytest.mark.parametrize("code", sorted(NOT_EXECUTED_CODES))
@pytest.mark.parametrize("status", [200, 400, 422, 429, 500, 502, 503, 504])
def test_a_not_executed_code_counts_at_any_status(status: int, code: str) -> None:
    """The gateway says "not executed" by code; the status with it is not to be relied on."""
    assert submit(status, object_error(code), {"retry-after": "7"}) == NotExecuted(code, 7.0)
    assert submit(status, {"code": code, "message": "Wait"}) == NotExecuted(code, None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, object_error(500, "Internal server error", "server_error")),
        (500, object_error("do_request_failed", "do request failed")),
        (500, object_error("", "invalid character '<' looking for beginning of value", "new_api_error")),
        (500, object_error("", "Panic: invalid memory address or nil pointer dereference")),
        (500, object_error("", "invalid response of upstream")),
        (500, object_error("insert_task_failed", "invalid connection")),
        (500, object_error("fail_to_fetch_task", "Invalid answer")),
        (500, object_error("invalid_response", "Invalid task id")),
        (500, {"code": "InternalError.Algo", "message": "Invalid state"}),
        (500, object_error("", "Invalid connection", "new_api_error")),
        (500, object_error(500, 'ERROR: invalid byte sequence for encoding "UTF8": 0x00')),
        (500, object_error(500, "ERROR: invalid input syntax for type json")),
        (500, object_error("", "invalid transaction")),
        (500, object_error("", "http: invalid Read on closed Body")),
        (500, b"<html>invalid</html>"),
        (500, b""),
        (501, b""),
        (502, HTML),
        (502, object_error(502, "invalid size", "bad_gateway")),
        (503, object_error(503, "Service unavailable", "server_error")),
        (503, b"upstream connect error: get_channel_failed"),
        (503, HTML),
        (504, b"timeout"),
        (520, b"error code: 520"),
        (599, b""),
    ],
)
def test_every_other_5xx_is_ambiguous(status: int, body: object) -> None:
    """A server error says nothing about what was done before it: 503 included."""
    assert isinstance(submit(status, body), Ambiguous)


@pytest.mark.parametrize(
    ("status", "cause"), [(500, "http_500"), (502, "http_502"), (503, "http_503"), (408, "http_408")]
)
def test_the_cause_of_a_bare_status_names_it(status: int, cause: str) -> None:
    """Operators see which status it was."""
    assert submit(status) == Ambiguous(cause)


# --- ambiguous below 500, and strange


@pytest.mark.parametrize("status", [0, 100, 199, 300, 302, 303, 304, 408, 409, 499, 600, 999])
def test_statuses_that_prove_nothing(status: int) -> None:
    """Timeouts, conflicts, redirects after the fact, and what is not a status at all."""
    assert isinstance(submit(status, b""), Ambiguous)


@pytest.mark.parametrize(
    "code", ["idempotency_in_progress", "idempotency_key_reused", "idempotency_result_indeterminate"]
)
@pytest.mark.parametrize("status", [200, 400, 409])
def test_a_clash_of_idempotency_keys_is_ambiguous(status: int, code: str) -> None:
    """The other POST with our key is ours too: its outcome is not known here, and nobody re-sends."""
    assert submit(status, object_error(code), {"retry-after": "3"}) == Ambiguous(code)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "unreadable_body"),
        (HTML, "unreadable_body"),
        (b'{"code":"succ\xff\xfe\x00 garbage', "unreadable_body"),
        pytest.param(b"[" * 200_000, "unreadable_body", id="deep lists"),
        pytest.param(b'{"a":' * 100_000, "unreadable_body", id="deep objects"),
        pytest.param(b'{"code":' + b"9" * 5000 + b"}", "unreadable_body", id="huge number"),
        (b"null", "no_generation_id"),
        (b"[]", "no_generation_id"),
        (b'"OK"', "no_generation_id"),
        (b"NaN", "no_generation_id"),
        (b"{}", "no_generation_id"),
        (b'{"code":"success","data":[]}', "no_generation_id"),
        (b'{"code":200,"data":[null]}', "no_generation_id"),
        (b'{"code":200,"data":[[{"task_id":"x"}]]}', "no_generation_id"),
        (b'{"code":200,"data":"task_1"}', "no_generation_id"),
        (b'{"code":true,"data":7}', "no_generation_id"),
        (b'{"code":{"a":1},"error":[1]}', "no_generation_id"),
        (b'{"error":"something is wrong"}', "no_generation_id"),
        (b'{"code":20001,"message":"?"}', "error_in_2xx"),
        (b'{"code":302,"message":"?"}', "error_in_2xx"),
        (b'{"code":"new_thing","message":"?"}', "new_thing"),
        (b'{"code":500,"message":"Oops"}', "http_500"),
        (b'{"code":503,"error":{"code":"","type":"apimart_error","message":"Busy"}}', "http_503"),
    ],
)
def test_a_2xx_without_an_id_is_ambiguous(body: bytes, cause: str) -> None:
    """Nothing in it proves that the submit was not accepted and billed."""
    assert submit(200, body) == Ambiguous(cause)


@pytest.mark.parametrize("status", [302, 400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("data", [[{"task_id": ID}], {"task_id": ID}, {"id": ID}])
def test_an_error_that_names_a_generation_is_ambiguous(status: int, data: object) -> None:
    """Whatever went wrong went wrong after it was made; sent again it would be paid twice."""
    body = object_error("get_channel_failed", "invalid size") | {"data": data}
    assert submit(status, body) == Ambiguous("error_with_generation", ID)


# --- the account


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, object_error(401, kind="authentication_error"), BlockCause.INVALID_API_KEY),
        (401, object_error("", kind="apimart_error"), BlockCause.INVALID_API_KEY),
        (401, HTML, BlockCause.INVALID_API_KEY),
        (401, b"", BlockCause.INVALID_API_KEY),
        (400, {"code": "InvalidApiKey", "message": "No API-key provided."}, BlockCause.INVALID_API_KEY),
        (402, object_error(402, kind="payment_required"), BlockCause.PAYMENT_REQUIRED),
        (403, object_error(403, kind="permission_error"), BlockCause.FORBIDDEN),
        (403, HTML, BlockCause.FORBIDDEN),
        (404, {"code": "WorkSpaceNotFound", "message": "No"}, BlockCause.FORBIDDEN),
        (429, object_error("PrepaidBillOverdue"), BlockCause.BILLING),
        (429, object_error("PostpaidBillOverdue"), BlockCause.BILLING),
        (429, object_error("CommodityNotPurchased"), BlockCause.BILLING),
        (429, {"code": "Throttling.AllocationQuota", "message": "No"}, BlockCause.BILLING),
        (429, object_error(429, kind="insufficient_quota"), BlockCause.BILLING),
        (400, {"code": "Arrearage", "message": "No"}, BlockCause.BILLING),
        (403, object_error("insufficient_user_quota"), BlockCause.BILLING),
        (500, object_error("Arrearage"), BlockCause.BILLING),
        (200, {"code": "Arrearage", "message": "No"}, BlockCause.BILLING),
        (200, {"code": 401, "message": "No"}, BlockCause.INVALID_API_KEY),
        (200, {"code": "401", "message": "No"}, BlockCause.INVALID_API_KEY),
        (200, object_error("", kind="authentication_error"), BlockCause.INVALID_API_KEY),
        (200, {"code": 402, "error": {"code": "", "type": "x"}}, BlockCause.PAYMENT_REQUIRED),
        (200, object_error(403), BlockCause.FORBIDDEN),
        (200, {"code": "Model.AccessDenied", "message": "No"}, BlockCause.FORBIDDEN),
    ],
)
def test_what_is_wrong_with_the_account_blocks_the_lane(status: int, body: object, cause: BlockCause) -> None:
    """A wrong key, an empty purse or a missing right is no fault of the job."""
    outcome = submit(status, body)
    assert isinstance(outcome, LaneBlocked)
    assert outcome.cause is cause


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, HTML),
        (404, b""),
        (404, b"404 page not found"),
        (404, {"detail": "Not Found"}),
        (404, {"message": "no Route matched with those values"}),
        (404, {"status": 404, "error": "Not Found", "path": "/images/generations"}),
        (404, {"code": 404, "message": "Not Found"}),
        (404, object_error("", "Invalid URL (POST /images/generations)", "invalid_request_error")),
        (405, HTML),
        (405, {"detail": "Method Not Allowed"}),
        (400, b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>"),
        (407, HTML),
        (421, b""),
        (501, object_error("api_not_implemented", "API not implemented", "new_api_error")),
    ],
)
def test_a_wrong_endpoint_blocks_the_lane(status: int, body: object) -> None:
    """A base_url that leads elsewhere must not refuse a million jobs one by one."""
    outcome = submit(status, body)
    assert isinstance(outcome, LaneBlocked)
    assert outcome.cause is BlockCause.WRONG_ENDPOINT


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_of_the_resource_blocks_the_lane(status: int) -> None:
    """The provider lives elsewhere; the detail says where, without the query."""
    headers = {"location": "https://api.example/v1/images/generations?token=1"}
    expected = LaneBlocked(BlockCause.REDIRECTED, "https://api.example/v1/images/generations")
    assert submit(status, HTML, headers) == expected


# --- too fast


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (429, b"", "http_429"),
        (429, HTML, "http_429"),
        (429, object_error(429, kind="rate_limit_error"), "rate_limit_error"),
        (429, object_error("Throttling.RateQuota"), "Throttling.RateQuota"),
        (429, {"code": "Throttling", "message": "No"}, "Throttling"),
        (400, {"code": "Throttling.BurstRate", "message": "No"}, "Throttling.BurstRate"),
        (400, {"code": "LimitRequests", "message": "No"}, "LimitRequests"),
        (503, {"code": "Throttling", "message": "No"}, "Throttling"),
        (200, {"code": 429, "message": "No"}, "http_429"),
        (200, {"code": "rate_limit_exceeded", "message": "No"}, "rate_limit_exceeded"),
    ],
)
def test_throttling(status: int, body: object, cause: str) -> None:
    """429 and throttling codes close the lane for a while, whatever the answer looks like."""
    assert submit(status, body) == Throttled(cause, None)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "9" * 400}, 1e9),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "١٢"}, None),
        ({"retry-after": ""}, None),
        (
            {"retry-after": "Thu, 13 Nov 2025 02:14:00 GMT", "date": "Thu, 13 Nov 2025 02:13:20 GMT"},
            40.0,
        ),
        (
            {"retry-after": "Fri, 14 Nov 2025 00:00:00 GMT", "date": "Fri, 14 Nov 2025 00:01:00 GMT"},
            0.0,
        ),
        ({"retry-after": "Thursday, 13-Nov-25 02:13:30 GMT"}, 10.0),  # now_s is 02:13:20
        ({"retry-after": "Thu Nov 13 02:13:30 2025"}, 10.0),
        ({"retry-after": "Thu, 13 Nov 2025 02:13:25 GMT", "date": "garbage"}, 5.0),
        ({"retry-after": "Thu, 13 Nov 2025 25:61:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], wait_s: float | None) -> None:
    """Seconds or a date, counted from the answer's own Date; only without one from our clock."""
    assert submit(429, b"", headers) == Throttled("http_429", wait_s)


# --- refused


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, object_error(400, "No", "invalid_request_error"), "invalid_request_error"),
        (400, object_error("", kind="apimart_error"), "http_400"),
        (400, object_error("content_rejected"), "content_rejected"),
        (400, {"code": "InvalidParameter", "message": "No"}, "InvalidParameter"),
        (400, {"error": "bad size"}, "http_400"),
        (400, b'"bad size"', "http_400"),
        (400, HTML, "http_400"),
        (403, object_error("content_policy_violation"), "content_policy_violation"),
        (404, {"code": "ModelNotFound", "message": "No"}, "ModelNotFound"),
        (404, {"code": "model_not_found"}, "model_not_found"),
        (404, object_error(404, kind="not_found_error"), "not_found_error"),
        (405, object_error(405), "http_405"),
        (410, b"", "http_410"),
        (413, HTML, "http_413"),
        (415, b"", "http_415"),
        (418, b"", "http_418"),
        (422, object_error("bad_response_status_code"), "bad_response_status_code"),
        (451, b"", "http_451"),
        (500, object_error("build_request_failed", "upstream: cannot build"), "build_request_failed"),
        (500, object_error(500, "build_request_failed: invalid size: 3:5, allowed: 1:1"), "http_500"),
        (500, object_error("", "Invalid size", "apimart_error"), "http_500"),
        (500, {"error": "Invalid request parameters"}, "http_500"),
        (500, object_error("invalid_request", "Invalid size"), "invalid_request"),
        (200, {"code": 400, "message": "No"}, "http_400"),
        (200, object_error("", kind="invalid_request_error"), "invalid_request_error"),
        (200, {"code": "DataInspectionFailed", "message": "No"}, "DataInspectionFailed"),
        (200, {"code": 404, "message": "No such model"}, "http_404"),
        (200, {"code": 500, "message": "invalid size"}, "http_500"),
    ],
)
def test_refusals(status: int, body: object, code: str) -> None:
    """The request itself is wrong, and stays wrong: this job alone fails, free."""
    outcome = submit(status, body)
    assert isinstance(outcome, Refused)
    assert outcome.code == code


# --- every code of the published tables, where only the code tells


@pytest.mark.parametrize(
    "code",
    [
        "DataInspectionFailed",
        "InvalidParameter.DataInspection",
        "IPInfringementSuspect",
        "content_rejected",
        "content_policy_violation",
        "sensitive_words_detected",
    ],
)
@pytest.mark.parametrize("status", [200, 403])
def test_content_codes_never_block_a_lane(status: int, code: str) -> None:
    """One prompt that is not liked must not stop the others, whatever the status."""
    assert submit(status, {"code": code, "message": "No"}) == Refused(code, "No")


@pytest.mark.parametrize(
    "code",
    [
        "Throttling",
        "Throttling.RateQuota",
        "Throttling.BurstRate",
        "LimitRequests",
        "rate_limit_error",
        "rate_limit_exceeded",
    ],
)
def test_throttling_codes(code: str) -> None:
    """The rate, even if the sender calls it a bad request."""
    assert submit(400, object_error(code)) == Throttled(code)


@pytest.mark.parametrize(
    "code",
    [
        "PrepaidBillOverdue",
        "PostpaidBillOverdue",
        "CommodityNotPurchased",
        "Throttling.AllocationQuota",
        "AllocationQuota.FreeTierOnly",
        "Arrearage",
        "insufficient_quota",
        "insufficient_user_quota",
    ],
)
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_billing_codes(status: int, code: str) -> None:
    """Waiting does not help, and no other job would fare better."""
    assert submit(status, object_error(code)) == LaneBlocked(BlockCause.BILLING, "No")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("InvalidApiKey", BlockCause.INVALID_API_KEY),
        ("invalid_api_key", BlockCause.INVALID_API_KEY),
        ("authentication_error", BlockCause.INVALID_API_KEY),
        ("payment_required", BlockCause.PAYMENT_REQUIRED),
        ("permission_error", BlockCause.FORBIDDEN),
        ("AccessDenied", BlockCause.FORBIDDEN),
        ("Workspace.AccessDenied", BlockCause.FORBIDDEN),
        ("Model.AccessDenied", BlockCause.FORBIDDEN),
        ("WorkSpaceNotFound", BlockCause.FORBIDDEN),
    ],
)
def test_codes_of_the_account_in_a_200(code: str, cause: BlockCause) -> None:
    """The code stands for the status that the sender did not set."""
    assert submit(200, {"code": code, "message": "No"}) == LaneBlocked(cause, "No")


@pytest.mark.parametrize(
    "code",
    [
        "InvalidParameter",
        "InvalidURL",
        "ModelNotFound",
        "model_not_found",
        "invalid_request_error",
        "not_found_error",
    ],
)
def test_codes_of_the_request_in_a_200(code: str) -> None:
    """The same for a request that is wrong."""
    assert submit(200, {"code": code, "message": "No"}) == Refused(code, "No")


# --- the provider's words


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (object_error(400, f"key {KEY} may not"), "key [api key] may not"),
        (object_error(400, "two\r\nlines\x00 and\u202e more"), "two lines and more"),
        (object_error(400, "尺寸无效"), "尺寸无效"),
        (object_error(400, "\ud800x"), "x"),
        (object_error(400, ["no", "text"]), ""),
        ({"code": "InvalidParameter", "message": "Field required"}, "Field required"),
        ({"error": {"code": 400}, "message": "on top"}, "on top"),
        (b"plain\ntext", "plain text"),
        (HTML, "502 Bad gateway"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[1]", ""),
    ],
)
def test_messages_are_cleaned(body: object, message: str) -> None:
    """One printable line, without markup and without our key."""
    outcome = submit(400, body)
    assert isinstance(outcome, Refused)
    assert outcome.message == message


@pytest.mark.parametrize("padding", [0, 290, 299, 4090, 4096])
@pytest.mark.parametrize("filler", ["x", " "])
def test_no_cut_leaves_a_part_of_the_key(padding: int, filler: str) -> None:
    """The key is scrubbed before a long message is cut, and the message is cut."""
    outcome = submit(400, object_error(400, filler * padding + KEY + "y" * 500))
    assert isinstance(outcome, Refused)
    assert len(outcome.message) <= MESSAGE_CHARS
    assert KEY[:6] not in outcome.message


def test_a_key_given_as_a_code_is_scrubbed() -> None:
    """An echo of the key in a field that is kept as a cause is no exception."""
    assert submit(500, object_error(KEY)) == Ambiguous("[api key]")


def test_a_blocked_lane_says_why_without_the_key() -> None:
    """Operators read the provider's reason."""
    body = object_error("", f"invalid API key {KEY} (request id: 2026)", "apimart_error")
    expected = LaneBlocked(BlockCause.INVALID_API_KEY, "invalid API key [api key] (request id: 2026)")
    assert submit(401, body) == expected


# --- nothing breaks it

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(KEY)
KEYS = st.sampled_from(["code", "message", "error", "data", "task_id", "id", "type", "status", "detail"])
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner))
BODIES = st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode())
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "date", "location"]), st.text(max_size=40))


@given(status=st.integers(0, 700), headers=HEADERS, body=BODIES)
@example(status=429, headers={"retry-after": "Thu, 01 Jan 0001 00:00:00 +2359"}, body=b"")
@example(status=429, headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, body=b"")
def test_no_answer_breaks_the_classifier(status: int, headers: dict[str, str], body: bytes) -> None:
    """Arbitrary bytes, documents and headers at any status give an outcome, and never our key."""
    outcome = submit(status, body, headers)
    assert isinstance(outcome, Accepted | Ambiguous | NotExecuted | LaneBlocked | Refused | Throttled)
    if not isinstance(outcome, Accepted):
        assert KEY not in repr(outcome)


@given(status=st.integers(200, 299) | st.integers(500, 599), body=st.binary(max_size=200))
@example(status=200, body=b'{"error":')
def test_bytes_that_are_no_json_never_free_a_submit(status: int, body: bytes) -> None:
    """Without a document nothing proves that the submit was not accepted, save the words build_request_failed."""
    outcome = submit(status, b"\x00" + body.replace(b"build_request_failed", b""))
    assert isinstance(outcome, Ambiguous)
