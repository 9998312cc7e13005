"""One house per fault; its seed is printed, and `FAULTS_SEED` replays it."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign import FaultHouse
from tests.faults.second_try import note_failure
from tests.faults.shards import SHARD, split

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

SEED = os.environ.get("FAULTS_SEED", "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the shard that is asked for: by names, as each run has an order of its own."""
    by_name = sorted(items, key=lambda item: item.nodeid)
    _, others = split(by_name, os.environ.get(SHARD, ""))
    if others:
        config.hook.pytest_deselected(items=others)
        left_out = set(others)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        note_failure(item.nodeid, report.longreprtext)
    return report


@pytest.fixture
def faults(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultHouse]:
    """Everything but a worker, at a campaign's pace. An indirect parameter has options of the state server.

    `{"binary": "redis-server"}` has the state on Debian's Redis 7.0.
    """
    options: dict[str, str] = getattr(request, "param", {})
    seed = int(SEED) if SEED else random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}: FAULTS_SEED={seed} replays it")
    with FaultHouse(tmp_path, seed, **options) as house:
        yield house
