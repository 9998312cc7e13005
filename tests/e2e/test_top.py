"""`darkroom top` of a running system: what a worker says of itself, and an endpoint that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import environment

if TYPE_CHECKING:
    from tests.e2e.conftest import House

pytestmark = pytest.mark.timeout(120)

DARKROOM = str(Path(sys.executable).with_name("darkroom"))


def look(house: House) -> dict[str, Any]:
    """Run `darkroom top --json` with the settings of the house."""
    done = subprocess.run(
        [DARKROOM, "top", "--json"],
        cwd=house.folder,
        env={**os.environ, **environment(house.settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_workers_and_endpoints_are_shown_as_they_are(house: House) -> None:
    """A worker with POSTs on their way; a consumer that fails until it recovers, and nothing late afterwards."""
    house.provider.post("/control/faults", {"rules": [{"on": "submit", "kind": "slow", "arg": "8"}]})
    house.worker()
    house.until(lambda: bool(look(house)["workers"]), 20, "the worker is seen")
    house.darkroom.enqueue_many(house.requests(5), batch="b", webhook=f"{house.sink.url}/fail-first/4")
    house.until(lambda: look(house)["workers"][0]["in_flight"] == {"submit": 5}, 20, "it says what it holds")
    (worker,) = look(house)["workers"]
    assert worker["stages"] == ["submit", "poll", "notify", "store"]
    assert worker["version"] == version("darkroom")
    assert worker["pid"] == house.workers[0].pid
    assert worker["since_at"] <= look(house)["at_ms"]
    seen: dict[str, Any] = {}

    def is_failing() -> bool:
        seen.update(look(house))
        return any(each["failing"] for each in seen["endpoints"])

    house.until(is_failing, 40, "the consumer fails")
    (endpoint,) = seen["endpoints"]
    assert endpoint["host"] == house.sink.url.partition("://")[2]
    assert endpoint["last_status"] == "status_503"
    assert endpoint["waiting"] >= endpoint["failing"] >= 1
    house.until(lambda: look(house)["endpoints"] == [], 60, "everything is delivered")
    assert look(house)["deliveries"] == 0
