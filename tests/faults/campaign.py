"""A house whose time runs faster: short leases, a provider that is done within 5 s, so that a fault takes seconds."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl

from producers.client import Darkroom
from tests.e2e.conftest import House
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from tests.servers import ValkeyProc, WorkerProc

Part = Literal["state", "broker", "provider", "sink", "s3"]

LEASE_S: Final = 1.5
STOPPED_S: Final = 3 * LEASE_S  # a paused worker is given up by then
SETTLED_WITHIN_S: Final = 60.0
PROVIDER_MAX_S: Final = 5.0


class FaultHouse(House):
    """One fault's own processes. `seed` decides what is left to chance, is printed, and replays a run."""

    def __init__(self, folder: Path, seed: int, *, binary: str | None = None, **state_options: str) -> None:
        super().__init__(folder, latency_s=0.4, state_binary=binary, state_options=state_options)
        self.seed, self.chance = seed, random.Random(seed)  # chance that replays

    def __enter__(self) -> Self:
        super().__enter__()
        worker = self.settings.worker.model_copy(
            update={"lease_s": LEASE_S, "renew_s": LEASE_S / 3, "submit_timeout_s": PROVIDER_MAX_S}
        )
        self.settings = self.settings.model_copy(update={"worker": worker})
        self.hook = f"{self.sink.url}/ok"  # where events go
        return self

    def through(self, part: Part) -> Proxy:
        """Put a proxy before a part, for workers, `producer`s and orders made from now on. The judge asks directly."""
        before = self._url_of(part)
        proxy = self._stack.enter_context(Proxy(urlsplit(before).netloc.rpartition("@")[2]))
        after = before.replace(urlsplit(before).netloc.rpartition("@")[2], proxy.address, 1)
        match part:
            case "state":
                self.set_section("redis", url=after)
            case "broker":
                self.set_section("broker", url=after)
            case "s3":
                self.set_section("storage", endpoint=after)
            case "provider":
                self.lane(base_url=AnyHttpUrl(after))
            case "sink":
                self.hook = after
        return proxy

    def _url_of(self, part: Part) -> str:
        urls: dict[Part, object] = {
            "state": self.settings.redis.url,
            "broker": self.settings.broker.url,
            "provider": self.settings.accounts["main"].base_url,
            "sink": self.hook,
            "s3": self.settings.storage.endpoint,
        }
        return str(urls[part])

    def set_section(self, section: str, **values: Any) -> None:
        """Set values of a section, for processes and clients made from now on."""
        changed = getattr(self.settings, section).model_copy(update=values)
        self.settings = self.settings.model_copy(update={section: changed})

    def lane(self, **values: Any) -> None:
        """Set values of the account, for workers made from now on."""
        account = self.settings.accounts["main"].model_copy(update=values)
        self.settings = self.settings.model_copy(update={"accounts": {"main": account}})

    def working(self) -> int:
        """Count what the provider was asked: it grows as long as work goes on."""
        polls: int = self.provider.get("/stats")["polls"]
        submits: int = self.provider.get("/ledger?summary=1")["submits_seen"]
        return polls + submits

    def resumed(self, jobs: int, within_s: float) -> float:
        """Wait until work goes on, or all is done; give the seconds from now."""
        before = self.working()
        return self.until(lambda: self.working() > before or self.settled(jobs), within_s, "work goes on")

    def join(self, worker: WorkerProc) -> None:
        """Start a worker that is not of these sources."""
        self.workers.append(self._stack.enter_context(worker))

    def take_over(self, server: ValkeyProc) -> None:
        """Another server has the state from now on: the judge and orders of the test go to it, directly."""
        self.state = server
        redis = self.settings.redis.model_copy(update={"url": server.url(0)})
        direct = self.settings.model_copy(update={"redis": redis})
        self.darkroom = self._stack.enter_context(Darkroom(direct))

    def producer(self) -> Darkroom:
        """Give one more client, with the settings of now: through the proxies there are."""
        return self._stack.enter_context(Darkroom(self.settings))

    def enqueue_for_judgement(self, count: int, batch: str = "b") -> list[str]:
        """Enqueue jobs whose prompts carry markers; give their ids."""
        receipt = self.darkroom.enqueue_many(self.requests(count, batch), batch=batch, webhook=self.hook)
        assert receipt.enqueued == count
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


def is_gone(victim: WorkerProc) -> bool:
    """Say whether it has ended, or is stopped [proc(5)]."""
    if not victim.running:
        return True
    return Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
