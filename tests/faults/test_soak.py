"""Three short soaks in the campaign; `python -m tests.faults.soak --seeds 20` is the long one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.conftest import SEED
from tests.faults.soak import soak

if TYPE_CHECKING:
    from pathlib import Path

FOR_S = 20.0

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("number", range(3))
def test_random_faults_under_load(tmp_path: Path, number: int) -> None:
    """Safe at every look, and settled within a minute of the last fault, with every promise kept."""
    seed = int(SEED) + number if SEED else random.SystemRandom().randrange(1_000_000)
    print(soak(seed, tmp_path, FOR_S))
