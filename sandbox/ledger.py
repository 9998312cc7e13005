"""The provider's side of the bill: who was charged for what, grouped by a marker in the prompt.

Charged when a generation ends, for the images it delivers, in micro-units of CNY. It knows nothing but what a
provider knows; above all it never looks at headers, so that it can tell a client of a double charge.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sandbox.generations import Generation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sandbox.rules import Order

CURRENCY = "CNY"
_MARKER = re.compile(r"\[\[m:([^\]]{1,200})\]\]")


def identify(order: Order) -> tuple[str, str]:
    """Give (marker, sha256 hex) of an order: of its prompt, or of its image URLs if it has no prompt."""
    if order.prompt:
        digest = hashlib.sha256(order.prompt.encode()).hexdigest()
        found = _MARKER.search(order.prompt)
        return (found[1] if found else f"prompt:{digest[:16]}"), digest
    digest = hashlib.sha256(json.dumps(order.image_urls).encode()).hexdigest()
    return f"images:{digest[:16]}", digest


@dataclass(slots=True)
class Bill:
    """What one account has been accepted and charged for."""

    accepted: int = 0
    charged_images: int = 0
    charged_micros: int = 0


@dataclass(slots=True)
class Group:
    """What one marker has cost. `prompt_sha256` is that of its first prompt."""

    marker: str
    prompt_sha256: str
    accepted: int = 0
    charged_images: int = 0
    charged_micros: int = 0
    task_ids: list[str] = field(default_factory=list)


class Ledger:
    """Totals since the journal began, and groups for as long as their generations are kept."""

    def __init__(self) -> None:
        self.submits_seen = 0
        self._bills: defaultdict[str, Bill] = defaultdict(Bill)
        self._groups: dict[str, Group] = {}

    def accept(self, generation: Generation) -> None:
        self._bills[generation.account].accepted += 1
        group = self._groups.get(generation.marker)
        if group is None:
            group = self._groups[generation.marker] = Group(generation.marker, generation.prompt_sha256)
        group.accepted += 1
        group.task_ids.append(generation.id)

    def charge(self, generation: Generation) -> None:
        if generation.end != "completed":
            return
        for entry in (self._bills[generation.account], self._groups[generation.marker]):
            entry.charged_images += generation.delivered
            entry.charged_micros += generation.delivered * generation.price_micros

    def bill(self, account: str) -> Bill:
        return self._bills.get(account, Bill())

    def forget(self, generation: Generation) -> None:
        """Take a dropped generation out of its group; the totals keep it."""
        group = self._groups[generation.marker]
        group.task_ids.remove(generation.id)
        if not group.task_ids:
            del self._groups[generation.marker]

    def totals(self) -> dict[str, object]:
        bills = self._bills.values()
        return {
            "submits_seen": self.submits_seen,
            "submits_accepted": sum(bill.accepted for bill in bills),
            "charged_images": sum(bill.charged_images for bill in bills),
            "charged_micros": sum(bill.charged_micros for bill in bills),
            "currency": CURRENCY,
            "accounts": {account: asdict(bill) for account, bill in self._bills.items()},
        }

    def groups(self, marker: str | None = None) -> list[dict[str, object]]:
        """Give every group, or the one of `marker` (none if there is no such marker)."""
        if marker is None:
            return [asdict(group) for group in self._groups.values()]
        found = self._groups.get(marker)
        return [asdict(found)] if found else []


class Journal:
    """The file of accepted generations, one JSON line each, written before the client is answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self._drop_torn_line()
        self._file = path.open("a", encoding="utf-8")

    def _drop_torn_line(self) -> None:
        """A kill in the middle of a write leaves half a line; its client was never answered."""
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            with self._path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def replay(self) -> Iterable[Generation]:
        """Give what was accepted before, oldest first. Raises `ValueError` if a line is not ours."""
        with self._path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    fields = json.loads(line)
                    yield Generation(**(fields | {"palette": tuple(fields["palette"])}))
                except (ValueError, TypeError, KeyError):
                    raise ValueError(f"{self._path}: line {number} is not a line of this ledger") from None

    def append(self, generation: Generation) -> None:
        self._file.write(json.dumps(asdict(generation)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
