"""pause_lane.lua: a lane's submits wait, its generations do not, and the audit says who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.integration.lua.conftest import LANE

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State


def test_submits_wait_and_polls_go_on(state: State) -> None:
    """What is paid for is polled; queued jobs are there after the pause."""
    polled = state.generating()
    state.enqueue()
    state.now_ms += 12_000
    assert state.call("pause_lane", LANE, 1, "anna", "odd bill", 0) == 1
    assert state.claim_submit()[1:] == ("paused", [])
    assert [each["id"] for each in state.claim_due(f"poll:{LANE}")[1]] == [polled["id"]]
    assert state.call("pause_lane", LANE, 0, "ben", "", 0) == 1
    assert len(state.claim_submit()[2]) == 1


def test_each_change_is_audited_once(state: State) -> None:
    """A dry run and asking for what is so already leave no trace."""
    assert state.call("pause_lane", LANE, 1, "anna", "odd bill", 1) == 1
    assert state.client.exists(state.keys.lane(LANE), state.keys.audit) == 0
    answers = [state.call("pause_lane", LANE, 1, who, "odd bill", 0) for who in ("anna", "ben")]
    assert answers == [1, 0]
    state.call("freeze", "spending", "ben", "")
    entries: Any = state.client.xrange(state.keys.audit)
    noted = [fields for _, fields in entries]
    assert [(each[b"who"], each[b"what"], each[b"on"]) for each in noted] == [
        (b"anna", b"pause", f"lane {LANE}".encode()),
        (b"ben", b"freeze", b"spending"),
    ]
    assert noted[0][b"at"] == str(state.now_ms).encode()
