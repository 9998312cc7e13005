"""The machine is judged: scripts that are broken on purpose, one line each, do not get past it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.lua.machine.broken import Break, assert_caught
from tests.integration.lua.machine.test_state_machine import Machine
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)


BREAKS = {
    "no epoch check": Break("guard", "if t.e and job.epoch ~= tostring(t.e) then return nil, 0 end"),
    "no intent check": Break("guard", "if t.i and job.intent_id ~= t.i then", "if false then"),
    "a release that keeps the hold": Break(
        "money", 'redis.call("HSET", K.record("j", id), "hold", 0)\nend\n\n-- An', "end\n\n-- An"
    ),
    "a lease that never ends": Break(
        "submit_lease",
        'redis.call("ZADD", held, NOW + A.lease_ms, id)',
        'redis.call("ZADD", held, "+inf", id)',
    ),
    "a renewal after the outcome": Break("renew_leases", "elseif r[2] then", "else"),
    "a slot that is not given back": Break("transition", "if v.slot and v.slot[2] < 0 then", "if false then"),
    "a dead holder is not fenced": Break(
        "submit_lease", 'tonumber(values[1] or "0") + 1', 'tonumber(values[1] or "0")'
    ),
    "a batch that counts an end twice": Break(
        "batch", 'count(key, "done", done)', 'count(key, "done", 2 * done)'
    ),
    "a move that is not counted": Break("transition", "count_move(job.tenant, job.state, v.t, CTX.backlog)"),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProc]:
    with ValkeyProc(tmp_path, appendfsync="no") as proc:
        yield proc


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_script_is_caught(server: ValkeyProc, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In some order of steps the model says otherwise."""
    Machine.server = server
    assert_caught(Machine, BREAKS[name], monkeypatch)
