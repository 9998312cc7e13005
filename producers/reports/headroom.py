"""What caps leave for a file of requests: pure, but for reading the counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from producers.store_caps import period_name
from shared.money.caps import tenant_caps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from producers.reports.estimate import Shape
    from producers.reports.journal import Books
    from shared.settings import CapSettings, Settings


@dataclass(frozen=True, slots=True)
class Headroom:
    """One cap that covers jobs of the file; micros. `used` is spent and held in the present period.

    `queued` may be spent before the file's jobs: of tenants; what an account is going to take is not known before.
    `asked` is the most that the file's jobs under the cap can cost.
    """

    scope: str
    window: str
    currency: str
    limit_micros: int
    over_cap: str
    used_micros: int
    queued_micros: int
    asked_micros: int

    @property
    def left_micros(self) -> int:
        return max(0, self.limit_micros - self.used_micros - self.queued_micros)

    @property
    def fits(self) -> bool:
        return self.asked_micros <= self.left_micros


def read_headrooms(books: Books, shapes: Mapping[Shape, int]) -> list[Headroom]:
    """Read what is left under every cap that covers the jobs."""
    settings, now_ms = books.settings, books.now_ms()
    rows = list(_covering(settings, sorted({shape.tenant for shape in shapes})))
    if not rows:
        return []
    fields = [
        name
        for scope, cap in rows
        for name in (f"{cap.currency}|{scope}|{period_name(cap.window, now_ms)}", f"{cap.currency}|{scope}|q")
    ]
    found: Any = books.client.hmget(books.keys.usage, fields)
    counters = [int(each or 0) for each in found]
    return list(_headrooms(settings, shapes, rows, counters))


def _covering(settings: Settings, tenants: Sequence[str]) -> Iterator[tuple[str, CapSettings]]:
    """Give caps with the scope that they count: a tenant's own replaces the one for each, window by window."""
    for tenant in tenants:
        for cap in tenant_caps(settings.caps, tenant):
            yield f"tenant:{tenant}", cap
    for cap in settings.caps:
        if cap.scope.startswith("account:"):
            yield cap.scope, cap


def _headrooms(
    settings: Settings,
    shapes: Mapping[Shape, int],
    rows: Sequence[tuple[str, CapSettings]],
    counters: Sequence[int],
) -> Iterator[Headroom]:
    for at, (scope, cap) in enumerate(rows):
        asked = sum(count * _most(settings, shape, scope, cap.currency) for shape, count in shapes.items())
        if asked:
            used, queued = counters[2 * at : 2 * at + 2]
            yield Headroom(
                scope, cap.window, cap.currency, cap.limit_micros, cap.over_cap, used, max(0, queued), asked
            )


def _most(settings: Settings, shape: Shape, scope: str, currency: str) -> int:
    """Give the most that a job can cost in a scope and currency; 0 if it is not of the scope."""
    kind, _, name = scope.partition(":")
    if kind == "tenant" and shape.tenant != name:
        return 0
    prices = [
        account.price_micros[shape.model]
        for account_name, account in settings.accounts.items()
        if account.currency == currency
        and shape.model in account.models
        and shape.model in account.price_micros
        and (kind == "tenant" or account_name == name)
    ]
    return max(prices, default=0) * shape.n
