"""keys.lua against keys.py: the same names on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.redis.scripts import _source

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State

CALLS = {
    "record('j', 'a')": "job", "record('d', 'a')": "delivery", "spec('a')": "spec", "detail('a')": "detail",
    "timeline('a')": "timeline", "idempotency('a', 'b')": "idempotency", "generation('a')": "generation",
    "batch('a', 'b')": "batch", "batch_jobs('a', 'b')": "batch_jobs", "queue('a', 'b')": "queue",
    "aside('a', 'b', 'c')": "aside",
    "ready('a')": "ready", "lane('a')": "lane", "index('a')": "index", "slots('a')": "slots",
    "hint('a', 'b')": "hint", "counts": "counts", "control": "control", "ledger": "ledger",
    "balances": "balances", "usage": "usage", "parked": "parked", "paused": "paused",
    "opening": "opening", "closed": "closed", "orphans": "orphans", "workers": "workers", "ended": "ended",
    "audit": "audit", "losses": "losses", "lanes": "lanes",
    "waiting('a')": "waiting", "failing('a')": "failing", "endpoints": "endpoints",
}  # fmt: skip


def test_lua_builds_the_same_keys(state: State) -> None:
    """Every key that a script can build equals the one that Python builds."""
    script = _source("keys") + "\nreturn {" + ", ".join(f"K.{call}" for call in CALLS) + "}"
    built = [key.decode() for key in state.client.eval(script, 0, state.keys.prefix)]
    expected = []
    for call, name in CALLS.items():
        member = getattr(state.keys, name)
        arguments = tuple("abc"[: call.count("'") // 2]) if "record" not in call else ("a",)
        expected.append(member(*arguments) if callable(member) else member)
    assert built == expected


def test_every_lua_key_is_compared() -> None:
    """A key added to keys.lua must be added here."""
    names = {call.split("(")[0] for call in CALLS}
    text = _source("keys")
    defined = {
        line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  ") and "=" in line
    }
    assert defined == names
