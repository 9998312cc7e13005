"""How fast Flower's list answers with 20,000 jobs in it, beside a second Flower that has 100, in the same run.

The rows come as in production: the events of three steps of each job, through the workers' own dispatcher and a real
broker. Both Flowers are started as `darkroom flower` does. What is timed is what the browser asks for: the list's
page, the rows of its first screen (newest first), and the same narrowed to a word.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from bench.drain import rss_mb
from producers.flower import plan_start
from producers.parts import HOST, free_port, listens, spawn
from producers.stack import Stack
from shared.broker import make_app
from shared.settings import load_settings
from workers.flower import JobEvents

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.parts import Part
    from shared.settings import Settings

ROWS: Final = 20_000
PEER_ROWS: Final = 100
LOOKS: Final = 5
EVENTS_PER_S: Final = 6_000  # below what Flower keeps up with
WITHIN_S: Final = 180.0
SCREEN: Final = {
    "draw": "1", "start": "0", "length": "15", "search[value]": "", "order[0][column]": "0",
    "order[0][dir]": "desc", "columns[0][data]": "received",
}  # fmt: skip


def measure(*, runs: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give page_ms, rows_ms and search_ms (medians) with all rows and of the peer, the slowest of all looks, ratios."""
    jobs = jobs or ROWS
    with Stack.valkey_only() as stack:
        many = _Shown(stack, "many", 1)
        few = _Shown(stack, "few", 2)
        for shown, count in ((few, PEER_ROWS), (many, jobs)):
            taken_s = shown.feed(count)
            say(f"{count} rows in Flower after {taken_s:.1f} s, {shown.dropped} events dropped")
        looks: dict[str, list[float]] = {}
        for number in range(runs):
            for shown in (many, few) * LOOKS:
                shown.look(looks)
            say(f"run {number + 1}/{runs}: rows {looks['rows_ms_many'][-1]:.0f} ms")
        result = {name: round(statistics.median(taken), 2) for name, taken in sorted(looks.items())}
        return result | {
            "slowest_s": round(max(max(taken) for taken in looks.values()) / 1000, 3),
            "rows_ratio": round(result["rows_ms_many"] / result["rows_ms_few"], 1),
            "rows": many.count(),
            "peer_rows": few.count(),
            "events_dropped": many.dropped + few.dropped,
            "rss_mb": round(many.rss_mb(), 1),
            "looks": runs * LOOKS,
        }


class _Shown:
    """A Flower on a broker database of its own, and the dispatcher that feeds it."""

    def __init__(self, stack: Stack, name: str, database: int) -> None:
        self.name = name
        settings = _settings(stack.urls["redis"].rpartition("/")[0], database)
        self._part = _start(stack, name, settings)
        self._http = httpx.Client(
            base_url=f"http://{HOST}:{settings.flower.port}", trust_env=False, timeout=WITHIN_S
        )
        self._events = JobEvents(make_app(settings), f"{name}@bench", max_per_s=EVENTS_PER_S)
        self._events.start()

    @property
    def dropped(self) -> int:
        return self._events.dropped

    def feed(self, jobs: int) -> float:
        """Let so many jobs be received, started and succeed, no faster than their dispatcher sends; seconds."""
        started = time.monotonic()
        self._attach()
        for number in range(jobs):
            job_id = f"job_{number:026d}"
            shown: dict[str, str | int] = {"model": "wan2.7-image", "size": "2K", "n": 1}
            self._events.emit("received", job_id, **shown)
            self._events.emit("started", job_id, **shown, stage="submitting")
            keys = f"acme/{job_id}/0.png"
            self._events.emit(
                "succeeded", job_id, images=1, cost_micros=200_000, currency="CNY", runtime_ms=9000, object_keys=keys
            )  # fmt: skip
            self._keep_pace(3 * (number + 1), started)
        self._until(lambda: self.count() >= jobs, f"{jobs} rows")
        self._until(lambda: self._succeeded() >= jobs, f"{jobs} ends")
        return time.monotonic() - started

    def _keep_pace(self, emitted: int, started: float) -> None:
        ahead_s = emitted / (EVENTS_PER_S * 2 / 3) - (time.monotonic() - started)
        if ahead_s > 0.02:
            time.sleep(ahead_s)

    def _attach(self) -> None:
        """Send one row until Flower shows it: it subscribes some time after it listens."""

        def seen() -> bool:
            self._events.emit("received", "job_00000000000000000000000000", model="wan2.7-image")
            time.sleep(0.3)
            return self.count() > 0

        self._until(seen, "the first row")

    def look(self, looks: dict[str, list[float]]) -> None:
        """Ask as the browser does, and add the milliseconds it took."""
        asked: dict[str, tuple[str, dict[str, str]]] = {
            "page_ms": ("/tasks", {}),
            "rows_ms": ("/tasks/datatable", SCREEN),
            "search_ms": ("/tasks/datatable", SCREEN | {"search[value]": "00042"}),
        }
        for name, (path, query) in asked.items():
            started = time.perf_counter()
            self._http.get(path, params=query).raise_for_status()
            looks.setdefault(f"{name}_{self.name}", []).append(1000 * (time.perf_counter() - started))

    def count(self) -> int:
        return self._table()["recordsTotal"]

    def _succeeded(self) -> int:
        return self._table(search="state:SUCCESS")["recordsFiltered"]

    def _table(self, search: str = "") -> dict[str, int]:
        answer = self._http.get("/tasks/datatable", params=SCREEN | {"length": "1", "search[value]": search})
        found: dict[str, int] = answer.raise_for_status().json()
        return found

    def _until(self, true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WITHIN_S
        while not true():
            self._part.check()
            if time.monotonic() > until:
                raise RuntimeError(f"not within {WITHIN_S:.0f} s: {what}; {self.count()} rows")
            time.sleep(0.2)

    def rss_mb(self) -> float:
        return rss_mb(self._part.pid)


def _settings(server: str, database: int) -> Settings:
    return load_settings(
        redis={"url": f"{server}/0"},
        broker={"url": f"{server}/{database}"},
        flower={"port": free_port(), "insecure": True, "history": "off"},
    )


def _start(stack: Stack, name: str, settings: Settings) -> Part:
    plan = plan_start(settings, (), os.environ)
    command = [sys.executable, "-m", *plan.arguments]
    part = spawn(f"flower-{name}", command, folder=stack.directory, env=plan.environment)
    stack.parts.append(part)
    part.wait_until(lambda: listens(settings.flower.port))
    return part
