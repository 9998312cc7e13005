"""The request rules: what the stand-in accepts and what it refuses, through HTTP."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.unit.sandbox.sandbox_process import KEY, bearer

if TYPE_CHECKING:
    from tests.unit.sandbox.sandbox_process import Sandbox

PRO = "wan2.7-image-pro"
URL = "https://example.com/a.png"


def data_uri(width: int, height: int, kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.new("1" if kind == "PNG" else "RGB", (width, height)).save(out, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def palette(*ratios: object) -> list[dict[str, object]]:
    return [{"hex": "#C2D1E6", "ratio": ratio} for ratio in ratios]


GOOD: dict[str, dict[str, object]] = {
    "standard text": {},
    "pro text": {"model": PRO},
    "explicit null is absent": {"size": None, "n": None},
    "unknown field": {"style": "vivid"},
    "longest prompt": {"prompt": "x" * 5000},
    "n at most": {"n": 4},
    "sequential n at most": {"n": 12, "enable_sequential": True},
    "1K": {"size": "1K"},
    "4K pro": {"model": PRO, "size": "4K"},
    "4K pro by resolution": {"model": PRO, "size": "16:9", "resolution": "4K"},
    "ratio": {"size": "2:3"},
    "ratio with tier": {"size": "4:3", "resolution": "1K"},
    "keyword with the same tier": {"size": "2K", "resolution": "2K"},
    "pixels with x": {"size": "1024x1024"},
    "pixels with star": {"size": "1024*1024"},
    "fewest pixels": {"size": "768x768"},
    "fewest pixels, oblong": {"size": "512x1152"},
    "most pixels": {"size": "2048x2048"},
    "one side beyond, total within": {"size": "4096x1024"},
    "most pixels pro": {"model": PRO, "size": "4096x4096"},
    "widest aspect": {"size": "4096x512"},
    "negative prompt": {"negative_prompt": "blurry"},
    "watermark": {"watermark": True},
    "seed low": {"seed": 0},
    "seed high": {"seed": 2147483647},
    "thinking": {"thinking_mode": True},
    "edit with web url": {"image_urls": [URL]},
    "edit without prompt": {"prompt": ..., "image_urls": [URL]},
    "nine inputs": {"image_urls": [URL] * 9},
    "data uri png": {"image_urls": [data_uri(240, 240)]},
    "data uri jpeg": {"image_urls": [data_uri(300, 240, "JPEG")]},
    "data uri webp": {"image_urls": [data_uri(300, 240, "WEBP")]},
    "data uri bmp": {"image_urls": [data_uri(300, 240, "BMP")]},
    "data uri widest": {"image_urls": [data_uri(8000, 1000)]},
    "boxes": {"image_urls": [URL, URL], "bbox_list": [[], [[989, 515, 1138, 681], [0, 0, 1, 1]]]},
    "box up to the edge": {"image_urls": [data_uri(300, 240)], "bbox_list": [[[0, 0, 300, 240]]]},
    "palette of three": {"color_palette": palette("33.33%", "33.33%", "33.34%")},
    "palette of ten": {"color_palette": palette(*["10.00%"] * 10)},
    "palette with a sum that floats miss": {"color_palette": palette("0.10%", "0.20%", "99.70%")},
    "palette is not looked at in sequential mode": {
        "enable_sequential": True,
        "color_palette": palette("1%"),
    },
}

BAD: dict[str, tuple[dict[str, object], str]] = {
    "no model": ({"model": ...}, "model"),
    "other model": ({"model": "wan2.6-image"}, "model"),
    "model of wrong type": ({"model": 27}, "model"),
    "no prompt": ({"prompt": ...}, "prompt"),
    "empty prompt": ({"prompt": ""}, "prompt"),
    "blank prompt": ({"prompt": "  "}, "prompt"),
    "prompt of wrong type": ({"prompt": ["a"]}, "prompt"),
    "prompt too long": ({"prompt": "x" * 5001}, "5000"),
    "prompt with half a surrogate pair": ({"prompt": "a \ud800"}, "Unicode"),
    "n zero": ({"n": 0}, "n must"),
    "n too many": ({"n": 5}, "1 to 4"),
    "n too many in sequential mode": ({"n": 13, "enable_sequential": True}, "1 to 12"),
    "n as text": ({"n": "1"}, "n must"),
    "n as boolean": ({"n": True}, "n must"),
    "n as float": ({"n": 1.0}, "n must"),
    "size unknown": ({"size": "3:5"}, "size"),
    "size lower case": ({"size": "2k"}, "size"),
    "size as number": ({"size": 1024}, "size"),
    "size in other digits": ({"size": "\u0661024x1024"}, "size"),
    "resolution unknown": ({"resolution": "8K"}, "resolution"),
    "4K standard": ({"size": "4K"}, "4K"),
    "4K standard by resolution": ({"size": "1:1", "resolution": "4K"}, "4K"),
    "4K pro edit": ({"model": PRO, "size": "4K", "image_urls": [URL]}, "4K"),
    "4K pro sequential": ({"model": PRO, "size": "4K", "enable_sequential": True}, "4K"),
    "keyword with another tier": ({"size": "1K", "resolution": "2K"}, "resolution"),
    "pixels with tier": ({"size": "1024x1024", "resolution": "1K"}, "resolution"),
    "too few pixels": ({"size": "767x768"}, "768x768"),
    "too many pixels": ({"size": "2048x2049"}, "2048x2048"),
    "too many pixels pro": ({"model": PRO, "size": "4096x4097"}, "4096x4096"),
    "too many pixels pro edit": ({"model": PRO, "size": "2048x2049", "image_urls": [URL]}, "2048x2048"),
    "too wide": ({"size": "4104x512"}, "aspect"),
    "negative prompt of wrong type": ({"negative_prompt": 1}, "negative_prompt"),
    "watermark as text": ({"watermark": "true"}, "watermark"),
    "seed negative": ({"seed": -1}, "seed"),
    "seed too large": ({"seed": 2147483648}, "seed"),
    "seed as text": ({"seed": "7"}, "seed"),
    "thinking as number": ({"thinking_mode": 1}, "thinking_mode"),
    "sequential as number": ({"enable_sequential": 1}, "enable_sequential"),
    "inputs as text": ({"image_urls": URL}, "image_urls"),
    "no inputs": ({"image_urls": []}, "image_urls"),
    "ten inputs": ({"image_urls": [URL] * 10}, "image_urls"),
    "inputs as objects": ({"image_urls": [{"url": URL}]}, "image_urls"),
    "input by ftp": ({"image_urls": ["ftp://example.com/a.png"]}, "image_urls[0]"),
    "input without host": ({"image_urls": ["https:///a.png"]}, "image_urls[0]"),
    "input with a space": ({"image_urls": ["https://example.com/a b.png"]}, "image_urls[0]"),
    "input with a broken host": ({"image_urls": ["https://[::1/a.png"]}, "image_urls[0]"),
    "data uri of text": ({"image_urls": ["data:text/plain;base64,YQ=="]}, "data:image"),
    "data uri not base64": ({"image_urls": ["data:image/png,abc"]}, "data:image"),
    "data uri broken base64": ({"image_urls": ["data:image/png;base64,@@@"]}, "base64"),
    "data uri no image": ({"image_urls": ["data:image/png;base64,YWJj"]}, "JPEG, PNG"),
    "data uri gif inside": ({"image_urls": [data_uri(300, 300, "GIF").replace("/gif", "/png")]}, "JPEG, PNG"),
    "second input too small": ({"image_urls": [URL, data_uri(239, 300)]}, "image_urls[1]"),
    "input too large": ({"image_urls": [data_uri(8001, 1100)]}, "8000"),
    "input too wide": ({"image_urls": [data_uri(1928, 240)]}, "aspect"),
    "boxes without inputs": ({"bbox_list": [[]]}, "bbox_list"),
    "boxes for too few inputs": ({"image_urls": [URL, URL], "bbox_list": [[]]}, "bbox_list"),
    "three boxes": ({"image_urls": [URL], "bbox_list": [[[0, 0, 1, 1]] * 3]}, "bbox_list"),
    "box of three numbers": ({"image_urls": [URL], "bbox_list": [[[0, 0, 1]]]}, "bbox_list"),
    "box of floats": ({"image_urls": [URL], "bbox_list": [[[0, 0, 1.5, 1]]]}, "bbox_list"),
    "box inside out": ({"image_urls": [URL], "bbox_list": [[[5, 0, 5, 1]]]}, "bbox_list"),
    "box negative": ({"image_urls": [URL], "bbox_list": [[[-1, 0, 5, 1]]]}, "bbox_list"),
    "box outside": ({"image_urls": [data_uri(300, 240)], "bbox_list": [[[0, 0, 301, 240]]]}, "inside"),
    "palette of two": ({"color_palette": palette("50.00%", "50.00%")}, "3 to 10"),
    "palette of eleven": ({"color_palette": palette(*["10.00%"] * 11)}, "3 to 10"),
    "palette sum short": ({"color_palette": palette("33.33%", "33.33%", "33.33%")}, "100.00"),
    "palette ratio as number": ({"color_palette": palette(30, 30, 40)}, "ratio"),
    "palette ratio without sign": ({"color_palette": palette("30", "30", "40")}, "ratio"),
    "palette hex short": ({"color_palette": [{"hex": "#CCC", "ratio": "50%"}] * 3}, "hex"),
    "palette of strings": ({"color_palette": ["#C2D1E6"] * 3}, "hex"),
}


@pytest.mark.parametrize("fields", GOOD.values(), ids=GOOD.keys())
def test_a_request_within_the_rules_is_accepted(provider: Sandbox, fields: dict[str, Any]) -> None:
    """Every documented feature, at its limits, gets a task id."""
    assert provider.accepted(**({"prompt": "rules"} | fields)).startswith("task_")


@pytest.mark.parametrize(("fields", "names"), BAD.values(), ids=BAD.keys())
def test_a_broken_rule_is_refused(provider: Sandbox, fields: dict[str, Any], names: str) -> None:
    """A broken rule gets a 400 in the documented shape, whose message names the field or the limit."""
    answer = provider.submit(**({"prompt": "rules"} | fields))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert names in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000], ids=repr)
def test_a_body_that_is_no_json_object_is_refused(provider: Sandbox, body: bytes) -> None:
    """Bytes that are not a JSON object get a 400."""
    assert provider.post(body, bearer(KEY)).status_code == 400


def test_an_input_of_more_than_20_mb_is_refused(provider: Sandbox) -> None:
    """The decoded size of a data URI is limited, whatever its header says."""
    head = base64.b64decode(data_uri(300, 300).partition(",")[2])
    payload = base64.b64encode(head + b"\0" * (20 * 1024 * 1024)).decode()
    answer = provider.submit("rules", image_urls=[f"data:image/png;base64,{payload}"])
    assert answer.status_code == 400
    assert "20 MB" in answer.json()["error"]["message"]
