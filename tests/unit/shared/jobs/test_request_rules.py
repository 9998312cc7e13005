"""Every rule of the request, with the message a caller gets for breaking it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import InvalidRequest, Issue
from shared.jobs.data_uri import encode_data_uri
from shared.jobs.request import GenerationRequest, parse_request, parse_request_json

PRO = "wan2.7-image-pro"
URL = "https://images.example/a.png"
SECRET = "do-not-show-me"


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02\0\0\0"


def png_uri(width: int, height: int) -> str:
    return encode_data_uri("image/png", png(width, height))


def palette(*ratios: str) -> list[dict[str, str]]:
    return [{"hex": "#C2D1E6", "ratio": ratio} for ratio in ratios]


def issues_for(**fields: Any) -> tuple[Issue, ...]:
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"model": "wan2.7-image", "prompt": "a cat", **fields})
    return caught.value.issues


N = "must be an integer from 1 to 4, or to 12 with enable_sequential"
SIZE = "must be 1K, 2K, 4K, a ratio (1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3) or pixels such as 1024x1024"
ONLY_4K = "4K is only for wan2.7-image-pro text-to-image that is not sequential; the limit is 2K"
SEED = "must be an integer from 0 to 2147483647"
COORDINATE = "must be an integer from 0 to 8000"
BOX = "must be four integers [x1, y1, x2, y2]"
RATIO = 'must be of the form "23.51%", from 0% to 100% with at most two decimals'
URL_FORM = "must be an http:// or https:// URL, or data:image/...;base64,..."
DATA_FORM = "must begin data:image/(jpeg|png|webp|bmp);base64, - got"
KNOWN = (
    "known are model, prompt, n, size, resolution, image_urls, negative_prompt, watermark, seed, thinking_mode, "
    "enable_sequential, bbox_list, color_palette"
)

# (fields, path, rule, message after the path)
BROKEN: list[tuple[dict[str, Any], str, str, str]] = [
    # model
    ({"model": "dall-e"}, "model", "choice", "must be wan2.7-image or wan2.7-image-pro, got 'dall-e'"),
    ({"model": None}, "model", "choice", "must be wan2.7-image or wan2.7-image-pro, got null"),
    # prompt
    ({"prompt": None}, "prompt", "required", "is required without image_urls and must not be blank"),
    ({"prompt": ""}, "prompt", "required", "is required without image_urls and must not be blank"),
    ({"prompt": " \n\u3000"}, "prompt", "required", "is required without image_urls and must not be blank"),
    (
        {"prompt": "x" * 5001},
        "prompt",
        "max_length",
        "must be text of at most 5000 characters, got text of 5001 characters",
    ),
    ({"prompt": 7}, "prompt", "type", "must be text of at most 5000 characters, got a number"),
    ({"prompt": [SECRET]}, "prompt", "type", "must be text of at most 5000 characters, got a list of 1"),
    ({"prompt": "\ud800"}, "prompt", "encoding", "must be Unicode text without lone surrogates"),
    # n
    ({"n": 0}, "n", "minimum", f"{N}, got 0"),
    ({"n": 5}, "n", "maximum", "must be from 1 to 4, or to 12 with enable_sequential, got 5"),
    ({"n": 13, "enable_sequential": True}, "n", "maximum", f"{N}, got 13"),
    ({"n": 10**400}, "n", "maximum", f"{N}, got a huge integer"),
    ({"n": "3"}, "n", "type", f"{N}, got '3'"),
    ({"n": True}, "n", "type", f"{N}, got true"),
    ({"n": 2.0}, "n", "type", f"{N}, got 2.0"),
    ({"n": float("nan")}, "n", "type", f"{N}, got nan"),
    ({"n": None}, "n", "type", f"{N}, got null"),
    # size
    ({"size": "5K"}, "size", "format", f"{SIZE}, got '5K'"),
    ({"size": "2k"}, "size", "format", f"{SIZE}, got '2k'"),
    ({"size": "5:4"}, "size", "format", f"{SIZE}, got '5:4'"),
    ({"size": "0x1024"}, "size", "format", f"{SIZE}, got '0x1024'"),
    ({"size": "\u0661024x1024"}, "size", "format", f"{SIZE}, got '\u0661024x1024'"),
    ({"size": "x" * 50}, "size", "format", f"{SIZE}, got '{'x' * 32}...'"),
    (
        {"size": 1024},
        "size",
        "type",
        "must be text: 1K, 2K, 4K, a ratio or pixels such as 1024x1024, got 1024",
    ),
    (
        {"size": "767x768"},
        "size",
        "min_pixels",
        "at least 589824 pixels in all (768x768) are needed, got 589056 (767x768)",
    ),
    (
        {"size": "2048*2049"},
        "size",
        "max_pixels",
        "at most 4194304 pixels in all (2048x2048) are allowed for wan2.7-image, got 4196352 (2048x2049)",
    ),
    (
        {"model": PRO, "size": "4096x4097"},
        "size",
        "max_pixels",
        "at most 16777216 pixels in all (4096x4096) are allowed, got 16781312 (4096x4097)",
    ),
    (
        {"model": PRO, "size": "2048x2049", "image_urls": [URL]},
        "size",
        "max_pixels",
        "at most 4194304 pixels in all (2048x2048) are allowed with image_urls, got 4196352 (2048x2049)",
    ),
    (
        {"model": PRO, "size": "2048x2049", "enable_sequential": True},
        "size",
        "max_pixels",
        "at most 4194304 pixels in all (2048x2048) are allowed with enable_sequential, got 4196352 (2048x2049)",
    ),
    ({"size": "4000x499"}, "size", "aspect", "aspect must be between 1:8 and 8:1, got 4000x499"),
    ({"size": "499x4000"}, "size", "aspect", "aspect must be between 1:8 and 8:1, got 499x4000"),
    ({"size": "4K"}, "size", "max_tier", f"{ONLY_4K} for wan2.7-image"),
    (
        {"model": PRO, "size": "4K", "image_urls": [URL]},
        "size",
        "max_tier",
        f"{ONLY_4K} with image_urls",
    ),
    (
        {"model": PRO, "size": "4K", "enable_sequential": True},
        "size",
        "max_tier",
        f"{ONLY_4K} with enable_sequential",
    ),
    # resolution
    ({"resolution": "8K"}, "resolution", "choice", "must be 1K, 2K or 4K, got '8K'"),
    ({"resolution": "4K"}, "resolution", "max_tier", f"{ONLY_4K} for wan2.7-image"),
    ({"size": "16:9", "resolution": "4K"}, "resolution", "max_tier", f"{ONLY_4K} for wan2.7-image"),
    (
        {"size": "1K", "resolution": "2K"},
        "resolution",
        "contradiction",
        "goes with a size that is a ratio; 2K contradicts size 1K",
    ),
    (
        {"size": "1024x1024", "resolution": "1K"},
        "resolution",
        "contradiction",
        "goes with a size that is a ratio; 1K contradicts size 1024x1024",
    ),
    # image_urls
    (
        {"image_urls": URL},
        "image_urls",
        "type",
        "must be a list of at most 9 URLs, got text of 28 characters",
    ),
    ({"image_urls": {URL}}, "image_urls", "type", "must be a list of at most 9 URLs, got set"),
    (
        {"image_urls": [URL] * 10},
        "image_urls",
        "max_items",
        "must be a list of at most 9 URLs, got a list of 10",
    ),
    (
        {"image_urls": [URL, 7]},
        "image_urls[1]",
        "type",
        "must be text: an http(s) URL or a data URI, got a number",
    ),
    ({"image_urls": [f"ftp://host/{SECRET}"]}, "image_urls[0]", "scheme", URL_FORM),
    ({"image_urls": [f"/{SECRET}"]}, "image_urls[0]", "scheme", URL_FORM),
    ({"image_urls": [f"darkroom-input:{SECRET}"]}, "image_urls[0]", "scheme", URL_FORM),
    ({"image_urls": [f"https:///{SECRET}"]}, "image_urls[0]", "url", "must be a URL with a host"),
    (
        {"image_urls": [f"https://host:99999/{SECRET}"]},
        "image_urls[0]",
        "url",
        "must be a URL with a valid host and port",
    ),
    (
        {"image_urls": [f"https://[::1/{SECRET}"]},
        "image_urls[0]",
        "url",
        "must be a URL with a valid host and port",
    ),
    (
        {"image_urls": [f"https://h/ {SECRET}"]},
        "image_urls[0]",
        "url",
        "must be a URL; character 11 (' ') must be percent-encoded",
    ),
    (
        {"image_urls": ["https://h\\@evil/"]},
        "image_urls[0]",
        "url",
        "must be a URL; character 10 ('\\\\') must be percent-encoded",
    ),
    (
        {"image_urls": ["https://h/\ud800"]},
        "image_urls[0]",
        "url",
        "must be a URL; character 11 ('\\ud800') must be percent-encoded",
    ),
    (
        {"image_urls": [f"https://user:{SECRET}@host/"]},
        "image_urls[0]",
        "userinfo",
        "must be a URL without user name and password",
    ),
    (
        {"image_urls": ["https://h/" + "x" * 8183]},
        "image_urls[0]",
        "max_length",
        "a URL may have at most 8192 characters, got 8193",
    ),
    (
        {"image_urls": [f"data:image/gif;base64,{SECRET}"]},
        "image_urls[0]",
        "media_type",
        f"{DATA_FORM} data:image/gif;base64,...",
    ),
    (
        {"image_urls": [f"data:image/png,{SECRET}"]},
        "image_urls[0]",
        "media_type",
        f"{DATA_FORM} data:image/png,...",
    ),
    ({"image_urls": [f"data:{SECRET},"]}, "image_urls[0]", "media_type", f"{DATA_FORM} data:..."),
    (
        {"image_urls": [f"data:image/png;base64,{SECRET}"]},
        "image_urls[0]",
        "base64",
        "must be padded base64 in the standard alphabet",
    ),
    (
        {"image_urls": [png_uri(999, 999).replace("png", "webp", 1)]},
        "image_urls[0]",
        "media_type",
        "is declared image/webp, but its first bytes are image/png",
    ),
    (
        {"image_urls": [encode_data_uri("image/png", b"hello")]},
        "image_urls[0]",
        "media_type",
        "is declared image/png, but its first bytes are something else",
    ),
    (
        {"image_urls": [encode_data_uri("image/png", png(999, 999)[:20])]},
        "image_urls[0]",
        "header",
        "has no readable image/png header, so its size in pixels cannot be checked",
    ),
    (
        {"image_urls": [URL, png_uri(239, 999)]},
        "image_urls[1]",
        "pixels",
        "sides must be 240 to 8000 px, got 239x999",
    ),
    (
        {"image_urls": [png_uri(999, 8001)]},
        "image_urls[0]",
        "pixels",
        "sides must be 240 to 8000 px, got 999x8001",
    ),
    (
        {"image_urls": [png_uri(8000, 999)]},
        "image_urls[0]",
        "aspect",
        "aspect must be between 1:8 and 8:1, got 8000x999",
    ),
    # negative_prompt
    (
        {"negative_prompt": "x" * 5001},
        "negative_prompt",
        "max_length",
        "must be text of at most 5000 characters, got text of 5001 characters",
    ),
    # booleans
    ({"watermark": 1}, "watermark", "type", "must be true or false, got 1"),
    ({"thinking_mode": "yes"}, "thinking_mode", "type", "must be true or false, got 'yes'"),
    ({"enable_sequential": "true"}, "enable_sequential", "type", "must be true or false, got 'true'"),
    # seed
    ({"seed": -1}, "seed", "minimum", f"{SEED}, got -1"),
    ({"seed": 2**31}, "seed", "maximum", f"{SEED}, got 2147483648"),
    ({"seed": 1.5}, "seed", "type", f"{SEED}, got 1.5"),
    ({"seed": False}, "seed", "type", f"{SEED}, got false"),
    # bbox_list
    ({"bbox_list": [[]]}, "bbox_list", "requires_images", "requires image_urls"),
    (
        {"bbox_list": [[]], "image_urls": [URL, URL]},
        "bbox_list",
        "length",
        "must have one entry for each of image_urls (2), got 1",
    ),
    (
        {"bbox_list": "x", "image_urls": [URL]},
        "bbox_list",
        "type",
        "must be a list of at most 9 entries, one for each of image_urls, got 'x'",
    ),
    (
        {"bbox_list": [[[1, 2, 3, 4]] * 3], "image_urls": [URL]},
        "bbox_list[0]",
        "max_items",
        "must be a list of at most 2 boxes, got a list of 3",
    ),
    ({"bbox_list": [[[1, 2]]], "image_urls": [URL]}, "bbox_list[0][0]", "length", BOX),
    (
        {"bbox_list": [[[1, 2, 3, 4, 5]]], "image_urls": [URL]},
        "bbox_list[0][0]",
        "max_items",
        f"{BOX}, got a list of 5",
    ),
    ({"bbox_list": [[7]], "image_urls": [URL]}, "bbox_list[0][0]", "type", f"{BOX}, got 7"),
    (
        {"bbox_list": [[[-1, 2, 3, 4]]], "image_urls": [URL]},
        "bbox_list[0][0][0]",
        "minimum",
        f"{COORDINATE}, got -1",
    ),
    (
        {"bbox_list": [[[1, 2, 3, 8001]]], "image_urls": [URL]},
        "bbox_list[0][0][3]",
        "maximum",
        f"{COORDINATE}, got 8001",
    ),
    (
        {"bbox_list": [[[1, 2, 3.0, 4]]], "image_urls": [URL]},
        "bbox_list[0][0][2]",
        "type",
        f"{COORDINATE}, got 3.0",
    ),
    (
        {"bbox_list": [[], [[1, 1, 2, 2], [5, 1, 5, 2]]], "image_urls": [URL, URL]},
        "bbox_list[1][1]",
        "order",
        "must have x1 < x2 and y1 < y2, got [5, 1, 5, 2]",
    ),
    (
        {"bbox_list": [[[1, 9, 2, 8]]], "image_urls": [URL]},
        "bbox_list[0][0]",
        "order",
        "must have x1 < x2 and y1 < y2, got [1, 9, 2, 8]",
    ),
    (
        {"bbox_list": [[[0, 0, 1001, 500]]], "image_urls": [png_uri(1000, 500)]},
        "bbox_list[0][0]",
        "bounds",
        "must lie within its image of 1000x500 px, got [0, 0, 1001, 500]",
    ),
    # color_palette
    (
        {"color_palette": palette("50%", "50%")},
        "color_palette",
        "min_items",
        "must be a list of 3 to 10 entries, got a list of 2",
    ),
    (
        {"color_palette": palette(*["9%"] * 11)},
        "color_palette",
        "max_items",
        "must be a list of 3 to 10 entries, got a list of 11",
    ),
    (
        {"color_palette": palette("33.33%", "33.33%", "33.33%")},
        "color_palette",
        "sum",
        "ratios must sum to exactly 100.00%, got 99.99%",
    ),
    (
        {"color_palette": [*palette("50%", "25%"), {"hex": "C2D1E6", "ratio": "25%"}]},
        "color_palette[2].hex",
        "format",
        "must be of the form #RRGGBB, got 'C2D1E6'",
    ),
    (
        {"color_palette": palette("50%", "25.000%", "25%")},
        "color_palette[1].ratio",
        "format",
        f"{RATIO}, got '25.000%'",
    ),
    (
        {"color_palette": palette("100.01%", "0%", "0%")},
        "color_palette[0].ratio",
        "format",
        f"{RATIO}, got '100.01%'",
    ),
    (
        {"color_palette": [*palette("50%", "25%"), {"hex": "#C2D1E6", "ratio": 25}]},
        "color_palette[2].ratio",
        "type",
        'must be text of the form "23.51%", got 25',
    ),
    (
        {"color_palette": [*palette("50%", "25%"), {"hex": "#C2D1E6"}]},
        "color_palette[2].ratio",
        "required",
        'is required and must be text of the form "23.51%"',
    ),
    (
        {"color_palette": [*palette("50%", "25%"), {"hex": "#C2D1E6", "ratio": "25%", "name": "sky"}]},
        "color_palette[2].name",
        "unknown_field",
        "is not a field here; known are hex, ratio",
    ),
    (
        {"color_palette": [*palette("50%", "50%"), "#C2D1E6"]},
        "color_palette[2]",
        "type",
        "must be an object with hex and ratio, got '#C2D1E6'",
    ),
    # anything else
    ({"image_url": SECRET}, "image_url", "unknown_field", f"is not a field here; {KNOWN}"),
    ({"a b\n": SECRET}, "'a b\\n'", "unknown_field", f"is not a field here; {KNOWN}"),
]


@pytest.mark.parametrize(("fields", "path", "rule", "sentence"), BROKEN)
def test_each_broken_rule_is_one_issue(fields: dict[str, Any], path: str, rule: str, sentence: str) -> None:
    """A broken rule gives exactly one issue: its field, its code, and a message with the limit."""
    (issue,) = issues_for(**fields)
    assert (issue.field, issue.rule, issue.message) == (path, rule, f"{path}: {sentence}")
    assert SECRET not in issue.message + issue.value


def test_all_broken_fields_are_reported_at_once() -> None:
    """Fields that are wrong by themselves come in one error."""
    assert [issue.field for issue in issues_for(n=99, seed=-1, size="x", watermark=3)] == [
        "n",
        "size",
        "watermark",
        "seed",
    ]


def test_all_broken_rules_between_fields_are_reported_at_once() -> None:
    """So do contradictions between fields."""
    issues = issues_for(prompt=" ", n=7, size="4K", bbox_list=[[]])
    assert [(issue.field, issue.rule) for issue in issues] == [
        ("size", "max_tier"),
        ("n", "maximum"),
        ("prompt", "required"),
        ("bbox_list", "requires_images"),
    ]


def test_the_number_of_issues_is_bounded() -> None:
    """A hostile object does not become a hostile error."""
    issues = issues_for(**{f"field_{number}": 1 for number in range(1000)})
    assert len(issues) == 21
    assert issues[-1].message == "request: has 980 further issues"


@pytest.mark.parametrize("given", [None, 3, "text", [], [("model", "wan2.7-image")]])
def test_what_is_no_object_is_refused(given: Any) -> None:
    """Only a mapping can be a request."""
    with pytest.raises(InvalidRequest, match="request: must be an object with the request's fields, got"):
        parse_request(given)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "request: is not JSON: EOF while parsing a value"),
        (b'{"prompt":"do-not-show-me', "request: is not JSON: EOF while parsing a string"),
        (b'{"prompt":"\xff"}', "request: is not JSON: invalid unicode code point"),
        (
            b'{"model":"wan2.7-image","prompt":"\\ud800"}',
            "request: is not JSON: unexpected end of hex escape",
        ),
        (b"[" * 100_000, "request: is not JSON: recursion limit exceeded"),
        (b"[]", "request: must be an object with the request's fields, got a list of 0"),
        (b'{"model":"wan2.7-image","prompt":"x","n":NaN}', f"n: {N}, got nan"),
        (b'{"model":"wan2.7-image","prompt":"x","n":1e0}', f"n: {N}, got 1.0"),
    ],
)
def test_broken_json_is_refused(line: bytes, message: str) -> None:
    """A line that is not JSON, or not a request, says where and never quotes itself."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request_json(line)
    assert caught.value.issues[0].message.startswith(message)
    assert SECRET not in str(caught.value)


def test_the_constructor_has_the_same_rules_and_quotes_nothing() -> None:
    """Building the model directly raises pydantic's error, without the input in it."""
    with pytest.raises(ValidationError) as caught:
        GenerationRequest(model="wan2.7-image", prompt=SECRET, n=5)
    assert "must be from 1 to 4" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_copy_that_was_not_checked_is_checked() -> None:
    """`model_copy` checks nothing, so a ready request is judged again."""
    request = parse_request({"model": "wan2.7-image", "prompt": "a cat"})
    with pytest.raises(InvalidRequest, match="got 99"):
        parse_request(request.model_copy(update={"n": 99}))


def test_repr_shows_no_prompt_and_no_url() -> None:
    """Requests get logged by accident; their text must not."""
    request = parse_request(
        {
            "model": PRO,
            "prompt": SECRET,
            "negative_prompt": SECRET,
            "image_urls": [f"https://host.example/{SECRET}"],
        }
    )
    assert SECRET not in repr(request) + str(request)


ACCEPTED: list[dict[str, Any]] = [
    {"prompt": "x" * 5000},
    {"prompt": "\U0001f431" * 5000},
    {"n": 4},
    {"n": 12, "enable_sequential": True},
    {"size": "768x768"},
    {"size": "2048*2048"},
    {"size": "5792x724"},
    {"model": PRO, "size": "4K"},
    {"model": PRO, "size": "4096x4096"},
    {"model": PRO, "size": "11584x1448"},
    {"model": PRO, "size": "3:2", "resolution": "4K"},
    {"size": "2:3", "resolution": "1K"},
    {"size": "1K", "resolution": "1K"},
    {"resolution": "1K"},
    {"prompt": None, "image_urls": [URL]},
    {"prompt": " ", "image_urls": (URL,)},
    {"image_urls": []},
    {"image_urls": ["HTTP://[::1]:8080/a?b=c#d", "https://bücher.example/ä.png"]},
    {"image_urls": [URL] * 9, "bbox_list": [[]] * 9},
    {"image_urls": [png_uri(240, 1920), png_uri(8000, 1000)]},
    {"image_urls": [png_uri(1000, 500)], "bbox_list": [[[0, 0, 1000, 500], [1, 1, 2, 2]]]},
    {"seed": 0},
    {"seed": 2_147_483_647},
    {"watermark": False, "thinking_mode": True, "negative_prompt": "blurry"},
    {"color_palette": palette("33.33%", "33.33%", "33.34%")},
    {"color_palette": palette(*["10%"] * 10)},
    {"color_palette": palette("100%", "0.0%", "0%")},
]


@pytest.mark.parametrize("fields", ACCEPTED)
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    """Every limit is inclusive, and every documented form is taken."""
    parse_request({"model": "wan2.7-image", "prompt": "a cat", **fields})
