"""The generation inside an answer: its id after a submit, its state and images in a poll.

Shapes are those of the apimart-style gateway's public pages, which differ among themselves; every one of them is
read, and nothing here has been checked against the live service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeGuard

from workers.providers.answer import clean, cost_of, id_of, number_of, read_task_error, unix_s_of
from workers.providers.outcomes import ProviderFailed, ResultImage, Running, Succeeded

if TYPE_CHECKING:
    from workers.providers.outcomes import PollOutcome

MAX_IMAGES: Final = 64  # the model makes 12 at most: more is not a result but noise
URL_CHARS: Final = 8192
_MAX_SUBMITTED: Final = 12  # as many as one request can have images

# `completed`, `failed`, `cancelled` are documented; the others are how the code it is a fork of spells them.
_DONE = frozenset({"completed", "succeeded", "success"})
_FAILED = frozenset({"failed", "failure"})
_CANCELLED = frozenset({"cancelled", "canceled"})


class UnreadableResult(Exception):
    """Done, with a result in no shape that is known. Not the same as no images: those would be paid for and lost."""


def submitted_ids(document: object) -> tuple[str, ...]:
    """Give the generation ids of a submit's answer: one as a rule, or none. Four shapes of it are in circulation."""
    data = document.get("data") if isinstance(document, dict) else None
    entries = data if isinstance(data, list) else [data]
    found = (_submitted_id(entry) for entry in entries[:_MAX_SUBMITTED])
    return tuple(dict.fromkeys(each for each in found if each))


def _submitted_id(entry: object) -> str:
    return id_of(entry.get("task_id")) or id_of(entry.get("id")) if isinstance(entry, dict) else ""


def polled_generation(document: object) -> dict[str, Any] | None:
    """Give the generation of a poll's answer: the one under `data` that has a status; None if there is none."""
    data = document.get("data") if isinstance(document, dict) else None
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    has_status = isinstance(data, dict) and isinstance(data.get("status"), str) and data["status"].strip()
    return data if has_status else None


def names_another(generation: dict[str, Any], asked: str) -> bool:
    """Say whether a generation has the name of another than was asked for.

    A name that is not of the same length is of another kind (a row's number, a UUID) and says nothing.
    """
    names = {id_of(generation.get(field)).lower() for field in ("task_id", "id")}
    return asked.lower() not in names and any(len(name) == len(asked) for name in names)


def generation_outcome(generation: dict[str, Any], secret: str) -> PollOutcome:
    """Say where a generation is. A status that is not known counts as running, under its own name.

    Raises UnreadableResult.
    """
    word = generation["status"].strip().lower()
    if word in _DONE:
        return Succeeded(
            images=_images(generation.get("result")),
            provider_cost=cost_of(generation.get("cost")),
            created_s=unix_s_of(generation.get("created")),
            completed_s=unix_s_of(generation.get("completed")),
        )
    if word in _FAILED | _CANCELLED:
        error = read_task_error(generation)
        code = "cancelled" if word in _CANCELLED else clean(error.word, secret) or "failed"
        return ProviderFailed(code, clean(error.message, secret))
    shown = clean(generation["status"], secret).lower() or "unreadable"  # lower-cased, the key would pass
    return Running(shown, _progress(generation.get("progress")))


def _progress(value: object) -> int | None:
    number = number_of(value.strip().removesuffix("%") if isinstance(value, str) else value)
    return None if number is None else round(min(100.0, max(0.0, number)))


def _images(result: object) -> tuple[ResultImage, ...]:
    """Flatten `result.images`: entries hold one URL or several, in order; nothing is dropped as a duplicate.

    Raises UnreadableResult if there is something, but no image that can be read.
    """
    entries = result.get("images") if isinstance(result, dict) else result
    if entries is None or result == {}:
        return ()
    if not isinstance(entries, list):
        raise UnreadableResult
    images = tuple(image for entry in entries for image in _entry_images(entry))
    if len(images) > MAX_IMAGES or (not images and not all(map(_is_known_empty, entries))):
        raise UnreadableResult
    return images


def _entry_images(entry: object) -> tuple[ResultImage, ...]:
    if isinstance(entry, str):
        entry = {"url": entry}
    if not isinstance(entry, dict):
        return ()
    url, expires_s = entry.get("url"), unix_s_of(entry.get("expires_at"))
    expires_at_ms = None if expires_s is None else round(expires_s * 1000)
    urls = url if isinstance(url, list) else [url]
    return tuple(ResultImage(url, expires_at_ms) for url in urls if _is_url(url))


def _is_url(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= URL_CHARS and value.isprintable()


def _is_known_empty(entry: object) -> bool:
    """Say whether an entry without a URL is one of an image that was not made, not of one that we cannot read."""
    return isinstance(entry, dict) and ("error" in entry or entry.get("url", ...) in (None, "", []))
