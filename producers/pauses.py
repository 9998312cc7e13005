"""Pausing a lane by hand: its submits wait, polls and copies go on. Apart from a block, which the provider causes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.freezes import check_why
from shared.errors import InvalidRequest, Issue

if TYPE_CHECKING:
    from shared.settings import Settings


def pause_arguments(
    settings: Settings, lane: str, paused: bool, by: str, why: str, dry_run: bool
) -> tuple[str, int, str, str, int]:
    """Give the arguments of pause_lane.lua. Raises InvalidRequest (no such lane, a long reason)."""
    lanes = sorted(
        f"{name}/{model}" for name, account in settings.accounts.items() for model in account.models
    )
    if lane not in lanes:
        rule = f"lane must be one of {', '.join(lanes)}"
        raise InvalidRequest((Issue("lane", "choice", rule, lane),))
    check_why(why)
    return lane, int(paused), by, why, int(dry_run)
