"""One house per fault; its seed is printed, and `FAULTS_SEED` replays it."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign import FaultHouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = os.environ.get("FAULTS_SEED", "")


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
