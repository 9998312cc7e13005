"""A house whose time runs faster: short leases, a provider that is done within 5 s, so that a fault takes seconds."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Self, cast

from tests.e2e.conftest import House

if TYPE_CHECKING:
    from pathlib import Path

LEASE_S: Final = 1.5
STOPPED_S: Final = 3 * LEASE_S  # a paused worker is given up by then
SETTLED_WITHIN_S: Final = 60.0
PROVIDER_MAX_S: Final = 5.0


class FaultHouse(House):
    """One fault's own processes. `seed` decides what is left to chance, is printed, and replays a run."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, latency_s=0.4)
        self.seed, self.chance = seed, random.Random(seed)  # chance that replays

    def __enter__(self) -> Self:
        super().__enter__()
        worker = self.settings.worker.model_copy(
            update={"lease_s": LEASE_S, "renew_s": LEASE_S / 3, "submit_timeout_s": PROVIDER_MAX_S}
        )
        self.settings = self.settings.model_copy(update={"worker": worker})
        return self

    def enqueue_for_judgement(self, count: int, batch: str = "b") -> list[str]:
        """Enqueue jobs whose prompts carry markers; give their ids."""
        self.enqueue(count, batch)
        members = cast("list[bytes]", self.state.client().lrange(f"{{darkroom}}:bj:default:{batch}", 0, -1))
        return [member.decode() for member in members]

    def settled(self, jobs: int, batch: str = "b") -> bool:
        """Say whether every job is at an end or unknown."""
        counts = self.counts(batch)
        ends = ("completed", "failed", "cancelled", "unknown")
        return sum(counts.get(state, 0) for state in ends) == jobs

    def quiet(self, jobs: int) -> float:
        """Wait until the jobs are settled and every event is told; give the seconds it took."""
        took_s = self.until(lambda: self.settled(jobs), SETTLED_WITHIN_S, "every job settled")
        pending = self.state.client()
        until = time.monotonic() + SETTLED_WITHIN_S
        while pending.zcard("{darkroom}:z:notify"):
            assert time.monotonic() < until, "events are still untold"
            time.sleep(0.1)
        return took_s
