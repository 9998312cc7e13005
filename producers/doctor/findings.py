"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
Area = Literal["settings", "secrets", "state", "broker", "storage", "provider", "webhooks", "work", "spool"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: `what` is a sentence without a secret in it, `do` one that says what to do about it, if anything."""

    area: Area
    level: Level
    what: str
    do: str = ""


def good(area: Area, what: str) -> Finding:
    return Finding(area, "ok", what)


def beware(area: Area, what: str, do: str) -> Finding:
    """Works, but not as it should, or not for long, or cannot be told from here."""
    return Finding(area, "warning", what, do)


def bad(area: Area, what: str, do: str) -> Finding:
    """Does not work."""
    return Finding(area, "error", what, do)
