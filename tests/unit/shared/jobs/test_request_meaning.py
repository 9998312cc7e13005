"""What a request means: canonical bytes, fingerprint, inputs, mode, pixels, label, warnings."""

from __future__ import annotations

import json
import struct
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.jobs.data_uri import encode_data_uri
from shared.jobs.request import (
    GenerationRequest,
    data_uris,
    fingerprint,
    input_keys,
    parse_request,
    parse_request_json,
    request_bytes,
    restore_request,
    with_inputs,
    with_urls,
)

PRO = "wan2.7-image-pro"
URL = "https://images.example/a.png"
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
PNG_URI = encode_data_uri("image/png", PNG)
PALETTE = [{"hex": "#C2D1E6", "ratio": ratio} for ratio in ("50.00%", "25.00%", "25.00%")]


def request(**fields: Any) -> GenerationRequest:
    return parse_request({"model": "wan2.7-image", "prompt": "a cat", **fields})


def optional(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(st.just({}), values.map(lambda value: {name: value}))


requests = st.tuples(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["wan2.7-image", PRO]),
            "prompt": st.text(min_size=1, max_size=50).filter(lambda text: bool(text.strip())),
        }
    ),
    optional("n", st.integers(1, 4)),
    optional("size", st.sampled_from(["1K", "2K", "16:9", "3:4", "1024x1024", "800*900"])),
    optional("negative_prompt", st.text(max_size=20)),
    optional("watermark", st.none() | st.booleans()),
    optional("seed", st.integers(0, 2**31 - 1)),
    optional("thinking_mode", st.booleans()),
    optional("enable_sequential", st.none() | st.booleans()),
    optional("image_urls", st.lists(st.sampled_from([URL, "http://h/b?c=d"]), max_size=9)),
    optional("color_palette", st.just(PALETTE)),
).map(lambda parts: {name: value for part in parts for name, value in part.items()})


@given(requests, st.randoms())
def test_key_order_does_not_change_the_bytes(data: dict[str, Any], shuffler: Any) -> None:
    """The same meaning gives the same bytes, and they mean the same again."""
    names = list(data)
    shuffler.shuffle(names)
    canonical = request_bytes(parse_request(data))
    assert request_bytes(parse_request({name: data[name] for name in names})) == canonical
    assert restore_request(canonical) == parse_request_json(canonical) == parse_request(data)
    assert request_bytes(restore_request(canonical)) == canonical


@given(requests)
def test_the_bytes_hold_what_was_set_and_nothing_else(data: dict[str, Any]) -> None:
    """`model` and `n` are always there; nothing is sent that the caller left out."""
    written = json.loads(request_bytes(parse_request(data)))
    assert {"model", "n"} <= written.keys() <= {"n", *data}
    assert written["prompt"] == data["prompt"]
    assert None not in written.values()


def test_the_exact_bytes() -> None:
    """Compact UTF-8 JSON in the order of the fields: stored requests depend on it."""
    whole = request(
        color_palette=PALETTE,
        seed=7,
        watermark=False,
        size="1024*1024",
        prompt="Käse 🐱",
        negative_prompt="x",
        thinking_mode=True,
        n=2,
        image_urls=[URL],
        bbox_list=[[[1, 2, 3, 4]]],
    )
    assert request_bytes(whole).decode() == (
        '{"model":"wan2.7-image","prompt":"Käse 🐱","n":2,"size":"1024x1024","image_urls":["https://images.example/a.png"],'
        '"negative_prompt":"x","watermark":false,"seed":7,"thinking_mode":true,"bbox_list":[[[1,2,3,4]]],'
        '"color_palette":[{"hex":"#C2D1E6","ratio":"50.00%"},{"hex":"#C2D1E6","ratio":"25.00%"},'
        '{"hex":"#C2D1E6","ratio":"25.00%"}]}'
    )
    assert request_bytes(request()) == b'{"model":"wan2.7-image","prompt":"a cat","n":1}'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n": 1}, {}),
        ({"size": "1024*768"}, {"size": "1024x768"}),
        ({"size": "1K", "resolution": "1K"}, {"size": "1K"}),
        ({"enable_sequential": False}, {"enable_sequential": None}),
        ({"image_urls": []}, {}),
        ({"negative_prompt": " "}, {}),
        ({"prompt": "", "image_urls": [URL]}, {"prompt": None, "image_urls": [URL]}),
        ({"image_urls": (URL,)}, {"image_urls": [URL]}),
        (
            {"color_palette": [{"ratio": r, "hex": "#c2d1e6"} for r in ("50%", "25.0%", "25.00%")]},
            {"color_palette": PALETTE},
        ),
    ],
)
def test_spellings_of_one_meaning_have_the_same_bytes(one: dict[str, Any], other: dict[str, Any]) -> None:
    """What differs in spelling only is one request, also for idempotency."""
    assert request_bytes(request(**one)) == request_bytes(request(**other))


@pytest.mark.parametrize(
    "fields", [{"watermark": False}, {"thinking_mode": False}, {"size": "2K"}, {"seed": 0}]
)
def test_an_explicit_value_is_not_the_same_as_none(fields: dict[str, Any]) -> None:
    """The gateway's defaults are not certain, so an explicit value is kept and sent."""
    (name, value), *_ = fields.items()
    assert json.loads(request_bytes(request(**fields)))[name] == value


def test_any_mapping_is_taken_as_a_request() -> None:
    """A dict is the fast way, not the only one; a ready request passes unchanged."""
    data = {"model": "wan2.7-image", "prompt": "a cat"}
    assert parse_request(MappingProxyType(data)) == parse_request(data) == parse_request(parse_request(data))


def test_a_request_is_a_value() -> None:
    """Requests are frozen and hashable."""
    assert len({request(color_palette=PALETTE), request(color_palette=PALETTE), request(seed=1)}) == 2
    with pytest.raises(ValueError, match="frozen"):
        request().n = 2  # type: ignore[misc]  # the assignment is what is tested


def test_a_fingerprint_is_short_and_safe_in_urls() -> None:
    """22 characters of base64url, the same on any machine (cae66941d9efbd404e4d88758ea67670 in hex)."""
    assert fingerprint(b"") == "yuZpQdnvvUBOTYh1jqZ2cA"
    assert fingerprint(b"a") != fingerprint(b"b")


@given(st.binary())
def test_a_fingerprint_is_base64url(content: bytes) -> None:
    """No character needs escaping in a key or URL."""
    name = fingerprint(content)
    assert len(name) == 22
    assert name.replace("-", "").replace("_", "").isalnum()
    assert name.isascii()


def test_data_uris_are_given_with_their_place() -> None:
    """Offloading needs index, type and bytes of each carried input."""
    ((index, uri),) = data_uris(request(image_urls=[URL, PNG_URI]))
    assert (index, uri.media_type, uri.extension, uri.payload) == (1, "image/png", "png", PNG)
    assert list(data_uris(request())) == []


def test_offloaded_inputs_go_to_the_store_and_back() -> None:
    """A stored request holds references; a worker finds their keys and puts the images back."""
    given_request = request(image_urls=[URL, PNG_URI], bbox_list=[[], [[1, 2, 3, 4]]])
    stored = with_inputs(given_request, {1: "inputs/ab.png"})
    assert stored.image_urls == (URL, "darkroom-input:inputs/ab.png")
    restored = restore_request(request_bytes(stored))
    assert restored == stored
    assert list(input_keys(restored)) == [(1, "inputs/ab.png")]
    assert with_urls(restored, {1: PNG_URI}) == given_request


def test_references_never_come_from_a_caller() -> None:
    """A reference would let one tenant read what another stored: refused in every way in."""
    stored = with_inputs(request(image_urls=[PNG_URI]), {0: "inputs/ab.png"})
    with pytest.raises(InvalidRequest, match=r"image_urls\[0\]"):
        parse_request_json(request_bytes(stored))
    with pytest.raises(InvalidRequest, match=r"image_urls\[0\]"):
        parse_request(json.loads(request_bytes(stored)))
    with pytest.raises(InvalidRequest, match=r"image_urls\[0\]"):
        parse_request(stored)


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 1025])
def test_a_stored_reference_needs_a_key(key: str) -> None:
    """Even from the store, a reference without a plausible key is refused."""
    with pytest.raises(InvalidRequest, match=r"image_urls\[0\]"):
        restore_request(request_bytes(with_inputs(request(image_urls=[URL]), {0: key})))


def test_restoring_keeps_the_other_rules() -> None:
    """What comes from the store is judged like anything else."""
    with pytest.raises(InvalidRequest, match="n: must be"):
        restore_request(b'{"model":"wan2.7-image","prompt":"x","n":5}')


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "text_to_image"),
        ({"image_urls": [URL]}, "edit"),
        ({"image_urls": [URL], "bbox_list": [[]]}, "edit"),
        ({"image_urls": [URL, URL]}, "multi_image"),
        ({"image_urls": [URL, URL], "bbox_list": [[], [[1, 2, 3, 4]]]}, "interactive"),
        ({"enable_sequential": True, "n": 12}, "sequential"),
        ({"enable_sequential": True, "image_urls": [URL]}, "sequential"),
    ],
)
def test_mode(fields: dict[str, Any], mode: str) -> None:
    """Each of the page's five uses is told from the fields."""
    assert request(**fields).mode == mode


@pytest.mark.parametrize(
    ("fields", "pixels", "label"),
    [
        ({}, (2048, 2048), "2K"),
        ({"size": "16:9", "resolution": "1K"}, (1696, 960), "1K 16:9"),
        ({"size": "1000*800"}, (1000, 800), "1000x800"),
        ({"size": "16:9", "image_urls": [URL]}, None, "2K 16:9"),
        ({"image_urls": [URL]}, None, "2K"),
        ({"size": "1000x800", "image_urls": [URL]}, (1000, 800), "1000x800"),
    ],
)
def test_pixels_and_label(fields: dict[str, Any], pixels: tuple[int, int] | None, label: str) -> None:
    """With image inputs the output takes their shape, so nothing is promised."""
    assert (request(**fields).pixels, request(**fields).label) == (pixels, label)


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        ({}, ()),
        ({"thinking_mode": True, "negative_prompt": "x", "color_palette": PALETTE}, ()),
        ({"thinking_mode": False, "enable_sequential": True}, ()),
        (
            {"thinking_mode": True, "color_palette": PALETTE, "enable_sequential": True},
            ("thinking_mode: ignored in sequential mode", "color_palette: ignored in sequential mode"),
        ),
        ({"thinking_mode": True, "image_urls": [URL]}, ("thinking_mode: ignored with image_urls",)),
        ({"size": "2K", "image_urls": [URL]}, ()),
        (
            {"size": "16:9", "image_urls": [URL]},
            ("size: the output takes the aspect ratio of the last input image, not 16:9",),
        ),
    ],
)
def test_warnings(fields: dict[str, Any], warnings: tuple[str, ...]) -> None:
    """What the page says is ignored is a warning, and nothing else is."""
    assert request(**fields).warnings == warnings


def test_a_box_may_fit_a_turned_jpeg() -> None:
    """EXIF may turn a JPEG, so a box is out of bounds only if it fits neither way."""
    frame = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 480, 640) + bytes(20)
    uri = encode_data_uri("image/jpeg", frame)
    request(image_urls=[uri], bbox_list=[[[0, 0, 640, 480], [0, 0, 480, 640]]])
    with pytest.raises(InvalidRequest, match="must lie within its image of 640x480 px"):
        request(image_urls=[uri], bbox_list=[[[0, 0, 640, 640]]])
