"""What pydantic found wrong with a request, in our words: field path, rule code, sentence with the limit, short value.

A value is shown only where it cannot be a prompt or an image: never for prompt, negative_prompt, image_urls or fields
we do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.errors import Issue

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_ISSUES = 20
_MAX_VALUE = 32
_MAX_SHOWN_INT = 10**18
_PRIVATE = frozenset({"prompt", "negative_prompt", "image_urls"})
_BOX = "bbox_list[][]"

_LIMITS = {
    "": "an object with the request's fields",
    "model": "wan2.7-image or wan2.7-image-pro",
    "prompt": "text of at most 5000 characters",
    "n": "an integer from 1 to 4, or to 12 with enable_sequential",
    "size": "text: 1K, 2K, 4K, a ratio or pixels such as 1024x1024",
    "resolution": "1K, 2K or 4K",
    "image_urls": "a list of at most 9 URLs",
    "image_urls[]": "text: an http(s) URL or a data URI",
    "negative_prompt": "text of at most 5000 characters",
    "watermark": "true or false",
    "seed": "an integer from 0 to 2147483647",
    "thinking_mode": "true or false",
    "enable_sequential": "true or false",
    "bbox_list": "a list of at most 9 entries, one for each of image_urls",
    "bbox_list[]": "a list of at most 2 boxes",
    _BOX: "four integers [x1, y1, x2, y2]",
    f"{_BOX}[]": "an integer from 0 to 8000",
    "color_palette": "a list of 3 to 10 entries",
    "color_palette[]": "an object with hex and ratio",
    "color_palette[].hex": "text of the form #RRGGBB",
    "color_palette[].ratio": 'text of the form "23.51%"',
}
_RULES = {
    "missing": "required",
    "literal_error": "choice",
    "string_too_long": "max_length",
    "greater_than_equal": "minimum",
    "less_than_equal": "maximum",
    "too_short": "min_items",
    "too_long": "max_items",
}


def make_issue(field: str, rule: str, sentence: str, value: str = "") -> Issue:
    """Build an issue whose message begins with its field."""
    return Issue(field, rule, f"{field or 'request'}: {sentence}", value)


def issues_of(error: ValidationError) -> tuple[Issue, ...]:
    """Translate a validation error of the request model; at most `MAX_ISSUES`, the rest are only counted."""
    found: dict[Issue, None] = {}
    for detail in error.errors(include_url=False):
        carried = detail.get("ctx", {}).get("issues")
        found.update(dict.fromkeys(carried if carried is not None else (_translated(detail),)))
    issues = tuple(found)
    if len(issues) <= MAX_ISSUES:
        return issues
    rest = make_issue("", "more", f"has {len(issues) - MAX_ISSUES} further issues")
    return (*issues[:MAX_ISSUES], rest)


def show(value: object) -> str:
    """Show a value that is neither prompt nor image: scalars shortened, containers by size, others by type."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < _MAX_SHOWN_INT else "a huge integer"
        case float():
            return repr(value)
        case str():
            return _show_text(value)
        case _:
            return _kind(value)


def _show_text(text: str) -> str:
    if text.startswith("data:"):
        return "a data URI"
    return repr(text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "...")


def _kind(value: object) -> str:
    match value:
        case str():
            return f"text of {len(value)} characters"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case _:
            return type(value).__name__


def _translated(detail: ErrorDetails) -> Issue:
    kind, location, given = detail["type"], detail["loc"], detail["input"]
    path, shape = _path(location), _path(tuple("" if isinstance(part, int) else part for part in location))
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "json_invalid":
        return make_issue("", "json", f"is not JSON: {context['error']}")
    if kind == "missing" and shape.startswith(_BOX):  # pydantic names the coordinate that a short box lacks
        return make_issue(_path(location[:-1]), "length", f"must be {_LIMITS[_BOX]}")
    if kind in ("extra_forbidden", "invalid_key"):
        return make_issue(path, "unknown_field", f"is not a field here; {_known_fields(shape)}")
    if kind == "string_unicode":
        return make_issue(path, "encoding", "must be Unicode text without lone surrogates")
    limit = _LIMITS.get(shape, "valid")
    if kind == "missing":
        return make_issue(path, "required", f"is required and must be {limit}")
    private = location[:1] and location[0] in _PRIVATE
    value = _kind(given) if private or given is None or not location else show(given)
    value = "null" if given is None else value
    rule = context.get("rule") or _RULES.get(kind, "type")
    return make_issue(path, rule, f"must be {context.get('limit', limit)}, got {value}", value)


def _known_fields(shape: str) -> str:
    """List the siblings of an unknown field."""
    parent = shape.rpartition(".")[0]
    start = f"{parent}." if parent else ""
    names = (name.removeprefix(start) for name in _LIMITS if name and name.startswith(start))
    return "known are " + ", ".join(name for name in names if name.isidentifier())


def _path(location: tuple[int | str, ...]) -> str:
    """Write a location as `bbox_list[1][0]` or `color_palette[0].hex`; "" stands for any index."""
    path = ""
    for part in location:
        if isinstance(part, int) or part == "":
            path += f"[{part}]"
        else:
            path += f".{_name(part)}" if path else _name(part)
    return path


def _name(part: str) -> str:
    """Give a field name as it is, but a caller's odd or long key escaped and shortened."""
    return (
        part if part.isidentifier() and part.isascii() and len(part) <= 2 * _MAX_VALUE else _show_text(part)
    )
