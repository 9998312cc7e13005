"""What `darkroom estimate` says of caps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.cli.terminal import money

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from producers.reports.headroom import Headroom


def cap_table(caps: Sequence[Headroom]) -> Table:
    """Give a row per cap that covers the jobs: what of it is used and queued, what is left, what these ask for."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("cap", overflow="fold")
    for name in ("limit", "spent and held", "queued", "left", "these jobs"):
        table.add_column(name, justify="right", no_wrap=True)
    for cap in caps:
        amounts = (cap.limit_micros, cap.used_micros, cap.queued_micros, cap.left_micros, cap.asked_micros)
        table.add_row(_named(cap), *(money(each, cap.currency) for each in amounts))
    return table


def shortfall(cap: Headroom) -> str:
    """Say what becomes of the jobs that do not fit."""
    asked, left = money(cap.asked_micros, cap.currency), money(cap.left_micros, cap.currency)
    rest = "are refused when they are enqueued" if cap.over_cap == "reject" else "wait until there is room"
    return f"{_named(cap)}: {left} are left for at most {asked}; jobs over it {rest}"


def _named(cap: Headroom) -> str:
    return f"{cap.scope}, {'in total' if cap.window == 'total' else f'a {cap.window}'}"
