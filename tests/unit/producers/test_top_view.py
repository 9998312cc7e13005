"""How `darkroom top` looks, without a server."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from producers.cli.top_view import as_json, screen
from producers.freezes import Freeze
from producers.overview import LaneStatus, Overview
from producers.parties import EndpointUse, WorkerUse
from producers.store_trouble import StoreTrouble
from producers.vitals import LaneUse, QueueUse, SpendUse, StageUse, Vitals
from shared.jobs.lifecycle import JobState

NOW_MS = 1_700_000_000_000


def vitals(*, workers: tuple[str, ...] = ("w1",), frozen: Freeze | None = None) -> Vitals:
    """Give a system with one lane that the provider throttles, and a tenant at its cap."""
    lane = LaneStatus("default/wan", 2, 40, 38, 0, 7, 0, 5, closed_until=NOW_MS + 12_000)
    counts: dict[str, int] = {state: 3 if state is JobState.QUEUED else 0 for state in JobState}
    whole = Overview(NOW_MS, counts, (lane,), workers, 0, 1, 2, 0, frozen)
    return Vitals(
        overview=whole,
        lanes=(LaneUse("default/wan", 2, 32, 200, 5, 0),),
        queues=(QueueUse("wan", "acme", 3, True, 65_000),),
        stages=(StageUse("store", "", 4, 9_000), StageUse("notify", "", 0, 0)),
        spend=(SpendUse("tenant:acme", "day", "CNY", 900_000, 1_000_000, 300_000),),
        left_out={"wan": 8},
        workers=(WorkerUse("w1", 800, "host", 7, NOW_MS - 90_000, "0.1", ("submit", "poll"), {"poll": 38}),),
        endpoints=(EndpointUse("hooks.example.com", 40, 12, 75_000, "timeout", 3, 20_000),),
        endpoint_count=3,
    )


def drawn(found: Vitals, columns: int) -> str:
    """Draw it as plain text."""
    out = Console(file=io.StringIO(), width=columns)
    out.print(screen(found, columns))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_use_stands_beside_its_limit() -> None:
    """Lanes, queues, stages and spending, each with what bounds it or how late it is."""
    text = drawn(vitals(), 120)
    for part in (
        "closed", "2/32", "40/200", "≤ 5", "no limit", "opens in 12 s", "acme (parked)", "1 min 5 s", "9.0 s",
        "¥0.90", "¥0.30", "¥1.00", "8 more tenants of wan have a queue", "poll 38", "1 min 30 s", "submit poll",
        "hooks.example.com", "1 min 15 s", "timeout (try 3)", "2 more endpoints have deliveries waiting",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("columns", [30, 40, 79, 80, 200])
def test_every_line_fits(columns: int) -> None:
    """On any terminal; a narrow one does without rates."""
    text = drawn(vitals(workers=()), columns)
    assert max(map(len, text.splitlines())) <= columns
    assert ("submits/s" in text) == (columns >= 80)
    assert "darkroom worker" in " ".join(text.split())


def test_a_store_that_keeps_submits_back_is_told() -> None:
    """Why nothing is submitted, and since when."""
    seen = vitals()
    trouble = StoreTrouble("denied", NOW_MS)
    text = drawn(replace(seen, overview=replace(seen.overview, store_trouble=trouble)), 200)
    assert "the object store refuses copies since" in text


def test_control_characters_do_not_reach_the_terminal() -> None:
    """What others wrote (a freeze's reason) cannot draw."""
    assert "\x1b" not in drawn(vitals(frozen=Freeze("spending", "ops", NOW_MS, "be\x1b[2Jfore")), 120)


def test_json_knows_all_of_it() -> None:
    """A lane's use and limits are one object; the whole survives JSON."""
    found = json.loads(json.dumps(as_json(vitals())))
    (lane,) = found["lanes"]
    assert (lane["posts"], lane["posts_limit"], lane["in_flight"], lane["slots_limit"]) == (2, 32, 40, 200)
    assert lane["condition"] == "closed"
    assert (found["unknown"], found["left_out"]) == (0, {"wan": 8})
    assert found["workers"][0]["in_flight"] == {"poll": 38}
    assert (found["endpoints"][0]["failing"], found["endpoint_count"]) == (12, 3)
    assert found["spend"][0]["held_micros"] == 300_000
