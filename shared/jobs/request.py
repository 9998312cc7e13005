"""The request of one job: every rule of the model, its canonical bytes, and what follows from it.

Rules are the vendor page's (wan2.7-image, wan2.7-image-pro) unless a comment says whose they are. A request is
judged before anything is enqueued, because every image that the provider makes is billed.

Speed matters here: bulk enqueue runs `parse_request`, `request_bytes` and `fingerprint` for each job. pydantic-core
does the work; the Python code that runs for a plain text-to-image request is `broken_rules` and one cached look-up
of the size.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from shared.errors import InvalidRequest, Issue
from shared.jobs.data_uri import DataUri, parse_data_uri
from shared.jobs.issues import issues_of
from shared.jobs.request_facts import Mode, mode_of, warnings_of
from shared.jobs.request_rules import (
    INPUT_PREFIX,
    MAX_N_SEQUENTIAL,
    broken_rules,
    canonical_ratio,
    image_url_issues,
)
from shared.jobs.sizes import (
    SIZE_FORMS,
    ModelName,
    Pixels,
    Tier,
    canonical_size,
    nominal_pixels,
    parse_size,
    size_label,
)

MAX_PROMPT_CHARS = 5000
MAX_IMAGES = 9
MAX_BOXES = 2
MAX_SEED = 2_147_483_647
MAX_COORDINATE = 8000  # no input image is larger

_HEX = re.compile(r"#[0-9A-Fa-f]{6}")
_FROM_STORE = object()  # validation context of `restore_request`: nothing outside this module can pass it


def _listed(value: object) -> object:
    """Let lists and tuples through; pydantic would also take sets (no order) and generators (used up)."""
    if isinstance(value, list | tuple):
        return value
    raise PydanticKnownError("list_type")


def _size(text: str) -> str:
    if canonical := canonical_size(text):
        return canonical
    raise PydanticCustomError("format", "{limit}", {"rule": "format", "limit": SIZE_FORMS})


def _hex(text: str) -> str:
    if _HEX.fullmatch(text):
        return text.upper()
    raise PydanticCustomError("format", "{limit}", {"rule": "format", "limit": "of the form #RRGGBB"})


def _ratio(text: str) -> str:
    if canonical := canonical_ratio(text):
        return canonical
    limit = 'of the form "23.51%", from 0% to 100% with at most two decimals'
    raise PydanticCustomError("format", "{limit}", {"rule": "format", "limit": limit})


def _text_or_none(text: str) -> str | None:
    return None if not text or text.isspace() else text


def _true_or_none(value: bool) -> bool | None:
    """Write "not sequential" in one way: unset."""
    return value or None


_Coordinate = Annotated[int, Field(ge=0, le=MAX_COORDINATE)]
Box = Annotated[
    tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate], BeforeValidator(_listed), Field(strict=False)
]
_Boxes = Annotated[tuple[Box, ...], BeforeValidator(_listed), Field(max_length=MAX_BOXES, strict=False)]


class _Model(BaseModel):
    """No coercion: "3" is not 3, True is not 1. Errors and repr never quote input."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, revalidate_instances="always"
    )


class PaletteColor(_Model):
    """One colour and its share. Upper-case hex and two decimals are the canonical spelling."""

    hex: Annotated[str, AfterValidator(_hex)]
    ratio: Annotated[str, AfterValidator(_ratio)]


_Palette = Annotated[
    tuple[Annotated[PaletteColor, Field(strict=False)], ...],
    BeforeValidator(_listed),
    Field(min_length=3, max_length=10, strict=False),
]


_Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
_Urls = Annotated[
    tuple[Annotated[str, Field(strict=True)], ...],
    BeforeValidator(_listed),
    Field(max_length=MAX_IMAGES, strict=False),
]
_BoxList = Annotated[tuple[_Boxes, ...], BeforeValidator(_listed), Field(max_length=MAX_IMAGES, strict=False)]


class GenerationRequest(_Model):
    """What to generate. Field order is the canonical order of `request_bytes`; None means unset.

    The constructor raises pydantic's ValidationError; `parse_request` raises InvalidRequest with all issues. Rules
    between fields are judged once each field by itself is right.
    """

    model: ModelName
    prompt: _Prompt | None = Field(default=None, repr=False)
    n: int = Field(default=1, ge=1, le=MAX_N_SEQUENTIAL)
    size: Annotated[str, AfterValidator(_size)] | None = None
    resolution: Tier | None = None
    image_urls: _Urls | None = Field(default=None, repr=False)
    # The page gives no limit; ours is the prompt's. Upstream wan2.7 has no such parameter: its effect is uncertain.
    negative_prompt: Annotated[_Prompt, AfterValidator(_text_or_none)] | None = Field(
        default=None, repr=False
    )
    watermark: bool | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    thinking_mode: bool | None = None
    enable_sequential: Annotated[bool, AfterValidator(_true_or_none)] | None = None
    bbox_list: _BoxList | None = None
    color_palette: _Palette | None = None

    @field_validator("image_urls")
    @classmethod
    def _check_images(cls, urls: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if urls and (issues := image_url_issues(urls, stored=info.context is _FROM_STORE)):
            raise _rules_error(issues)
        return urls or None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if issues := broken_rules(self):
            raise _rules_error(issues)
        # One meaning, one spelling. `object.` because the model is frozen, and still being built.
        if self.resolution is not None and self.resolution == self.size:
            object.__setattr__(self, "resolution", None)
        if self.image_urls and self.prompt is not None and not self.prompt.strip():
            object.__setattr__(self, "prompt", None)
        return self

    @property
    def mode(self) -> Mode:
        """What the request asks for; a sequential one may have image inputs, too."""
        return mode_of(vars(self))

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Nominal (width, height) of an output. None with image inputs, whose last one decides, unless given in px.

        The table of ratios is partly inferred (see `sizes`), and outputs may differ slightly in any case.
        """
        if self.image_urls and not (self.size and isinstance(parse_size(self.size), Pixels)):
            return None
        return nominal_pixels(self.size, self.resolution)

    @property
    def label(self) -> str:
        """The size for tables, such as `2K 16:9`."""
        return size_label(self.size, self.resolution)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the vendor page says the API ignores."""
        return warnings_of(vars(self))


def _rules_error(issues: tuple[Issue, ...]) -> PydanticCustomError:
    """Carry our issues through pydantic."""
    summary = "; ".join(issue.message for issue in issues)
    return PydanticCustomError("rules", "{summary}", {"summary": summary, "issues": issues})


# Bound once, to save the look-ups per job.
_validate: Callable[..., GenerationRequest] = GenerationRequest.__pydantic_validator__.validate_python
_validate_json: Callable[..., GenerationRequest] = GenerationRequest.__pydantic_validator__.validate_json
_to_json: Callable[..., bytes] = GenerationRequest.__pydantic_serializer__.to_json


def parse_request(data: Mapping[str, object] | GenerationRequest) -> GenerationRequest:
    """Judge a request as given by a caller; raise InvalidRequest with one issue per broken rule.

    A ready request is judged again: pydantic's `model_copy` and `model_construct` check nothing.
    """
    if type(data) is not dict and isinstance(data, Mapping):
        data = dict(data)
    try:
        return _validate(data)
    except ValidationError as error:
        raise InvalidRequest(issues_of(error)) from None


def parse_request_json(line: bytes) -> GenerationRequest:
    """Judge a request given as one JSON object; raise InvalidRequest, also for what is not JSON."""
    try:
        return _validate_json(line)
    except ValidationError as error:
        raise InvalidRequest(issues_of(error)) from None


def restore_request(stored: bytes) -> GenerationRequest:
    """Read `request_bytes` back; the one way in for `darkroom-input:` references. Never give it a caller's bytes."""
    try:
        return _validate_json(stored, context=_FROM_STORE)
    except ValidationError as error:
        raise InvalidRequest(issues_of(error)) from None


def request_bytes(request: GenerationRequest) -> bytes:
    """Write the canonical JSON: compact, UTF-8, fixed field order; model and n always, others only if set."""
    return _to_json(request, exclude_none=True)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def fingerprint(canonical: bytes) -> str:
    """Give 22 characters (base64url of BLAKE2b-128) that stand for the bytes of `request_bytes`."""
    digest = hashlib.blake2b(canonical, digest_size=16).digest()
    return binascii.b2a_base64(digest, newline=False)[:22].translate(_URL_SAFE).decode("ascii")


def data_uris(request: GenerationRequest) -> Iterator[tuple[int, DataUri]]:
    """Give the inputs that carry their bytes with them, with their index in image_urls."""
    for index, url in enumerate(request.image_urls or ()):
        uri = parse_data_uri(url) if url.startswith("data:") else None
        if isinstance(uri, DataUri):
            yield index, uri


def input_keys(request: GenerationRequest) -> Iterator[tuple[int, str]]:
    """Give the inputs that are kept in the object store: index in image_urls, and object key."""
    for index, url in enumerate(request.image_urls or ()):
        if url.startswith(INPUT_PREFIX):
            yield index, url.removeprefix(INPUT_PREFIX)


def with_inputs(request: GenerationRequest, refs: Mapping[int, str]) -> GenerationRequest:
    """Replace inputs by references to object keys, by index. Keys made of the content keep fingerprints stable."""
    return with_urls(request, {index: INPUT_PREFIX + key for index, key in refs.items()})


def with_urls(request: GenerationRequest, urls: Mapping[int, str]) -> GenerationRequest:
    """Replace inputs by index, unchecked: for a worker that puts stored inputs back in line, or presigns them."""
    images = request.image_urls or ()
    replaced = tuple(urls.get(index, url) for index, url in enumerate(images))
    return request.model_copy(update={"image_urls": replaced or None})
