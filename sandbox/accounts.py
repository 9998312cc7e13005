"""Who may call: each API key is an account with its own limits, and can be made to fail while running."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox.limits import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.server import Reply

STATES = ("valid", "invalid", "forbidden", "broke")
_REPLAYS_KEPT = 10_000


class AccountRefused(ValueError):
    """No such state of an account."""


@dataclass(slots=True)
class Account:
    """`replays`: Idempotency-Key to (sha256 of the body, the answer given)."""

    label: str
    state: str = "valid"
    submits: Bucket = field(default_factory=Bucket)
    polls: Bucket = field(default_factory=Bucket)
    replays: OrderedDict[str, tuple[bytes, Reply]] = field(default_factory=OrderedDict)

    def remember(self, key: str, body_hash: bytes, reply: Reply) -> None:
        self.replays[key] = body_hash, reply
        if len(self.replays) > _REPLAYS_KEPT:
            self.replays.popitem(last=False)


def hash_body(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


class Accounts:
    """All of them, by key. Outside they are known by a label that does not give the key away."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._by_key: dict[str, Account] = {}
        self.change(dict.fromkeys(keys, "valid"))

    def find(self, authorization: str) -> Account | None:
        scheme, _, key = authorization.partition(" ")
        return self._by_key.get(key.strip()) if scheme.lower() == "bearer" else None

    @staticmethod
    def check(states: Mapping[str, object]) -> None:
        """Raise `AccountRefused` unless every value is a state."""
        if not all(state in STATES for state in states.values()):
            raise AccountRefused(f"api_keys maps keys to one of {', '.join(STATES)}")

    def change(self, states: Mapping[str, str]) -> None:
        """Set the states of keys; a key not seen before becomes an account."""
        self.check(states)
        for key, state in states.items():
            label = "account_" + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:8]
            self._by_key.setdefault(key, Account(label)).state = state

    def states(self) -> dict[str, str]:
        return {account.label: account.state for account in self._by_key.values()}
