"""The bundled examples: valid, and between them every feature of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import pytest

from producers.demo_jobs import PRO, STANDARD, demo_jobs, gradient_data_uri, without_markers
from shared.jobs.request import GenerationRequest, data_uris, parse_request
from shared.jobs.sizes import Keyword, Pixels, Ratio, Size, parse_size

Feature = Callable[[GenerationRequest], bool]


def requests() -> list[GenerationRequest]:
    return [parse_request(job.request) for job in demo_jobs()]


def size_is(kind: type[Size]) -> Feature:
    return lambda request: request.size is not None and isinstance(parse_size(request.size), kind)


def text_to_image(tier: str) -> Feature:
    return lambda request: request.mode == "text_to_image" and request.size == tier


FEATURES: dict[str, Feature] = {
    "the standard model": lambda request: request.model == STANDARD,
    "the pro model": lambda request: request.model == PRO,
    "text-to-image by default": lambda request: request.mode == "text_to_image" and request.size is None,
    "text-to-image at 1K": text_to_image("1K"),
    "text-to-image at 2K": text_to_image("2K"),
    "text-to-image at 4K": text_to_image("4K"),
    "a keyword as size": size_is(Keyword),
    "a ratio as size": size_is(Ratio),
    "pixels as size": size_is(Pixels),
    "a ratio with a resolution": lambda request: size_is(Ratio)(request) and request.resolution is not None,
    "several images": lambda request: request.n > 1 and not request.enable_sequential,
    "negative_prompt": lambda request: request.negative_prompt is not None,
    "watermark": lambda request: request.watermark is True,
    "seed": lambda request: request.seed is not None,
    "thinking_mode": lambda request: request.thinking_mode is True,
    "color_palette": lambda request: request.color_palette is not None,
    "sequential, n = 6": lambda request: request.mode == "sequential" and request.n == 6,
    "editing of one image": lambda request: request.mode == "edit" and len(request.image_urls or ()) == 1,
    "reference to several images": lambda request: request.mode == "multi_image",
    "interactive editing": lambda request: request.mode == "interactive" and bool(request.bbox_list),
    "an image URL": lambda request: any(url.startswith("https://") for url in request.image_urls or ()),
    "a data URI": lambda request: any(True for _ in data_uris(request)),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_job_shows(name: str) -> None:
    """At least one of the examples uses the feature."""
    assert [request for request in requests() if FEATURES[name](request)]


def test_every_ratio_is_shown() -> None:
    """All seven ratios of the vendor's page are among the sizes."""
    ratios = {
        size.text for request in requests() if isinstance(size := parse_size(request.size or ""), Ratio)
    }
    assert ratios == {"1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"}


def test_both_spellings_of_pixels_are_shown() -> None:
    """The vendor's page takes `x` and `*`."""
    sizes = " ".join(str(job.request.get("size", "")) for job in demo_jobs())
    assert "1024x1024" in sizes
    assert "*" in sizes


def test_there_are_enough_valid_jobs() -> None:
    """At least 24, none of which the provider would partly ignore."""
    assert len(requests()) >= 24
    assert [request.warnings for request in requests() if request.warnings] == []


def test_one_is_refused_and_one_partial() -> None:
    """The provider is asked for one refusal for content and for one partial success, and both are expected."""
    (refused,) = [job for job in demo_jobs() if job.refused]
    (partial,) = [job for job in demo_jobs() if job.partial]
    assert "[[fault:refuse]]" in refused.request["prompt"]
    assert f"[[fault:partial:{partial.images}]]" in partial.request["prompt"]
    assert partial.images < partial.request["n"]
    others = [job for job in demo_jobs() if not job.refused and not job.partial]
    assert [job.shows for job in others if job.images != job.request.get("n", 1)] == []
    assert [job.shows for job in others if "[[fault" in job.request["prompt"]] == []


def test_every_job_has_a_group_of_its_own_in_the_sandbox_ledger() -> None:
    """A second submit of a job would show there as a group with two."""
    markers = [job.request["prompt"].rpartition("[[m:")[2] for job in demo_jobs()]
    assert len(set(markers)) == len(markers)
    assert all(marker.endswith("]]") for marker in markers)


def test_every_call_gives_the_same_and_its_own() -> None:
    """The list is the same each time, and changing one does not change the next."""
    first = json.dumps([job.request for job in demo_jobs()])
    demo_jobs()[0].request["prompt"] = "changed"
    assert json.dumps([job.request for job in demo_jobs()]) == first


def test_what_a_job_shows_is_told_apart() -> None:
    """No two examples show the same."""
    shows = [job.shows for job in demo_jobs()]
    assert len(set(shows)) == len(shows)


def test_markers_are_for_the_sandbox_only() -> None:
    """What people read has none, and is otherwise what was written."""
    assert without_markers("Four views [[fault:partial:2]] [[m:demo-25]]") == "Four views"
    assert without_markers("An array[0] [and] so on") == "An array[0] [and] so on"
    assert not any("[[" in without_markers(job.request["prompt"]) for job in demo_jobs())


def test_the_palette_sums_to_a_hundred() -> None:
    """The rule is exact: 100.00 % in decimal arithmetic."""
    (request,) = [request for request in requests() if request.color_palette]
    assert sum(Decimal(color.ratio.rstrip("%")) for color in request.color_palette or ()) == Decimal("100.00")


def test_the_drawn_input_is_an_image_of_that_size() -> None:
    """The data URI is a PNG of the size asked for, by the rules' own reading of its header."""
    ((_, uri),) = data_uris(parse_request({"model": STANDARD, "image_urls": [gradient_data_uri(300, 260)]}))
    assert uri.media_type == "image/png"
    assert uri.payload[16:24] == (300).to_bytes(4, "big") + (260).to_bytes(4, "big")
