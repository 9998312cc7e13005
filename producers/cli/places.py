"""Where the parts of a local stack are: for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from producers.stack import Stack

_VALKEY: Final = "the state, and Celery's broker in database 1"
_PROVIDER: Final = "stands in for the image provider; nothing is paid"
_SINK: Final = "takes webhooks and verifies them"
_FLOWER: Final = "Flower: the jobs, in a browser"
_WORKER: Final = "a Celery worker: submit, poll, store, notify"


@dataclass(frozen=True, slots=True)
class Place:
    """One line: what, where, which process, what for."""

    name: str
    where: str
    pid: int
    purpose: str


def places(stack: Stack) -> Iterator[Place]:
    """Give the parts that run, in the order they were started."""
    urls = stack.urls
    for part in stack.parts:
        match part.name:
            case "valkey":
                yield Place("valkey", urls["redis"], part.pid, _VALKEY)
            case "sandbox":
                yield Place("provider", urls["provider"], part.pid, _PROVIDER)
                yield Place("sink", urls["sink"], part.pid, _SINK)
            case "flower":
                yield Place("flower", urls["flower"], part.pid, _FLOWER)
            case name:
                yield Place(name, "-", part.pid, _WORKER)


def places_table(stack: Stack) -> Table:
    """Give them as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("part", "where", "pid", "what it is"):
        table.add_column(name, overflow="fold", justify="right" if name == "pid" else "left")
    for place in places(stack):
        table.add_row(place.name, place.where, str(place.pid), place.purpose)
    return table
