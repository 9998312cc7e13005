"""What follows from a request that was judged: what it asks for, and what of it the provider ignores.

They take a request's fields by name, as its spec has them (defaults left out) or as `vars()` of a model gives them, so
that nobody has to build a model only to read one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from shared.jobs.sizes import is_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Mode = Literal["text_to_image", "edit", "interactive", "multi_image", "sequential"]


def mode_of(asked: Mapping[str, Any]) -> Mode:
    """What the request asks for; a sequential one may have image inputs, too."""
    if asked.get("enable_sequential"):
        return "sequential"
    images = asked.get("image_urls")
    if not images:
        return "text_to_image"
    if any(asked.get("bbox_list") or ()):
        return "interactive"
    return "multi_image" if len(images) > 1 else "edit"


def warnings_of(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """What the vendor page says the API ignores."""
    if asked.get("thinking_mode") or asked.get("color_palette") or asked.get("image_urls"):
        return tuple(_warnings(asked))
    return ()


def _warnings(asked: Mapping[str, Any]) -> Iterator[str]:
    thinking, images, size = asked.get("thinking_mode"), asked.get("image_urls"), asked.get("size")
    if asked.get("enable_sequential"):
        if thinking:
            yield "thinking_mode: ignored in sequential mode"
        if asked.get("color_palette"):
            yield "color_palette: ignored in sequential mode"
    elif thinking and images:
        yield "thinking_mode: ignored with image_urls"
    if images and is_ratio(size):
        yield f"size: the output takes the aspect ratio of the last input image, not {size}"
