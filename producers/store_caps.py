"""Which counters of spending the exporter shows: those of accounts, and of scopes that settings cap by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from shared.money.caps import ANY_TENANT

if TYPE_CHECKING:
    from shared.settings import Settings

_DAY_MS: Final = 86_400_000
_WINDOWS: Final = ("day", "month", "total")


@dataclass(frozen=True, slots=True)
class CapRow:
    """One counter; `field` is its name in the hash of usage. limit_micros is None where nothing limits it.

    What the scope holds now is in `held_field` of the hash of usage or of balances.
    """

    scope: str
    window: str
    currency: str
    limit_micros: int | None
    field: str

    @property
    def held_in(self) -> Literal["usage", "balances"]:
        return "balances" if self.scope.startswith("tenant:") else "usage"

    @property
    def held_field(self) -> str:
        """Name it as `money.lua` (of tenants) and `calendar.lua` (of accounts) do."""
        kind, _, name = self.scope.partition(":")
        return f"{self.currency}|held:{name}" if kind == "tenant" else f"{self.currency}|{self.scope}|h"


def cap_rows(settings: Settings, now_ms: int) -> list[CapRow]:
    """Give the counters of this day, month and of ever. Tenants are those named by a cap: a bounded set."""
    wanted: dict[tuple[str, str, str], int | None] = {
        (f"account:{name}", window, account.currency): None
        for name, account in settings.accounts.items()
        for window in _WINDOWS
    }
    for cap in settings.caps:
        if cap.scope != ANY_TENANT:
            place = (cap.scope, cap.window, cap.currency)
            wanted[place] = min(wanted.get(place) or cap.limit_micros, cap.limit_micros)
    return [
        CapRow(scope, window, currency, limit, f"{currency}|{scope}|{period_name(window, now_ms)}")
        for (scope, window, currency), limit in wanted.items()
    ]


def period_name(window: str, now_ms: int) -> str:
    """Name the period as `calendar.lua` does."""
    match window:
        case "day":
            return f"d{now_ms // _DAY_MS}"
        case "month":
            return f"m{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m}"
        case _:
            return "t"
