"""The shards of a campaign are the campaign."""

from __future__ import annotations

import pytest

from tests.faults.shards import split


def test_shards_are_disjoint_and_together_all() -> None:
    """Nothing is left out, nothing runs twice."""
    items = list(range(11))
    parts = [split(items, f"{nr}/3") for nr in (1, 2, 3)]
    assert sorted(item for mine, _ in parts for item in mine) == items
    assert all(sorted(mine + others) == items for mine, others in parts)
    assert max(len(mine) for mine, _ in parts) - min(len(mine) for mine, _ in parts) <= 1
    assert split(items, "") == (items, [])


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(shard: str) -> None:
    """A misspelt shard must not run nothing and pass."""
    with pytest.raises(ValueError, match="K/N"):
        split([1, 2, 3], shard)
