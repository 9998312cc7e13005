"""freeze.lua: the brake holds for every stage it names, and keeps who pulled it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.lua.conftest import LANE

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

POLL = f"poll:{LANE}"


def freeze(state: State, what: str, by: str = "ops@host", why: str = "") -> str:
    """Freeze as the client does; give what was frozen before."""
    before: bytes = state.call("freeze", what, by, why)
    return before.decode()


def test_spending_stops_submits_alone(state: State) -> None:
    """A generation that is paid for is polled on, while nothing new is submitted."""
    polled = state.generating()
    state.enqueue()
    state.now_ms += 12_000
    assert freeze(state, "spending") == ""
    assert state.claim_submit()[1:] == ("frozen", [])
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [polled["id"]]
    assert freeze(state, "") == "spending"
    assert len(state.claim_submit()[2]) == 1


def test_everything_stops_every_claim(state: State) -> None:
    """No stage gets work, nothing is lost by it, and afterwards all of it is there."""
    polled = state.generating()
    state.enqueue()
    state.now_ms += 12_000
    freeze(state, "everything")
    assert state.claim_submit()[1:] == ("frozen", [])
    assert state.claim_due(POLL) == (-1, [])
    freeze(state, "")
    assert [each["id"] for each in state.claim_due(POLL)[1]] == [polled["id"]]
    assert len(state.claim_submit()[2]) == 1


def test_who_froze_it_first_is_kept(state: State) -> None:
    """Asking again for what is so changes nothing; another freeze has its own author."""
    first = state.now_ms
    assert freeze(state, "spending", by="anna@a", why="bill looks wrong") == ""
    state.now_ms += 1000
    assert freeze(state, "spending", by="ben@b") == "spending"
    names = ("freeze", "freeze_by", "freeze_at", "freeze_why")
    told = [b"spending", b"anna@a", str(first).encode(), b"bill looks wrong"]
    assert state.client.hmget(state.keys.control, names) == told
    assert freeze(state, "everything", by="ben@b") == "spending"
    assert state.client.hmget(state.keys.control, names)[1] == b"ben@b"
    assert freeze(state, "") == "everything"
    assert state.client.hmget(state.keys.control, names) == [None] * 4
