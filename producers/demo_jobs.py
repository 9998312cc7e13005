"""The bundled example jobs: between them they use every feature of the model.

Prompts carry `[[...]]` markers for the sandbox: `[[m:NAME]]` groups its ledger, `[[fault:...]]` asks it to refuse or
to deliver less. A real provider would paint them; the demo talks to the sandbox only.
"""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Final

STANDARD: Final = "wan2.7-image"
PRO: Final = "wan2.7-image-pro"
_MARKERS: Final = re.compile(r"\s*\[\[[^\]]*\]\]")
_PHOTO: Final = "https://images.example.com/"  # the sandbox fetches no inputs
_PALETTE: Final = [
    {"hex": "#C2D1E6", "ratio": "23.51%"},
    {"hex": "#F2E8CF", "ratio": "36.49%"},
    {"hex": "#386641", "ratio": "25.00%"},
    {"hex": "#BC4749", "ratio": "15.00%"},
]


@dataclass(frozen=True, slots=True)
class DemoJob:
    """One example: what it shows, its request, and what the provider is to make of it.

    `images` are to be delivered; 0 for one that the provider refuses.
    """

    shows: str
    request: dict[str, Any]
    images: int

    @property
    def refused(self) -> bool:
        return self.images == 0

    @property
    def partial(self) -> bool:
        return 0 < self.images < int(self.request.get("n", 1))


def demo_jobs() -> list[DemoJob]:
    """Give the jobs, in order; every call gives the same."""
    jobs = [*_text_to_image(), *_sizes(), *_sequential(), *_with_images(), *_bad_days()]
    for number, job in enumerate(jobs, start=1):
        job.request["prompt"] += f" [[m:demo-{number:02d}]]"
    return jobs


def without_markers(prompt: str) -> str:
    """Give a prompt as a person would have written it."""
    return _MARKERS.sub("", prompt).strip()


def _job(shows: str, model: str, prompt: str, *, images: int | None = None, **fields: Any) -> DemoJob:
    request = {"model": model, "prompt": prompt, **fields}
    return DemoJob(shows, request, fields.get("n", 1) if images is None else images)


def _text_to_image() -> list[DemoJob]:
    return [
        _job("nothing but a prompt", STANDARD, "A flower shop with exquisite windows and a wooden door"),
        _job("1K", STANDARD, "A lighthouse in a storm, oil on canvas", size="1K"),
        _job("2K, n = 2", STANDARD, "A fox asleep in autumn leaves", size="2K", n=2),
        _job("4K", PRO, "The night sky over a desert, every star sharp", size="4K"),
        _job(
            "negative_prompt", STANDARD, "A portrait of a chess player", negative_prompt="blurry, low quality"
        ),
        _job("watermark", STANDARD, "A postcard of a mountain hut", watermark=True),
        _job("seed", STANDARD, "A paper boat on a puddle", seed=42),
        _job("thinking_mode", PRO, "A watch movement, exploded view", thinking_mode=True),
        _job("color_palette", PRO, "A meadow in four colours", color_palette=_PALETTE, n=2),
    ]


def _sizes() -> list[DemoJob]:
    return [
        _job("ratio 1:1 in 4K", PRO, "A city map drawn in ink", size="1:1", resolution="4K"),
        _job("ratio 16:9", STANDARD, "A train crossing a viaduct", size="16:9"),
        _job("ratio 9:16 in 1K", STANDARD, "A bamboo grove looking up", size="9:16", resolution="1K"),
        _job("ratio 4:3 in 2K", PRO, "A still life with lemons", size="4:3", resolution="2K"),
        _job("ratio 3:4", STANDARD, "A violin maker at work", size="3:4"),
        _job("ratio 3:2", STANDARD, "A harbour at dawn", size="3:2"),
        _job("ratio 2:3", STANDARD, "A spiral staircase from above", size="2:3"),
        _job("pixels", STANDARD, "A tiled kitchen wall", size="1024x1024"),
        _job("pixels, 3:1", PRO, "A panorama of terraced fields", size="3840*1280"),
    ]


def _sequential() -> list[DemoJob]:
    story = "A snail crosses a garden path, told in six pictures"
    return [_job("sequential, n = 6", STANDARD, story, enable_sequential=True, n=6)]


def _with_images() -> list[DemoJob]:
    fusion = "Put the hat of the first picture on the cat of the second, in the style of the third"
    return [
        _job("edit of an image", STANDARD, "Make it winter", image_urls=[_PHOTO + "park.jpg"]),
        _job(
            "three references",
            PRO,
            fusion,
            image_urls=[_PHOTO + "hat.png", _PHOTO + "cat.png", _PHOTO + "style.webp"],
        ),
        _job(
            "bbox_list",
            PRO,
            "Place the clock in the marked region",
            image_urls=[_PHOTO + "clock.jpg", _PHOTO + "wall.jpg"],
            bbox_list=[[], [[989, 515, 1138, 681]]],
        ),
        _job(
            "data URI", STANDARD, "Turn the gradient into a sunset", image_urls=[gradient_data_uri(480, 320)]
        ),
    ]


def _bad_days() -> list[DemoJob]:
    teapot = "Four views of a teapot, of which two come [[fault:partial:2]]"
    return [
        _job("refused", STANDARD, "Something the provider will not draw [[fault:refuse]]", images=0),
        _job("partial success", STANDARD, teapot, n=4, images=2),
    ]


def gradient_data_uri(width: int, height: int) -> str:
    """Draw a small PNG (RFC 2083) in memory and give it as a data URI."""
    rows = b"".join(
        b"\0" + b"".join(bytes((255 * x // width, 255 * y // height, 160)) for x in range(width))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)
    return "data:image/png;base64," + b64encode(png).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
