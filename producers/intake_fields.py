"""What the columns and keys of an input mean: request fields and job parameters, and how a cell's text becomes one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic_core import from_json

from shared.errors import ConfigurationError, Issue
from shared.jobs.request import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUEST_FIELDS = frozenset(GenerationRequest.model_fields)
PARAM_FIELDS = frozenset(
    {
        "idempotency_key",
        "priority",
        "not_before",
        "deadline",
        "metadata",
        "webhook",
        "tenant",
        "on_unknown",
    }
)
FIELDS = REQUEST_FIELDS | PARAM_FIELDS

_VERBATIM = frozenset({"prompt", "negative_prompt"})
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SHOWN_CHARS = 32


def read_cell(field: str, text: str) -> object:
    """Convert a cell's text for a field; an Issue if it cannot be. Whether the value is allowed is judged later."""
    if field in _VERBATIM:
        return text
    convert = _CONVERTERS.get(field)
    return convert(field, text.strip()) if convert else text.strip()


def split_defaults(defaults: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Give defaults for (request, job). Text is converted as a cell is; raises ConfigurationError for a bad one."""
    data: dict[str, object] = {}
    params: dict[str, object] = {}
    for field, given in defaults.items():
        check_field(field)
        if given is None:
            continue
        value = read_cell(field, given) if isinstance(given, str) else given
        if isinstance(value, Issue):
            raise ConfigurationError(f"default of {value.message}. Correct the option.")
        (data if field in REQUEST_FIELDS else params)[field] = value
    return data, params


def check_field(field: str) -> None:
    if field not in FIELDS:
        raise ConfigurationError(f"there is no field {field!r}. Fields are {', '.join(sorted(FIELDS))}.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def _integer(field: str, text: str) -> object:
    if _INTEGER.fullmatch(text):
        return int(text)
    return Issue(field, "type", f"{field}: must be an integer, got {_shown(text)}", _shown(text))


def _instant(_field: str, text: str) -> object:
    """Read a number as an integer; any other notation is for the client to read."""
    return int(text) if _INTEGER.fullmatch(text) else text


def _boolean(field: str, text: str) -> object:
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    return Issue(
        field, "type", f"{field}: must be true, false, yes, no, 1 or 0, got {_shown(text)}", _shown(text)
    )


def _json(field: str, text: str) -> object:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:  # says where, never what
        return Issue(field, "json", f"{field}: must be JSON: {error}")


def _urls(field: str, text: str) -> object:
    return _json(field, text) if text.startswith("[") else text.split()


_CONVERTERS: dict[str, Callable[[str, str], object]] = {
    "n": _integer,
    "seed": _integer,
    "priority": _integer,
    "watermark": _boolean,
    "thinking_mode": _boolean,
    "enable_sequential": _boolean,
    "image_urls": _urls,
    "bbox_list": _json,
    "color_palette": _json,
    "metadata": _json,
    "not_before": _instant,
    "deadline": _instant,
}
