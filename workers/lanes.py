"""Lanes as this process sees them: (account, model), with the provider that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.settings import AccountSettings
    from workers.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane. name is `account/model`; price_micros is per delivered image."""

    name: str
    account: str
    model: str
    settings: AccountSettings
    provider: Provider
    price_micros: int
    caps: Mapping[str, Any] | None = None  # as `claim_caps` gives them

    @property
    def currency(self) -> str:
        return self.settings.currency


def interval_us(per_s: float) -> int:
    """Give the GCRA emission interval of a rate; 0 means unlimited."""
    return round(1_000_000 / per_s) if per_s else 0
