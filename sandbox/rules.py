"""The request rules of wan2.7-image and wan2.7-image-pro, from the vendor page.

`read_order` gives what was asked, or the first rule it breaks. Where the page is silent the stricter reading is
taken and said in the README; fields that the page does not name are ignored.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal

from sandbox import inputs, sizes

MODELS = ("wan2.7-image-pro", "wan2.7-image")
PRICE_MICROS = {"wan2.7-image-pro": 500_000, "wan2.7-image": 200_000}
MAX_PROMPT_CHARS, MAX_INPUTS, MAX_BOXES, MAX_SEED = 5000, 9, 2, 2**31 - 1
MIN_COLOURS, MAX_COLOURS = 3, 10
_HEX = re.compile(r"#[0-9A-Fa-f]{6}")
_RATIO = re.compile(r"\d{1,3}(\.\d{1,20})?%", re.ASCII)
_BOX_NUMBERS = 4
_WHOLE = Decimal("100.00")


@dataclass(frozen=True, slots=True)
class Order:
    """A request that obeys the rules. `image_urls` is empty for text-to-image."""

    model: str
    prompt: str
    image_urls: tuple[str, ...]
    n: int
    sequential: bool
    thinking: bool
    watermark: bool
    size: sizes.Size
    palette: tuple[str, ...]


class RuleBroken(ValueError):
    """The message names the field, the rule and the limit."""


def read_order(body: bytes) -> Order | RuleBroken:
    """Parse and check the body of a submit."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return RuleBroken("the body is not valid JSON")
    if not isinstance(fields, dict):
        return RuleBroken("the body must be a JSON object")
    try:
        return _order({name: value for name, value in fields.items() if value is not None})
    except (RuleBroken, sizes.SizeRefused) as broken:
        return RuleBroken(str(broken))


Fields = dict[str, object]


def _order(fields: Fields) -> Order:
    model = _text(fields, "model")
    _require(model in MODELS, f"model must be one of {', '.join(MODELS)}")
    assert model is not None
    image_urls, input_sizes = _image_urls(fields)
    sequential = _switch(fields, "enable_sequential")
    _text(fields, "negative_prompt")
    _text(fields, "language")
    _text(fields, "webhook")
    _switch(fields, "nsfw_check")
    _integer(fields, "seed", 0, MAX_SEED)
    _bbox_list(fields, input_sizes, editing=bool(image_urls))
    size = sizes.choose(
        _text(fields, "size"),
        _text(fields, "resolution"),
        allows_4k=model == "wan2.7-image-pro" and not image_urls and not sequential,
        like=input_sizes[-1] if input_sizes else None,
    )
    return Order(
        model=model,
        prompt=_prompt(fields, editing=bool(image_urls)),
        image_urls=image_urls,
        n=_integer(fields, "n", 1, 12 if sequential else 4) or 1,
        sequential=sequential,
        thinking=_switch(fields, "thinking_mode") and not sequential and not image_urls,
        watermark=_switch(fields, "watermark"),
        size=size,
        palette=() if sequential else _palette(fields),
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RuleBroken(message)


def _text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise RuleBroken(f"{name} must be a string")


def _switch(fields: Fields, name: str) -> bool:
    value = fields.get(name, False)
    if isinstance(value, bool):
        return value
    raise RuleBroken(f"{name} must be a boolean")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(fields: Fields, name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, int) and _is_integer(value) and low <= value <= high:
        return value
    raise RuleBroken(f"{name} must be an integer of {low} to {high}")


def _prompt(fields: Fields, *, editing: bool) -> str:
    prompt = _text(fields, "prompt") or ""
    _require(editing or bool(prompt.strip()), "prompt is required without image_urls")
    _require(len(prompt) <= MAX_PROMPT_CHARS, f"prompt must have at most {MAX_PROMPT_CHARS} characters")
    _require(_is_unicode(prompt), "prompt must be valid Unicode")
    return prompt


def _is_unicode(text: str) -> bool:
    """Say whether `text` can be written as UTF-8; JSON can smuggle in half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _image_urls(fields: Fields) -> tuple[tuple[str, ...], list[tuple[int, int] | None]]:
    urls = fields.get("image_urls")
    if urls is None:
        return (), []
    if not isinstance(urls, list) or not 1 <= len(urls) <= MAX_INPUTS:
        raise RuleBroken(f"image_urls must be an array of 1 to {MAX_INPUTS} strings")
    known: list[tuple[int, int] | None] = []
    for index, url in enumerate(urls):
        _require(isinstance(url, str), "image_urls must hold strings")
        try:
            known.append(inputs.size_of(url))
        except inputs.InputRefused as refused:
            raise RuleBroken(f"image_urls[{index}] {refused}") from None
    return tuple(urls), known


def _bbox_list(fields: Fields, input_sizes: list[tuple[int, int] | None], *, editing: bool) -> None:
    boxes_of = fields.get("bbox_list")
    if boxes_of is None:
        return
    _require(editing, "bbox_list requires image_urls")
    if not isinstance(boxes_of, list) or len(boxes_of) != len(input_sizes):
        raise RuleBroken("bbox_list must have one entry per image of image_urls")
    for boxes, size in zip(boxes_of, input_sizes, strict=True):
        if not isinstance(boxes, list) or len(boxes) > MAX_BOXES:
            raise RuleBroken(f"bbox_list must hold at most {MAX_BOXES} boxes per image")
        for box in boxes:
            _check_box(box, size)


def _check_box(box: object, size: tuple[int, int] | None) -> None:
    if not isinstance(box, list) or len(box) != _BOX_NUMBERS or not all(map(_is_integer, box)):
        raise RuleBroken("bbox_list boxes must be [x1, y1, x2, y2] in integers")
    x1, y1, x2, y2 = box
    _require(0 <= x1 < x2 and 0 <= y1 < y2, "bbox_list boxes must have 0 <= x1 < x2 and 0 <= y1 < y2")
    if size is not None:
        _require(x2 <= size[0] and y2 <= size[1], "bbox_list boxes must lie inside their image")


def _palette(fields: Fields) -> tuple[str, ...]:
    entries = fields.get("color_palette")
    if entries is None:
        return ()
    if not isinstance(entries, list) or not MIN_COLOURS <= len(entries) <= MAX_COLOURS:
        raise RuleBroken(f"color_palette must have {MIN_COLOURS} to {MAX_COLOURS} entries")
    pairs = [_colour(entry) for entry in entries]
    _require(sum(share for _, share in pairs) == _WHOLE, "color_palette ratios must sum to exactly 100.00%")
    return tuple(colour for colour, _ in pairs)


def _colour(entry: object) -> tuple[str, Decimal]:
    colour, ratio = (entry.get("hex"), entry.get("ratio")) if isinstance(entry, dict) else (None, None)
    if not isinstance(colour, str) or not _HEX.fullmatch(colour):
        raise RuleBroken("color_palette hex must look like #C2D1E6")
    if not isinstance(ratio, str) or not _RATIO.fullmatch(ratio):
        raise RuleBroken("color_palette ratio must be a string like 23.51%")
    return colour, Decimal(ratio.removesuffix("%"))
