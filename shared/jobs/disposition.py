"""What became of one item of an enqueue: apart from the enqueue, as who only looks needs no model of requests."""

from __future__ import annotations

from enum import StrEnum


class Disposition(StrEnum):
    """What became of one item of an enqueue."""

    ENQUEUED = "enqueued"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
