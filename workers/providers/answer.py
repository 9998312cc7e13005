"""Reading a provider's answer without trusting it: whatever the bytes are, reading them never raises.

`workers.providers.classify` decides what an answer means; here is only what it says.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json

from workers.providers.outcomes import MESSAGE_CHARS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from workers.http.port import HttpResponse

ID_CHARS: Final = 255
CODE_CHARS: Final = 64
COST_CHARS: Final = 32
_READ_CHARS = 4096  # of a message, before it is cleaned and cut: enough for markup and white space around it
_MAX_NUMBER = 10**15
_MAX_WAIT_S = 1e9
_FIRST_UNIX_S, _LAST_UNIX_S = 1e9, 1e11  # years 2001 to 5138: milliseconds and durations are outside

_GENERIC_TYPES = frozenset({"apimart_error", "new_api_error", "one_api_error", "server_error", "error"})
_SUCCESS_CODES = frozenset({"", "success", "200", "202"})
_CODE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{CODE_CHARS - 1}}}")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_TAG = re.compile(r"<[^<>]*>")

# Lenient on purpose: a raw newline in a message must not hide the id of a generation that is paid for.
_DECODER = json.JSONDecoder(strict=False)


class Unreadable:
    """What a body that is not JSON parses to."""


UNREADABLE: Final = Unreadable()


def read_json(body: bytes) -> object:
    """Parse a body, or give UNREADABLE. Broken UTF-8 is replaced; of duplicate keys the last counts."""
    with suppress(ValueError):  # what is plainly JSON, nearly always: several times cheaper
        return from_json(body)
    try:
        document: object = _DECODER.decode(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return UNREADABLE
    return document


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What an answer says is wrong.

    `codes` are the error's code, its type and the envelope's code: those that are there, well-formed and not a
    success. `message` is raw: see `clean`. `is_api_error` says that the body is an API's own error object, not a
    page, or a document, of something in front of it.
    """

    codes: tuple[str, ...] = ()
    message: str = ""
    is_json: bool = True
    is_api_error: bool = False

    @property
    def word(self) -> str:
        """Give the most telling code: the first that is neither a number nor what every error is called."""
        words = (code for code in self.codes if not code.isdecimal() and code not in _GENERIC_TYPES)
        return next(words, "")

    def has(self, known: Collection[str]) -> bool:
        """Say whether a code is among the known ones, which are lower-case."""
        return any(code.lower() in known for code in self.codes)


def read_error(document: object, body: bytes = b"") -> ProviderError:
    """Find the error in a document: `error` as object or string, or code and message on top; else the text itself."""
    if isinstance(document, Unreadable):
        return ProviderError(message=body.decode("utf-8", "replace"), is_json=False)
    if isinstance(document, str):
        return ProviderError(message=document)
    if not isinstance(document, dict):
        return ProviderError()
    error, top = document.get("error"), code_of(document.get("code"))
    top_message = text_of(document.get("message"))
    if isinstance(error, dict):
        codes = _codes(code_of(error.get("code")), code_of(error.get("type")), top)
        return ProviderError(codes, text_of(error.get("message")) or top_message, is_api_error=True)
    is_api_error = bool(top) and not top.isdecimal() and bool(top_message)
    return ProviderError(_codes(top), text_of(error) or top_message, is_api_error=is_api_error)


def read_task_error(generation: Mapping[str, object]) -> ProviderError:
    """Find the error of a failed generation: `error` as object or string; `fail_reason` is the fork's own name."""
    error = generation.get("error")
    if isinstance(error, dict):
        codes = _codes(code_of(error.get("code")), code_of(error.get("type")))
        return ProviderError(codes, text_of(error.get("message")))
    text = text_of(error) or text_of(generation.get("fail_reason")) or text_of(generation.get("message"))
    return ProviderError(message=text)


def _codes(*codes: str) -> tuple[str, ...]:
    return tuple(code for code in codes if code.lower() not in _SUCCESS_CODES)


def code_of(value: object) -> str:
    """Give a code as text if it is one: a whole number, or a short word."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return str(value) if 0 <= value < _MAX_NUMBER else ""
    text = value.strip() if isinstance(value, str) else ""
    return text if _CODE.fullmatch(text) else ""


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def id_of(value: object) -> str:
    """Give a generation id, or nothing. It is opaque, but has to fit a URL's path and a log line."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if 0 < value < _MAX_NUMBER else ""
    text = value.strip() if isinstance(value, str) else ""
    is_usable = 0 < len(text) <= ID_CHARS and text.isprintable() and "\ufffd" not in text
    return text if is_usable and text not in {".", ".."} else ""


def number_of(value: object) -> float | None:
    """Give a finite number of reasonable size, also from text; nothing for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or not -_MAX_NUMBER < value < _MAX_NUMBER:
        return None
    return float(value)


def cost_of(value: object) -> str | None:
    """Give an amount as plain decimal text."""
    if number_of(value) is None:
        return None
    text = format(Decimal(str(value)), "f")
    return text if len(text) <= COST_CHARS else None


def clean(text: str, secret: str) -> str:
    """Make text of a provider fit to keep: no markup, one printable line, without `secret`, MESSAGE_CHARS at most.

    The secret goes first: a cut through it would leave half of it.
    """
    if secret:
        text = text.replace(secret, "[api key]")
    text = text[:_READ_CHARS]
    if text.lstrip().startswith("<"):
        text = _TAG.sub(" ", text)
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:MESSAGE_CHARS]


def retry_after_s(reply: HttpResponse, now_s: float) -> float | None:
    """Read Retry-After (RFC 9110 §10.2.3) as seconds from now, unclamped; None if there is none that can be read.

    A date is counted from the answer's own Date header, so that our clock does not matter. Only if that is missing
    is it counted from `now_s` (unix seconds, this machine's clock); the caller's clamp bounds the error.
    """
    value = reply.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), _MAX_WAIT_S)
    until = _http_date(value)
    if until is None:
        return None
    sent = _http_date(reply.headers.get("date", ""))
    return max(0.0, until.timestamp() - (now_s if sent is None else sent.timestamp()))


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # the last three: old faults of the parser
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def unix_s_of(value: object) -> float | None:
    """Give an instant in unix seconds; nothing if it cannot be one."""
    seconds = number_of(value)
    return seconds if seconds is not None and _FIRST_UNIX_S <= seconds < _LAST_UNIX_S else None
