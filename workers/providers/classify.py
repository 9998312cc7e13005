"""From an HTTP answer to what it means: the rules, pure, for submits and polls.

A submit is billed, so everything hangs on one question: can it have been accepted? The rules are asked in this order:

    no answer              not sent only if the port has proved it (unsendable if it took no such request at all);
                           else ambiguous
    2xx with an id         accepted, whatever else the answer says
    an id at any other     ambiguous: what went wrong went wrong after it was made
    several ids            ambiguous: a job has one generation, and an operator decides about the others
    2xx without            judged by the code inside, as if it were the status; without a telling one ambiguous
    a code that tells      not executed, billing, throttling, content: before the status, since the gateway dresses
                           them up (capacity as 400 or 500, an empty purse as 429)
    the status             401 402 403 the account; 429 throttled; 400 413 415 422 and other 4xx refused
    everything else        ambiguous: 5xx (503 too), 408, 409, 499, redirects that may follow an execution

Decisions that are ours:

- A 503 is ambiguous without a not-executed code: a proxy says 503 also after it has passed the request on.
- 500 is a refusal if it says `build_request_failed` or "invalid" [observed: a bad size as 500]. Not under a code that
  names another step, such as `insert_task_failed`, which comes after the generation was made [seen in code: forks of
  new-api], nor in the words of a server that could not read *its* upstream's answer or write its database ("invalid
  character '<' looking for ...", "invalid connection"): that request was passed on.
- Any 409 is ambiguous, and so is a clash of idempotency keys. `idempotency_in_progress` means that a copy of this
  very POST is under way (our key is new for each), and nobody re-sends.
- 301, 307, 308 block the lane: they say that the resource is elsewhere, not that something was done. 302 and 303 are
  also the classic answer *after* a POST was executed: ambiguous; the lane's breaker bounds the harm.
- 404 and 405 block the lane unless the body is an API's own error: a wrong base_url must not burn a million jobs. The
  gateway's own router says `Invalid URL (POST /path)` in such an error, or 501 `api_not_implemented`
  [seen in code: one-api, new-api].

Polls are free to repeat: what is not clear is asked again. So is what speaks of another generation than was asked for:
believed, it would give a job the images of another.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from workers.http.port import FailureCause, HttpFailure, HttpResponse, Sent
from workers.providers.answer import (
    UNREADABLE,
    ProviderError,
    clean,
    read_error,
    read_json,
    retry_after_s,
)
from workers.providers.generation import (
    UnreadableResult,
    generation_outcome,
    names_another,
    polled_generation,
    submitted_ids,
)
from workers.providers.outcomes import (
    ANOTHER_GENERATION,
    Accepted,
    Ambiguous,
    BlockCause,
    LaneBlocked,
    Missing,
    NotExecuted,
    NotSent,
    PollBlocked,
    PollThrottled,
    PollUnclear,
    Refused,
    Throttled,
    Unsendable,
)

if TYPE_CHECKING:
    from workers.providers.outcomes import PollOutcome, SubmitOutcome

Reply = HttpResponse | HttpFailure

# Codes are compared in lower case. [gateway page], [observed] and [DashScope table] are the sources.
NOT_EXECUTED_CODES: Final = frozenset({"get_channel_failed", "idempotency_unavailable"})
IDEMPOTENCY_CODES: Final = frozenset(
    {"idempotency_in_progress", "idempotency_key_reused", "idempotency_result_indeterminate"}
)
BILLING_CODES: Final = frozenset(
    {
        "prepaidbilloverdue",
        "postpaidbilloverdue",
        "commoditynotpurchased",
        "throttling.allocationquota",
        "allocationquota.freetieronly",
        "arrearage",
        "insufficient_quota",
        "insufficient_user_quota",
    }
)
THROTTLING_CODES: Final = frozenset(
    {
        "throttling",
        "throttling.ratequota",
        "throttling.burstrate",
        "limitrequests",
        "rate_limit_error",
        "rate_limit_exceeded",
    }
)
CONTENT_CODES: Final = frozenset(
    {
        "content_rejected",
        "content_policy_violation",
        "sensitive_words_detected",
        "datainspectionfailed",
        "invalidparameter.datainspection",
        "ipinfringementsuspect",
    }
)
MODEL_CODES: Final = frozenset({"modelnotfound", "model_not_found"})
NO_ROUTE_CODES: Final = frozenset({"api_not_implemented"})
# What a code means in a 2xx, for the status that the sender did not set.
_STATUS_OF_CODE: Final = {
    "invalid_request_error": 400,
    "invalidparameter": 400,
    "invalidurl": 400,
    "modelnotfound": 400,
    "model_not_found": 400,
    "permission_error": 403,
    "accessdenied": 403,
    "model.accessdenied": 403,
    "workspace.accessdenied": 403,
    "not_found_error": 404,
    "task_not_exist": 404,
}
# These speak of the account whatever the status is, below 500.
_BLOCKED_BY_CODE: Final = {
    "invalidapikey": BlockCause.INVALID_API_KEY,
    "invalid_api_key": BlockCause.INVALID_API_KEY,
    "authentication_error": BlockCause.INVALID_API_KEY,
    "payment_required": BlockCause.PAYMENT_REQUIRED,
    "workspacenotfound": BlockCause.FORBIDDEN,
}
_BLOCKED_BY_STATUS: Final = {
    301: BlockCause.REDIRECTED,
    307: BlockCause.REDIRECTED,
    308: BlockCause.REDIRECTED,
    401: BlockCause.INVALID_API_KEY,
    402: BlockCause.PAYMENT_REQUIRED,
    403: BlockCause.FORBIDDEN,
    407: BlockCause.WRONG_ENDPOINT,  # a proxy in between wants a login
    421: BlockCause.WRONG_ENDPOINT,  # misdirected: this server does not serve that host
}
_BAD_REQUEST, _TOO_MANY, _SERVER_ERROR, _LAST_STATUS = 400, 429, 500, 599
_SUCCESSES: Final = range(200, 300)
_AMBIGUOUS_STATUSES: Final = frozenset({408, 409, 499})  # 499: an inner hop gave up waiting
_NO_ROUTE_STATUSES: Final = frozenset({400, 404, 405})
_GONE_STATUSES: Final = frozenset({404, 410})
_MISSING_STATUSES: Final = frozenset({400, 404, 410})
_POLL_BLOCKS: Final = frozenset(
    {BlockCause.INVALID_API_KEY, BlockCause.PAYMENT_REQUIRED, BlockCause.FORBIDDEN, BlockCause.BILLING}
)
_NO_ROUTE: Final = re.compile(r"invalid url \((get|post) |plain http request was sent to https port")
# How a server reports that it could not digest an answer of its upstream, store it, or that it fell over midway.
_PASSED_ON: Final = re.compile(
    r"invalid (character|memory|response|header|status|chunk|json|read|connection|transaction|byte|input syntax)"
    r"|panic|upstream|unmarshal"
)
_BAD_REQUEST_WORD: Final = re.compile(r"(invalid(?!.*response).*)?")
# "invalid task id", "task does not exist or has expired" [gateway pages, conflicting on 400 or 404].
_NO_TASK: Final = re.compile(
    r"(invalid|unknown|no such) task|task.{0,40}(not exist|not found|expired|invalid|unknown)"
)


def classify_submit(reply: Reply, *, secret: str, now_s: float) -> SubmitOutcome:
    """Say what a reply to the billed POST means. Never raises.

    `secret` is our key, scrubbed from what is kept; `now_s` is unix seconds, used only for a Retry-After date in an
    answer that has no Date.
    """
    if isinstance(reply, HttpFailure):
        return _submit_failure(reply, secret)
    document = read_json(reply.body)
    error = read_error(document, reply.body)
    if generation_ids := submitted_ids(document):
        return _submit_named(reply, generation_ids)
    if reply.status not in _SUCCESSES:
        return _submit_rejection(reply, reply.status, error, secret, now_s)
    if document is UNREADABLE:
        return Ambiguous("unreadable_body")
    if not error.codes:
        return Ambiguous("no_generation_id")
    return _submit_rejection(reply, _inner_status(error), error, secret, now_s)


def _submit_named(reply: HttpResponse, generation_ids: tuple[str, ...]) -> SubmitOutcome:
    """Judge an answer with ids. A job has one generation: of several, the others would be billed and nobody's."""
    named = " ".join(generation_ids)
    if reply.status not in _SUCCESSES:
        return Ambiguous("error_with_generation", named)
    return Accepted(named) if len(generation_ids) == 1 else Ambiguous("several_generations", named)


def _submit_failure(failure: HttpFailure, secret: str) -> SubmitOutcome:
    if failure.sent is not Sent.NOT_SENT:
        return Ambiguous(failure.cause.value)
    if failure.cause is FailureCause.INVALID_REQUEST:
        return Unsendable(clean(failure.detail, secret))
    return NotSent(failure.cause.value)


def _submit_rejection(
    reply: HttpResponse, status: int, error: ProviderError, secret: str, now_s: float
) -> SubmitOutcome:
    """Judge an answer without an id; `status` is the one inside if the outer is 2xx, 0 if neither tells."""
    cause = _cause(status, error, secret)
    if error.has(NOT_EXECUTED_CODES):
        return NotExecuted(cause, retry_after_s(reply, now_s))
    if error.has(IDEMPOTENCY_CODES):
        return Ambiguous(cause)
    if block := _block(reply.status, status, error):
        elsewhere = reply.headers.get("location", "").partition("?")[0]
        return LaneBlocked(block, clean(elsewhere or error.message, secret))
    if status == _TOO_MANY or error.has(THROTTLING_CODES):
        return Throttled(cause, retry_after_s(reply, now_s))
    if _is_refusal(status, error):
        return Refused(cause, clean(error.message, secret))
    return Ambiguous(cause)


def _block(outer: int, status: int, error: ProviderError) -> BlockCause | None:
    """Say why the account cannot submit, if that is what the answer says. A job's content never blocks a lane."""
    if error.has(CONTENT_CODES):
        return None
    if error.has(BILLING_CODES):
        return BlockCause.BILLING
    if error.has(NO_ROUTE_CODES) or (outer in _NO_ROUTE_STATUSES and _is_no_route(outer, error)):
        return BlockCause.WRONG_ENDPOINT
    if status < _SERVER_ERROR and error.has(_BLOCKED_BY_CODE):
        return next(
            _BLOCKED_BY_CODE[code] for code in map(str.lower, error.codes) if code in _BLOCKED_BY_CODE
        )
    return _BLOCKED_BY_STATUS.get(status)


def _is_no_route(status: int, error: ProviderError) -> bool:
    if _NO_ROUTE.search(error.message.lower()):
        return True
    return status != _BAD_REQUEST and not error.is_api_error and not error.has(MODEL_CODES)


def _is_refusal(status: int, error: ProviderError) -> bool:
    if status < _SERVER_ERROR and error.has(CONTENT_CODES):
        return True
    if _BAD_REQUEST <= status < _SERVER_ERROR:
        return status not in _AMBIGUOUS_STATUSES
    return status == _SERVER_ERROR and _is_bad_request_as_500(error)


def _is_bad_request_as_500(error: ProviderError) -> bool:
    text = error.message.lower()
    if error.has({"build_request_failed"}) or "build_request_failed" in text:
        return True
    if not error.is_json or not _BAD_REQUEST_WORD.fullmatch(error.word.lower()):
        return False
    return "invalid" in text and not _PASSED_ON.search(text)


def classify_poll(reply: Reply, *, generation_id: str, secret: str, now_s: float) -> PollOutcome:
    """Say what a reply to a status query about `generation_id` means. Never raises.

    The other arguments are those of `classify_submit`.
    """
    if isinstance(reply, HttpFailure):
        return PollUnclear(str(reply.cause))
    document = read_json(reply.body)
    generation = polled_generation(document) if reply.status in _SUCCESSES else None
    if generation is not None:
        if names_another(generation, generation_id):
            return PollUnclear(ANOTHER_GENERATION)
        return _polled(generation, secret)
    error = read_error(document, reply.body)
    if reply.status not in _SUCCESSES:
        return _poll_rejection(reply, reply.status, error, secret, now_s)
    if error.codes:
        return _poll_rejection(reply, _inner_status(error), error, secret, now_s)
    return PollUnclear("unreadable_body" if document is UNREADABLE else "no_status")


def _polled(generation: dict[str, Any], secret: str) -> PollOutcome:
    try:
        return generation_outcome(generation, secret)
    except UnreadableResult:
        return PollUnclear("unreadable_result")


def _poll_rejection(
    reply: HttpResponse, status: int, error: ProviderError, secret: str, now_s: float
) -> PollOutcome:
    cause = _cause(status, error, secret)
    if _is_missing(status, error):
        return Missing(cause)
    block = _block(reply.status, status, error)
    if block in _POLL_BLOCKS:
        return PollBlocked(block)
    if status == _TOO_MANY or error.has(THROTTLING_CODES):
        return PollThrottled(cause, retry_after_s(reply, now_s))
    return PollUnclear(cause)


def _is_missing(status: int, error: ProviderError) -> bool:
    """Say whether the provider does not know the generation; a page of something in front of it cannot know."""
    text = " ".join((*error.codes, error.message[:1000])).lower().replace("_", " ")
    if not error.is_json or _NO_ROUTE.search(text):
        return False
    if status in _GONE_STATUSES and error.is_api_error:
        return True
    return status in _MISSING_STATUSES and _NO_TASK.search(text) is not None


def _inner_status(error: ProviderError) -> int:
    """Give the status that a 2xx should have had by its codes; 0 if they do not tell."""
    for code in map(str.lower, error.codes):
        number = int(code) if code.isdecimal() else _STATUS_OF_CODE.get(code, 0)
        if _BAD_REQUEST <= number <= _LAST_STATUS:
            return number
    return 0


def _cause(status: int, error: ProviderError, secret: str) -> str:
    return clean(error.word, secret) or (f"http_{status}" if status else "error_in_2xx")
