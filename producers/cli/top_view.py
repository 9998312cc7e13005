"""How `darkroom top` looks: pure, from what was read to tables, or to what JSON knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from producers.cli import one_line
from producers.cli.status import remarks, why_not_open
from producers.cli.terminal import moment, money, plain, span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from producers.vitals import Vitals

_WIDE_COLUMNS: Final = 80
_CONDITION_STYLES: Final = {"open": "green", "blocked": "bold red"}


def as_json(vitals: Vitals) -> dict[str, Any]:
    """Give one object: the overview's fields, its lanes with their limits, queues, stages, spend, left_out."""
    overview = vitals.overview
    limits = {lane.name: plain(lane) for lane in vitals.lanes}
    lanes = [
        plain(lane) | limits[lane.name] | {"condition": lane.condition(overview.at_ms)}
        for lane in overview.lanes
    ]
    rest = {key: value for key, value in plain(vitals).items() if key not in ("overview", "lanes")}
    shape: dict[str, Any] = plain(overview) | {"lanes": lanes} | rest
    return shape


def screen(vitals: Vitals, columns: int) -> RenderableType:
    """Give the whole screen for a terminal of that many columns; a narrow one does without some numbers."""
    wide = columns >= _WIDE_COLUMNS
    parts: list[RenderableType] = [_head(vitals), Text(), _lanes(vitals, wide=wide)]
    for table in (_queues(vitals), _stages(vitals), _spend(vitals)):
        if table.row_count:
            parts += [Text(), table]
    for model, count in vitals.left_out.items():
        parts.append(Text(f"{count} more tenants of {model} have a queue"))
    parts += [Text(f"! {one_line(each)}", style="yellow") for each in remarks(vitals.overview)]
    return Group(*parts)


def _head(vitals: Vitals) -> Text:
    overview = vitals.overview
    counts = ", ".join(f"{count} {state}" for state, count in overview.counts.items() if count)
    workers = (
        f"{len(overview.workers)} workers, {overview.unknown} unknown, {overview.deliveries} webhooks due"
    )
    return Text(f"{moment(overview.at_ms)}  {workers}\njobs: {counts or 'none'}")


def _table(*headings: str, words: int) -> Table:
    """Give a table whose first columns are words, the others numbers."""
    table = Table(box=None, pad_edge=False)
    for at, heading in enumerate(headings):
        table.add_column(
            heading, justify="left" if at < words else "right", overflow="fold", no_wrap=at >= words
        )
    return table


def _lanes(vitals: Vitals, *, wide: bool) -> Table:
    limits = {lane.name: lane for lane in vitals.lanes}
    rates = ("submits/s", "polling", "polls/s") if wide else ()
    table = _table("lane", "submits", "posts", "slots", *rates, words=2)
    table.add_column("why", overflow="fold")
    now_ms = vitals.overview.at_ms
    for lane in vitals.overview.lanes:
        condition, limit = lane.condition(now_ms), limits[lane.name]
        shown = Text(condition, style=_CONDITION_STYLES.get(condition, "yellow"))
        use = (f"{limit.posts}/{limit.posts_limit}", f"{lane.in_flight}/{limit.slots_limit}")
        more = (_rate(limit.submit_per_s), str(lane.polling), _rate(limit.poll_per_s)) if wide else ()
        table.add_row(
            Text(lane.name), shown, *use, *more, Text(one_line(why_not_open(lane, condition, now_ms)))
        )
    return table


def _rate(per_s: float) -> str:
    return f"≤ {per_s:g}" if per_s else "no limit"


def _queues(vitals: Vitals) -> Table:
    table = _table("queue", "tenant", "jobs", "next waits", words=2)
    for queue in vitals.queues:
        age = "-" if queue.next_age_ms is None else span(queue.next_age_ms)
        why = {"paused": "paused", "cap": "waits for a cap"}.get(queue.reason, "parked")
        tenant = f"{queue.tenant} ({why})" if queue.parked else queue.tenant
        table.add_row(Text(queue.model), Text(one_line(tenant)), str(queue.depth), age)
    return table


def _stages(vitals: Vitals) -> Table:
    table = _table("stage", "lane", "due", "late", words=2)
    for stage in vitals.stages:
        late = span(stage.lag_ms) if stage.due else "-"
        table.add_row(stage.stage, Text(stage.lane), str(stage.due), late)
    return table


def _spend(vitals: Vitals) -> Table:
    table = _table("spent and held", "window", "amount", "cap", words=2)
    for row in vitals.spend:
        cap = "-" if row.limit_micros is None else money(row.limit_micros, row.currency)
        table.add_row(Text(row.scope), row.window, money(row.used_micros, row.currency), cap)
    return table
