"""The knobs of the provider: one table that makes the command line, `GET/POST /control/settings` and the README.

A knob's name outside is its field's name without the unit: field `latency_s`, option `--latency`, JSON `latency`.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = ("_per_s", "_s")


class SettingRefused(ValueError):
    """A setting is unknown or its value cannot be used."""


def _number(default: float, about: str, *, most: float = 1e9) -> Any:
    return field(default=default, metadata={"about": about, "most": most})


def _one_of(*choices: str, about: str) -> Any:
    return field(default=choices[0], metadata={"about": about, "choices": choices})


def _switch(default: bool, about: str) -> Any:
    return field(default=default, metadata={"about": about, "choices": ("on", "off")})


@dataclass(slots=True)
class Settings:
    """What can be set at start and changed while running; every field is read at each request."""

    rate_per_s: float = _number(0.0, "submits per second and account, 0 = no limit")
    burst: int = _number(0, "submits that may come at once, 0 = one second's worth")
    max_in_flight: int = _number(0, "unfinished tasks per account, 0 = no limit; one more is a 429")
    poll_rate_per_s: float = _number(0.0, "task queries per second and account, 0 = no limit")
    retry_after: str = _one_of("seconds", "date", "none", about="form of Retry-After on a 429 of ours")
    latency_s: float = _number(1.0, "median seconds for one 2K text-to-image")
    latency_sigma: float = _number(0.35, "sigma of the log-normal latency, 0 = the median always", most=5)
    latency_scale: bool = _switch(True, "scale latency by size tier, n and mode")
    submit_shape: str = _one_of("B1", "B2", "B3", "B4", about="shape of the answer to a submit")
    url_layout: str = _one_of("list", "string", "mixed", about="layout of result.images")
    url_ttl_s: float = _number(86400.0, "seconds that image URLs live after completion")
    expired_status: str = _one_of("403", "404", about="status of an expired image URL")
    unknown_task_status: str = _one_of("404", "400", about="status for a task that does not exist")
    error_style: str = _one_of("object", "string", "html", about="form of error bodies")
    idempotency: bool = _switch(False, "honour Idempotency-Key")
    image_px: int = _number(256, "longer side of the PNGs; never above the size asked for", most=8192)


def key_of(knob: Field[Any]) -> str:
    """Give the name of a knob outside, in JSON form."""
    for unit in _UNITS:
        if knob.name.endswith(unit):
            return knob.name.removesuffix(unit)
    return knob.name


_KNOBS: dict[str, Field[Any]] = {key_of(knob): knob for knob in fields(Settings)}


def describe(settings: Settings) -> dict[str, object]:
    """Give the settings as JSON-ready values under their outside names."""
    return {key: getattr(settings, knob.name) for key, knob in _KNOBS.items()}


def change(settings: Settings, wanted: Mapping[str, object]) -> None:
    """Set every named knob, or none of them. Raises `SettingRefused`."""
    unknown = sorted(wanted.keys() - _KNOBS.keys())
    if unknown:
        raise SettingRefused(f"unknown setting {unknown[0]!r}; known are {', '.join(_KNOBS)}")
    parsed = {_KNOBS[key].name: _parse(key, raw) for key, raw in wanted.items()}
    for name, value in parsed.items():
        setattr(settings, name, value)


def _parse(key: str, raw: object) -> object:
    knob = _KNOBS[key]
    choices: tuple[str, ...] = knob.metadata.get("choices", ())
    if not choices:
        return _parse_number(key, raw, knob.metadata["most"], whole=isinstance(knob.default, int))
    word = {True: "on", False: "off"}[raw] if isinstance(raw, bool) else str(raw)
    if word not in choices:
        raise SettingRefused(f"{key} must be one of {', '.join(choices)}")
    return word == "on" if isinstance(knob.default, bool) else word


def _parse_number(key: str, raw: object, most: float, *, whole: bool) -> float:
    try:
        number = float(raw) if isinstance(raw, int | float | str) and not isinstance(raw, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= most or (whole and number != int(number)):
        raise SettingRefused(f"{key} must be a {'whole ' if whole else ''}number of 0 to {most:g}")
    return int(number) if whole else number


def add_options(parser: ArgumentParser) -> None:
    """Give `parser` one option per knob; a switch without a value means `on`."""
    for key, knob in _KNOBS.items():
        optional: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(knob.default, bool) else {}
        parser.add_argument(
            "--" + key.replace("_", "-"),
            dest=knob.name,
            default=knob.default,
            type=_option_type(key),
            metavar="|".join(knob.metadata.get("choices", ("N",))),
            help=f"{knob.metadata['about']} (default {_shown(knob.default)})",
            **optional,
        )


def _shown(default: object) -> object:
    return {True: "on", False: "off"}[default] if isinstance(default, bool) else default


def _option_type(key: str) -> Any:
    def parse(text: str) -> object:
        try:
            return _parse(key, text)
        except SettingRefused as refused:
            raise ArgumentTypeError(str(refused)) from None

    return parse


def from_options(options: Mapping[str, Any]) -> Settings:
    """Build settings from parsed options."""
    return Settings(**{knob.name: options[knob.name] for knob in fields(Settings)})
