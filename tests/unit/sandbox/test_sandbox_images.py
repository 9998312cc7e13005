"""The pictures: real PNGs, of the right aspect, distinct, public, and gone when their time is over."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.sandbox.sandbox_process import Sandbox


def fetch(sandbox: Sandbox, task_id: str) -> list[bytes]:
    answers = [sandbox.http.get(url) for url in sandbox.image_urls(task_id)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


def pixels(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def data_uri(width: int, height: int) -> str:
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (256, 256)),
        ({"size": "16:9"}, (256, 146)),
        ({"size": "9:16"}, (146, 256)),
        ({"size": "3:2", "resolution": "1K"}, (256, 171)),
        ({"size": "4096x512"}, (256, 32)),
        ({"size": "512*4096"}, (32, 256)),
        ({"image_urls": ["https://a.example/1.png"]}, (256, 256)),
        ({"image_urls": [data_uri(240, 480), data_uri(960, 240)]}, (256, 64)),
        ({"image_urls": [data_uri(960, 240), "https://a.example/1.png"]}, (256, 256)),
        ({"image_urls": [data_uri(960, 240)], "size": "1024x1024"}, (256, 256)),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_image_has_the_asked_aspect(
    provider: Sandbox, fields: dict[str, object], size: tuple[int, int]
) -> None:
    """Images decode and have the aspect of the size asked for, or of the last input where it is known."""
    [png] = fetch(provider, provider.accepted("a cat", **fields))
    assert pixels(png).size == size


def test_images_of_a_task_are_distinct_to_the_eye(provider: Sandbox) -> None:
    """Twelve images of one sequential task are twelve pictures, not only twelve files."""
    pngs = fetch(provider, provider.accepted("a cat", n=12, enable_sequential=True))
    assert len({pixels(png).tobytes() for png in pngs}) == 12


def test_two_generations_of_one_prompt_differ_in_bytes(provider: Sandbox) -> None:
    """The same request twice gives the same picture in different bytes, the same URL the same bytes."""
    one, two = (provider.accepted("the same cat") for _ in range(2))
    [first], [second], [again] = fetch(provider, one), fetch(provider, two), fetch(provider, one)
    assert first != second
    assert first == again
    assert pixels(first).tobytes() == pixels(second).tobytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "a dog"},
        {"watermark": True},
        {"color_palette": [{"hex": "#FF0000", "ratio": "50%"}, *([{"hex": "#00FF00", "ratio": "25%"}] * 2)]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_picture_shows_what_was_asked(provider: Sandbox, changed: dict[str, object]) -> None:
    """Prompt, watermark and palette change the drawing."""
    base = {"prompt": "a cat"}
    [plain], [other] = (fetch(provider, provider.accepted(**fields)) for fields in (base, base | changed))
    assert pixels(plain).tobytes() != pixels(other).tobytes()


@pytest.mark.parametrize(
    "prompt",
    ["x" * 5000, "\u732b" * 300, "\U0001f408 \u0000 \n\t cat", "[[m:x]]"],
    ids=["long", "cjk", "odd", "marker"],
)
def test_any_prompt_can_be_drawn(provider: Sandbox, prompt: str) -> None:
    """Long words, scripts without spaces and control characters do not break the drawing."""
    [png] = fetch(provider, provider.accepted(prompt))
    assert pixels(png).size == (256, 256)


def test_the_side_of_images_can_be_set(start: Callable[..., Sandbox]) -> None:
    """A larger side is followed up to the size asked for, and never beyond."""
    sandbox = start("provider", "--latency", "0", "--image-px", "8000")
    [png] = fetch(sandbox, sandbox.accepted("a cat", size="1024x768"))
    assert pixels(png).size == (1024, 768)


def test_images_are_public(provider: Sandbox) -> None:
    """An image needs no key, only its URL; a changed signature or index does not open it."""
    [url] = provider.image_urls(provider.accepted("a cat"))
    assert provider.http.get(url).status_code == 200
    assert provider.http.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    assert provider.http.get(url.partition("?")[0]).status_code == 403
    assert provider.http.get(url.replace("_0.png", "_1.png")).status_code == 403
    assert provider.http.get("/f/image/other.png").status_code == 404


@pytest.mark.parametrize("status", ["403", "404"])
def test_an_expired_url_is_dead(start: Callable[..., Sandbox], status: str) -> None:
    """After its time an image is gone, with the status that is set, while its task is still there."""
    sandbox = start("provider", "--latency", "0", "--expired-status", status)
    task_id = sandbox.accepted("a cat [[fault:url_ttl:0]]")
    [url] = sandbox.image_urls(task_id)
    assert str(sandbox.http.get(url).status_code) == status
    data = sandbox.finished(task_id)
    assert data["result"]["images"][0]["expires_at"] == data["completed"]


def test_the_life_of_urls_can_be_set_while_running(start: Callable[..., Sandbox]) -> None:
    """A changed url_ttl holds for URLs that are already out."""
    sandbox = start("provider", "--latency", "0")
    [url] = sandbox.image_urls(sandbox.accepted("a cat"))
    assert sandbox.http.get(url).status_code == 200
    sandbox.set(url_ttl=0)
    assert sandbox.http.get(url).status_code == 403


def test_urls_are_those_the_client_can_reach(start: Callable[..., Sandbox]) -> None:
    """URLs carry the host the client asked for, or the public base that was set."""
    sandbox = start("provider", "--latency", "0")
    assert sandbox.image_urls(sandbox.accepted())[0].startswith(sandbox.urls["provider"] + "/f/image/")
    public = start("provider", "--latency", "0", "--public-url", "https://img.example/")
    assert public.image_urls(public.accepted())[0].startswith("https://img.example/f/image/")
