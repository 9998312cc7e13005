"""A part of the campaign: `FAULTS_SHARD=K/N` keeps every N-th test, from the K-th on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
SHARD: Final = "FAULTS_SHARD"


def split(items: Sequence[T], shard: str) -> tuple[list[T], list[T]]:
    """Give those of the shard, and the others. All belong to "". Raises ValueError for what is not K/N.

    Tests of one file take about as long as each other, so every N-th of all is about an N-th of the time.
    """
    if not shard:
        return list(items), []
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(f"a shard is K/N with K from 1 to N, not {shard!r}")
    first, step = int(found[1]) - 1, int(found[2])
    mine = list(items[first::step])
    others = [item for at, item in enumerate(items) if at % step != first]
    return mine, others
