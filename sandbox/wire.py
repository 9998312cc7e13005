"""What goes over the wire: answers to submits and polls, error bodies, and what a fault makes of an answer.

Shapes, types and messages are those documented or observed for the gateway; see the README for what is invented.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from email.utils import formatdate
from typing import TYPE_CHECKING

from sandbox.server import Answer, Cut, Later, Reply, Silence, Vanish

if TYPE_CHECKING:
    from sandbox.faults import Fault
    from sandbox.generations import Generation
    from sandbox.settings import Settings

USD_MICROS_PER_CNY_MICRO = 0.14
_URL_SECRET = b"sandbox image urls"  # constant, so that URLs outlive a restart; it protects nothing
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    502: "bad_gateway",
}
_MESSAGES = {
    400: "Invalid request parameters",
    401: "Invalid authentication credentials",
    402: "Insufficient balance. Please top up your account",
    403: "Permission denied",
    404: "Not found",
    429: "Rate limit exceeded. Please try again later",
    502: "Bad gateway",
    503: "The upstream is unavailable",
}
# HTTP status and message of codes seen from the gateway; `[[fault:code:...]]` takes any other code as a 400.
_CODES = {
    "get_channel_failed": (500, "Please wait and try again later"),
    "idempotency_unavailable": (503, "Idempotency is unavailable; the request was not executed"),
    "bad_response_status_code": (422, "Bad response status code"),
}


def json_reply(document: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(status, json.dumps(document, separators=(",", ":")).encode(), headers=headers)


def error(
    settings: Settings, status: int, message: str = "", *, code: str = "", wait: str | None = None
) -> Reply:
    """Build an error in the style that is set. `code` shows in the string style; `wait` is a Retry-After."""
    message = message or _MESSAGES.get(status, "Server error")
    headers = (("Retry-After", wait),) if wait is not None else ()
    if settings.error_style == "html":
        return _html(status, message, headers)
    if settings.error_style == "string":
        return coded_error(status, code, message, headers)
    body = {"code": status, "message": message, "type": _TYPES.get(status, "server_error")}
    return json_reply({"error": body}, status, headers)


def coded_error(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Build the other observed form: a string code (often empty) and the request id inside the message."""
    message = f"{message} (request id: {secrets.token_hex(8)})"
    body = {"code": code, "message": message, "param": "", "type": "apimart_error"}
    return json_reply({"error": body}, status, headers)


def _html(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    page = (
        f"<html><head><title>{status}</title></head><body><h1>{status}</h1><p>{message}</p></body></html>\n"
    )
    return Reply(status, page.encode(), "text/html; charset=utf-8", headers)


def retry_after(settings: Settings, wait_s: float, now: float) -> str | None:
    """Give the value of Retry-After in the form that is set, at least one second; None to leave it out."""
    whole = max(1, int(wait_s) + (wait_s > int(wait_s)))
    if settings.retry_after == "none":
        return None
    return str(whole) if settings.retry_after == "seconds" else formatdate(int(now) + 1 + whole, usegmt=True)


def submit_reply(generation: Generation, shape: str, base_url: str) -> Reply:
    """Build the answer to an accepted submit in one of the four shapes in circulation."""
    task_id = generation.id
    if shape == "B1":
        entry = {"task_id": task_id, "status": "processing"}
        return json_reply({"code": "success", "message": "", "data": [entry]})
    if shape == "B2":
        return json_reply({"code": 200, "data": [{"status": "submitted", "task_id": task_id}]})
    if shape == "B3":
        data = {
            "created": int(generation.created_at),
            "id": task_id,
            "model": generation.model,
            "object": "image.generation.task",
            "progress": 0,
            "status": "pending",
            "task_info": {"can_cancel": True, "estimated_time": round(generation.estimated_s)},
            "type": "image",
        }
        return json_reply({"code": 200, "data": data})
    poll_url = f"{base_url}/v1/tasks/{task_id}"
    entry = {"id": task_id, "object": "generation.task", "status": "pending", "poll_url": poll_url}
    return json_reply({"code": 202, "data": entry, "request_id": f"req_{secrets.token_hex(8)}"}, 202)


def task_reply(generation: Generation, settings: Settings, base_url: str, now: float) -> Reply:
    """Build the answer to a poll. Instants are whole unix seconds, `cost` is in USD."""
    is_done = generation.is_done(now)
    data: dict[str, object] = {
        "id": generation.id,
        "status": generation.end if is_done else generation.running_word,
        "progress": generation.progress(now),
        "created": int(generation.created_at),
        "estimated_time": max(1, round(generation.estimated_s)),
    }
    if is_done:
        data["completed"] = int(generation.done_at)
        data["actual_time"] = int(generation.done_at) - int(generation.created_at)
        data |= _ending(generation, settings, base_url)
    return json_reply({"code": 200, "data": data})


def _ending(generation: Generation, settings: Settings, base_url: str) -> dict[str, object]:
    if generation.end == "completed":
        micros = generation.delivered * generation.price_micros * USD_MICROS_PER_CNY_MICRO
        cost = round(micros / 1_000_000, 6)
        images = _images(generation, settings, base_url)
        return {"cost": cost, "credits_cost": round(cost * 10, 6), "result": {"images": images}}
    if generation.end == "failed":
        return {"error": _failure(generation.failure, settings.error_style)}
    return {}


def _failure(failure: str, style: str) -> object:
    message = "The generation failed"
    if failure == "bare":
        return message
    if failure or style == "string":
        return {"message": message, "type": "task_failed", "param": "", "code": failure or "task_failed"}
    return {"code": 500, "message": message, "type": "task_failed"}


def _images(generation: Generation, settings: Settings, base_url: str) -> list[dict[str, object]]:
    urls = [base_url + image_path(generation.id, index) for index in range(generation.delivered)]
    expires_at = int(expires(generation, settings))
    packed = {"list": len(urls), "string": 0, "mixed": 2}[settings.url_layout]
    entries: list[dict[str, object]] = [{"url": urls[:packed]}] if urls[:packed] else []
    entries += [{"url": url} for url in urls[packed:]]
    return [entry | {"expires_at": expires_at} for entry in entries]


def expires(generation: Generation, settings: Settings) -> float:
    """Give the instant at which the image URLs die."""
    own = generation.url_ttl_s
    return generation.done_at + (settings.url_ttl_s if own is None else own)


def image_path(generation_id: str, index: int) -> str:
    name = f"{generation_id.removeprefix('task_')}_{index}"
    return f"/f/image/{name}.png?sig={signature(name)}"


def signature(name: str) -> str:
    return hmac.digest(_URL_SECRET, name.encode("utf-8", "replace"), hashlib.sha256).hex()[:24]


def apply_fault(fault: Fault, normal: Reply, settings: Settings, now: float) -> Answer:
    """Turn the normal answer into what the fault makes of it."""
    match fault.kind:
        case "lost_answer":
            return Vanish(reset=fault.arg == "reset")
        case "hang":
            return Silence()
        case "slow":
            return Later(float(fault.arg), normal)
        case "cut":
            return Cut(normal)
        case _:
            return _instead(fault, normal, settings, now)


def _instead(fault: Fault, normal: Reply, settings: Settings, now: float) -> Reply:
    match fault.kind:
        case "garbage":
            return Reply(200, b'{"code":"succ\xff\xfe\x00 garbage', normal.content_type)
        case "empty":
            return Reply(200, b"", normal.content_type)
        case "html":
            return _html(int(fault.arg or 200), "This is a page for people")
        case "redirect":
            return Reply(fault.status or 302, headers=(("Location", _one_line(fault.arg)),))
        case _:
            return _scripted_error(fault, settings, now)


def _scripted_error(fault: Fault, settings: Settings, now: float) -> Reply:
    match fault.kind:
        case "refuse":
            message = "The request was rejected by content moderation"
            return error(settings, fault.status or 400, message, code=fault.arg or "content_rejected")
        case "code":
            status, message = _CODES.get(fault.arg, (400, "The request cannot be served"))
            return coded_error(fault.status or status, fault.arg, message)
        case "build_request_failed":
            message = "build_request_failed: invalid size: 3:5, allowed: 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3"
            return error(settings, fault.status or 500, message, code="build_request_failed")
        case _:
            return error(settings, int(fault.kind), wait=_scripted_wait(fault.arg, now))


def _scripted_wait(arg: str, now: float) -> str | None:
    if not arg:
        return None
    if arg.startswith("date:"):
        return formatdate(now + float(arg.removeprefix("date:")), usegmt=True)
    return arg


def _one_line(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
