"""Building the arguments of `enqueue_jobs.lua`, and reading its reply: the pure core of both producer edges."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import from_json, to_json

from shared.errors import InvalidRequest, Issue
from shared.jobs.lifecycle import JobState
from shared.jobs.request import fingerprint
from shared.jobs.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shared.redis.scripts import Argument
    from shared.settings import LimitSettings

PRIORITY_MAX: Final = 100
IDEMPOTENCY_KEY_MAX: Final = 255
METADATA_BYTES_MAX: Final = 4096
CHUNK_JOBS: Final = (
    500  # one script call: Lua unpacks at most about 8,000 values, and 500 keep the server fair
)
_RANK_STEP: Final = 2**41
OnUnknown = Literal["hold", "resubmit_once", "fail"]
_ON_UNKNOWN: Final = ("hold", "resubmit_once", "fail")


@dataclass(frozen=True, slots=True)
class Placed:
    """The script's answer for one job: accepted, a duplicate of an earlier one, in conflict with it, or refused."""

    job_id: str
    result: Literal[
        "enqueued",
        "duplicate",
        "conflict",
        "tenant_backlog",
        "backlog",
        "batch_sealed",
        "over_cap",
        "batch_caps",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParams:
    """What a job carries beside its request. Instants are unix ms; 0 means none."""

    idempotency_key: str | None = None
    priority: int = 0
    not_before_at: int = 0
    deadline_at: int = 0
    metadata: Any = None
    webhook: str | None = None
    on_unknown: OnUnknown = "hold"


_PLAIN: Final = JobParams()
_NO_CAPS: Final[Mapping[str, str]] = {}
Price = tuple[int, str]  # of one image at most: micros, currency


_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuv"
_NOISE_CHARS: Final = 16
_AS_CHARS: Final = (
    _ALPHABET * 8
)  # a byte stands for a character: 256 is a multiple of 32, so none is likelier


def new_job_ids(count: int) -> Iterator[str]:
    """Make job ids: `job_` and 26 characters that sort by time (50 bits of unix ms, 80 random bits)."""
    now_ms = time.time_ns() // 1_000_000
    start = "job_" + bytes(_ALPHABET[now_ms >> shift & 31] for shift in range(45, -1, -5)).decode()
    noise = os.urandom(_NOISE_CHARS * count).translate(_AS_CHARS).decode()
    for at in range(0, _NOISE_CHARS * count, _NOISE_CHARS):
        yield start + noise[at : at + _NOISE_CHARS]


def idempotency_digest(key: str | None) -> str:
    """Give the 22 characters that stand for a key in Redis; "" for none."""
    return "" if key is None else fingerprint(key.encode())


def check_params(params: JobParams) -> None:
    """Raise InvalidRequest with every broken rule of the job's own fields."""
    if params == _PLAIN:
        return
    issues = tuple(_param_issues(params))
    if issues:
        raise InvalidRequest(issues)


def _param_issues(params: JobParams) -> Iterator[Issue]:
    if params.idempotency_key is not None:
        yield from key_issues(params.idempotency_key)
    if type(params.priority) is not int or not -PRIORITY_MAX <= params.priority <= PRIORITY_MAX:
        limit = f"priority must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX} (higher runs sooner)"
        yield Issue("priority", "range", limit, str(params.priority)[:40])
    if params.on_unknown not in _ON_UNKNOWN:
        allowed = f"on_unknown must be one of {', '.join(_ON_UNKNOWN)}"
        yield Issue("on_unknown", "choice", allowed, str(params.on_unknown)[:40])
    if params.deadline_at and params.not_before_at and params.deadline_at <= params.not_before_at:
        yield Issue("deadline", "order", "deadline must be later than not_before", str(params.deadline_at))
    if params.metadata is not None:
        yield from _metadata_issues(params.metadata)


def key_issues(key: object) -> tuple[Issue, ...]:
    """Judge an idempotency key."""
    if isinstance(key, str) and 1 <= len(key) <= IDEMPOTENCY_KEY_MAX and (key.isascii() or is_unicode(key)):
        return ()
    rule = f"idempotency_key must be text of 1-{IDEMPOTENCY_KEY_MAX} characters"
    return (Issue("idempotency_key", "length", rule, str(key)[:40] if is_unicode(str(key)) else ""),)


def is_unicode(text: str) -> bool:
    """Say whether text has no lone surrogates, which have no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metadata_issues(metadata: Any) -> Iterator[Issue]:
    """Judge metadata: it must come back as it was given, also from a parser that limits nesting."""
    try:
        json.dumps(metadata, allow_nan=False)
        written = to_json(metadata)
        from_json(written)
    except (ValueError, TypeError, RecursionError):
        limit = "metadata must be JSON: objects, arrays, text, finite numbers, booleans, null"
        yield Issue("metadata", "json", limit)
        return
    if len(written) > METADATA_BYTES_MAX:
        limit = f"metadata must be at most {METADATA_BYTES_MAX} bytes of JSON"
        yield Issue("metadata", "size", limit, f"{len(written)} bytes")


def header_json(
    tenant: str,
    batch: str | None,
    batch_webhook: str | None,
    limits: LimitSettings,
    *,
    caps: Sequence[tuple[str, int, str]] = (),
    batch_caps: Mapping[str, str] = _NO_CAPS,
) -> bytes:
    """What is the same for a whole chunk; caps as `reject_caps` and `batch_caps` give them."""
    return to_json(
        {
            "state": JobState.QUEUED,
            "tenant": tenant,
            "batch": batch or "",
            "batch_webhook": batch_webhook or "",
            "backlog": limits.backlog,
            "tenant_backlog": limits.backlog_per_tenant,
            "idle_seal_ms": limits.batch_idle_seal_s * 1000,
            "caps": caps,
            "batch_caps": batch_caps,
        }
    )


def job_arguments(
    job_id: str,
    request: bytes,
    fingerprint: str,
    model: str,
    n: int,
    sequential: bool,
    params: JobParams,
    price: Price | None = None,
) -> list[Argument]:
    """Give the script's five arguments for one job. `request` is its canonical JSON."""
    spec = SPEC_START + request + spec_end(params)
    kind = job_kind(model, n, sequential, params, price)
    return [job_id, idempotency_digest(params.idempotency_key), fingerprint, kind, spec]


SPEC_START: Final = b'{"request":'


def spec_end(params: JobParams) -> bytes:
    """Give what follows the request in the job's spec."""
    end = b""
    if params.metadata is not None:
        end += b',"metadata":' + to_json(params.metadata)
    if params.webhook is not None:
        end += b',"webhook":' + to_json(params.webhook)
    return end + b"}"


def job_kind(model: str, n: int, sequential: bool, params: JobParams, price: Price | None = None) -> bytes:
    """Give what the job has in common with many others: written once for them, and read once per chunk by Lua."""
    hook = params.webhook is not None
    instants = (params.not_before_at, params.deadline_at)
    return _kind(model, n, sequential, params.priority, *instants, hook, params.on_unknown, price)


@lru_cache(maxsize=1024)
def _kind(
    model: str,
    n: int,
    sequential: bool,
    priority: int,
    not_before_at: int,
    deadline_at: int,
    hook: bool,
    on_unknown: OnUnknown,
    price: Price | None,
) -> bytes:
    optional = (
        ("hook", "1", hook),
        ("sequential", "1", sequential),
        ("priority", str(priority), priority != 0),
        ("not_before_at", str(not_before_at), not_before_at > 0),
        ("on_unknown", on_unknown, on_unknown != "hold"),
        ("v", str(SCHEMA), SCHEMA > 1),  # a version 1 costs no record anything
    )
    fields = ["n", str(n)]
    for field, value, given in optional:
        if given:
            fields += (field, value)
    costs = [price[0] * n, price[1]] if price else []
    return to_json([model, -priority * _RANK_STEP, not_before_at, deadline_at, fields, *costs])


_CODES: Final[
    dict[int, Literal["enqueued", "tenant_backlog", "backlog", "batch_sealed", "over_cap", "batch_caps"]]
] = {
    0: "enqueued",
    3: "tenant_backlog",
    4: "backlog",
    5: "batch_sealed",
    6: "over_cap",
    7: "batch_caps",
}


def parse_placed(job_ids: Sequence[str], reply: Sequence[int | bytes]) -> list[Placed]:
    """Read the script's answers, one per job."""
    return [_placed(job_id, answer) for job_id, answer in zip(job_ids, reply, strict=True)]


def _placed(job_id: str, answer: int | bytes) -> Placed:
    if isinstance(answer, int):
        return Placed(job_id, _CODES[answer])
    code, _, existing = answer.decode().partition(":")
    return Placed(existing, "duplicate" if code == "1" else "conflict")
