"""Random faults under load, then a time without: `python -m tests.faults.soak [--seeds N] [--seed S] [--for SECONDS]`.

While it hurts, safety: no prompt is accepted twice by the provider, no more run than the lane has slots, the balances
sum to nothing. When it is over, liveness: every job is at an end or unknown within a provider's longest and a minute,
and the judge finds every promise kept. A seed decides which faults come when; what they meet is not decided by it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from redis.exceptions import RedisError

from shared.errors import DarkroomError
from tests.faults.campaign import PROVIDER_MAX_S, FaultHouse
from tests.faults.dials import tune, tune_account
from tests.faults.judge import judge
from tests.faults.middleman import Middleman
from tests.faults.nemesis import Nemesis, Parts
from tests.faults.table import note_row
from tests.integration.fake_s3 import FakeS3

if TYPE_CHECKING:
    from producers.client import Darkroom
    from tests.faults.judge import Verdict

WORKERS: Final = 3
SLOTS: Final = 20
CHUNK: Final = 3
CHUNK_EVERY_S: Final = 0.5
LIVE_WITHIN_S: Final = PROVIDER_MAX_S + 60
# How a job may fail without a broken promise: killed three times alone, or never executed in eight tries.
HONEST_ENDS: Final = frozenset({"poison", "provider_unavailable"})


@dataclass(frozen=True, slots=True)
class Soaked:
    """What one seed did."""

    seed: int
    verdict: Verdict
    faults: int
    settled_s: float
    ends: frozenset[str]  # error codes of what failed

    def __str__(self) -> str:
        broken = "every promise kept" if self.verdict.clean else f"BROKEN {self.verdict}"
        return (
            f"seed {self.seed}: {self.faults} faults, {self.verdict.jobs} jobs, {self.verdict.unknown} unknown, "
            f"{self.verdict.failed} failed, settled {self.settled_s:.1f} s after the last fault, {broken}"
        )


class Load:
    """A producer in a thread of its own, which asks again with the same keys until each chunk is accepted."""

    def __init__(self, darkroom: Darkroom, house: FaultHouse, hook: str) -> None:
        self._darkroom, self._house, self._hook = darkroom, house, hook
        self._over = threading.Event()
        self.ids: list[str] = []
        self.refused = 0  # calls that the faults made fail
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> list[str]:
        """Let it finish its chunk; give the ids of what was accepted."""
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "an enqueue hangs"
        return self.ids

    def _run(self) -> None:
        number = 0
        while not self._over.wait(CHUNK_EVERY_S):
            requests = self._house.requests(CHUNK, f"b{number}")
            chunk = [(request, {"idempotency_key": f"{number}-{at}"}) for at, request in enumerate(requests)]
            while not self._accepted(chunk):
                time.sleep(CHUNK_EVERY_S)
            number += 1

    def _accepted(self, chunk: list[Any]) -> bool:
        try:
            receipt = self._darkroom.enqueue_many(chunk, batch="b", seal=False, webhook=self._hook)
        except DarkroomError:
            self.refused += 1
            return False
        ids = [item.job_id for item in receipt.items if item.job_id]
        assert len(ids) == len(chunk), list(receipt.items)
        self.ids += ids
        return True


def soak(seed: int, folder: Path, for_s: float) -> Soaked:
    """Hurt for so long, heal, and judge. Raises AssertionError with the history of faults if a promise is broken."""
    print(f"seed {seed}: FAULTS_SEED={seed} replays its faults", flush=True)
    with ExitStack() as stack:
        house = stack.enter_context(FaultHouse(folder, seed))
        parts = _open(house, stack)
        nemesis = Nemesis(parts)
        load = Load(house.producer(), house, house.hook)
        try:
            return _soak(parts, nemesis, load, for_s)
        except BaseException:
            print("\n".join(nemesis.log), f"jobs: {_counts(house)}", sep="\n", flush=True)
            raise


def _open(house: FaultHouse, stack: ExitStack) -> Parts:
    """Start workers at a store and an endpoint that can be told to fail, with proxies before state and provider."""
    os.environ["TESTS_S3_CANARY"] = "canary"
    s3 = stack.enter_context(FakeS3())
    endpoint = stack.enter_context(Middleman(house.sink.url))
    house.settings = house.settings.model_copy(update={"storage": s3.settings})
    house.hook = f"{endpoint.url}/ok"
    tune_account(house, max_in_flight=SLOTS)
    tune(
        house, "worker", generation_max_s=8.0, breaker_probe_s=1.0, poll_timeout_s=2.0, download_timeout_s=3.0
    )
    tune(house, "webhooks", timeout_s=2.0, schedule_s=(0, 0.5, *(1,) * 60))
    proxies = {name: house.through(name) for name in ("state", "provider")}
    workers = [house.worker(f"w{at}") for at in range(WORKERS)]
    return Parts(house, workers, s3, endpoint, proxies)


def _soak(parts: Parts, nemesis: Nemesis, load: Load, for_s: float) -> Soaked:
    house = parts.house
    until = time.monotonic() + for_s
    next_look_at = 0.0
    while time.monotonic() < until:
        nemesis.step()
        if time.monotonic() >= next_look_at:
            next_look_at = time.monotonic() + 1
            _is_safe(house)
        time.sleep(0.05)
    nemesis.heal()
    healed_at = time.monotonic()
    ids = load.end()
    house.darkroom.seal("b")
    house.until(lambda: house.settled(len(ids)), LIVE_WITHIN_S, "every job settled")
    settled_s = time.monotonic() - healed_at
    house.quiet(len(ids))
    _is_safe(house)
    verdict = judge(house, ids, lambda key: parts.s3.objects.get(f"/bucket/prefix/{key}"))
    jobs = [house.darkroom.get(job_id) for job_id in ids]
    ends = frozenset(str(job.error_code) for job in jobs if str(job.state) == "failed")
    faults = sum(not line.endswith("is over") for line in nemesis.log)
    soaked = Soaked(house.seed, verdict, faults, settled_s, ends)
    note_row(f"soak: {faults} random faults in {for_s:g} s", house.seed, verdict, settled_s)
    assert verdict.clean, soaked
    assert ends <= HONEST_ENDS, soaked
    return soaked


def _is_safe(house: FaultHouse) -> None:
    """Look at what must hold at every instant."""
    twice = [group["marker"] for group in house.ledger()["groups"] if group["accepted"] > 1]
    assert not twice, f"accepted twice: {twice}"
    running = max(house.provider.get("/stats")["max_in_flight"].values(), default=0)
    assert running <= SLOTS, f"{running} ran at once, of {SLOTS}"
    with suppress(RedisError):  # it may be away
        client = house.state.client(socket_timeout=0.5)
        balances = cast("dict[bytes, bytes]", client.hgetall("{darkroom}:balances"))
        assert sum(int(micros) for micros in balances.values()) == 0, balances


def _counts(house: FaultHouse) -> dict[str, int]:
    with suppress(DarkroomError):
        return house.counts()
    return {}


def main(arguments: list[str]) -> int:
    """Soak seed after seed; the exit code says whether all of them held."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description="random faults under load"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument(
        "--seed", type=int, default=None, help="the first; then it counts up. By default by chance"
    )
    parser.add_argument("--for", type=float, default=60.0, dest="for_s", help="seconds of faults for each")
    given = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    failed = 0
    for seed in range(first, first + given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(soak(seed, Path(folder), given.for_s), flush=True)
            except (AssertionError, pytest.fail.Exception) as broken:
                failed += 1
                print(f"seed {seed} FAILED: {broken}", flush=True)
    print(f"{given.seeds - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
