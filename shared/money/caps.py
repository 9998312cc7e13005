"""Caps as the scripts take them. Pure; what a cap is: `CapSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

from shared.errors import InvalidRequest, Issue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from decimal import Decimal

    from shared.settings import CapSettings

ANY_TENANT: Final = "tenant:*"
MICROS: Final = 1_000_000
KEEP_DAYS: Final = 62  # a hold of a generation that lasts is corrected in its own day
KEEP_MONTHS_DAYS: Final = 430
_EPOCH: Final = date(1970, 1, 1)
_PPM_PER_PERCENT: Final = 10_000
_ALL_PERCENT: Final = 100


def claim_caps(caps: Sequence[CapSettings], account: str, currency: str) -> dict[str, Any] | None:
    """Give what `claim_submit.lua` checks for a lane of the account; None if nothing limits it.

    Shape: {account: [[window, limit micros]], any: [...], tenants: {name: [...]}}; `tenants` are those with caps of
    their own, whose lists also have the caps of `any` for other windows.
    """
    of_currency = [cap for cap in caps if cap.currency == currency]
    mine = _pairs(cap for cap in of_currency if cap.scope == f"account:{account}")
    anyone = _pairs(cap for cap in of_currency if cap.scope == ANY_TENANT)
    scopes = {cap.scope for cap in of_currency if cap.scope.startswith("tenant:")} - {ANY_TENANT}
    names = (scope.removeprefix("tenant:") for scope in sorted(scopes))
    tenants = {name: _pairs(tenant_caps(of_currency, name)) for name in names}
    if not (mine or anyone or tenants):
        return None
    return {"account": mine, "any": anyone, "tenants": tenants}


def tenant_caps(caps: Sequence[CapSettings], tenant: str) -> list[CapSettings]:
    """Give the caps that cover a tenant: all of its own, and those of each tenant for other windows or currencies."""
    own = [cap for cap in caps if cap.scope == f"tenant:{tenant}"]
    places = {(cap.window, cap.currency) for cap in own}
    return [
        *own,
        *(cap for cap in caps if cap.scope == ANY_TENANT and (cap.window, cap.currency) not in places),
    ]


def reject_caps(caps: Sequence[CapSettings], tenant: str) -> list[tuple[str, int, str]]:
    """Give (window, limit micros, currency) of the caps that refuse a tenant's new jobs."""
    return [
        (cap.window, cap.limit_micros, cap.currency)
        for cap in tenant_caps(caps, tenant)
        if cap.over_cap == "reject"
    ]


@dataclass(frozen=True, slots=True)
class BatchCaps:
    """When a batch is to stop: what it may cost (an amount of the prices' currency), and how many may fail.

    The jobs that are still queued then are cancelled, free of charge; what was submitted is finished.
    """

    max_cost: Decimal | None = None
    max_failed_percent: Decimal | None = None

    def fields(self) -> dict[str, str]:
        """Give them as the batch's record has them. Raises InvalidRequest."""
        issues = tuple(self._issues())
        if issues:
            raise InvalidRequest(issues)
        fields = {}
        if self.max_cost is not None:
            fields["max_cost"] = str(int(self.max_cost * MICROS))
        if self.max_failed_percent is not None:
            fields["max_failed_ppm"] = str(int(self.max_failed_percent * _PPM_PER_PERCENT))
        return fields

    def _issues(self) -> Iterator[Issue]:
        cost, failed = self.max_cost, self.max_failed_percent
        if cost is not None and not (cost.is_finite() and cost > 0 and cost * MICROS == int(cost * MICROS)):
            rule = "max_cost must be more than 0, with at most 6 decimals"
            yield Issue("max_cost", "range", rule, str(cost)[:40])
        if failed is not None and not (failed.is_finite() and 0 <= failed < _ALL_PERCENT):
            rule = (
                "max_failed_percent must be from 0 to under 100: the batch stops when more than that failed"
            )
            yield Issue("max_failed_percent", "range", rule, str(failed)[:40])


def is_over(field: str, today: int) -> bool:
    """Say whether a counter of usage (`currency|scope|period`) is of a period long over. Days since 1970-01-01."""
    period = field.rpartition("|")[2]
    match period[0], period[1:]:
        case "d", day:
            return int(day) < today - KEEP_DAYS
        case "m", month:
            return date(int(month[:4]), int(month[4:]), 1) < _EPOCH + timedelta(days=today - KEEP_MONTHS_DAYS)
        case _:
            return False


def _pairs(caps: Iterable[CapSettings]) -> list[tuple[str, int]]:
    return [(cap.window, cap.limit_micros) for cap in caps]
