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
    from collections.abc import Iterator

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
    tables = (
        _queues(vitals),
        _stages(vitals),
        _endpoints(vitals, wide=wide),
        _workers(vitals, wide=wide),
        _spend(vitals),
    )
    for table in tables:
        if table.row_count:
            parts += [Text(), table]
    parts += [Text(line) for line in _left_out(vitals)]
    parts += [Text(f"! {one_line(each)}", style="yellow") for each in remarks(vitals.overview)]
    return Group(*parts)


def _left_out(vitals: Vitals) -> Iterator[str]:
    for model, count in vitals.left_out.items():
        yield f"{count} more tenants of {model} have a queue"
    if (count := vitals.endpoint_count - len(vitals.endpoints)) > 0:
        yield f"{count} more endpoints have deliveries waiting"
    if (count := len(vitals.overview.workers) - len(vitals.workers)) > 0:
        yield f"{count} more workers are alive"


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
        tenant = f"{queue.tenant} (parked)" if queue.parked else queue.tenant
        table.add_row(Text(queue.model), Text(one_line(tenant)), str(queue.depth), age)
    return table


def _stages(vitals: Vitals) -> Table:
    table = _table("stage", "lane", "due", "late", words=2)
    for stage in vitals.stages:
        late = span(stage.lag_ms) if stage.due else "-"
        table.add_row(stage.stage, Text(stage.lane), str(stage.due), late)
    return table


def _endpoints(vitals: Vitals, *, wide: bool) -> Table:
    """Draw where deliveries wait for another try, and why the oldest does."""
    more = ("next try",) if wide else ()
    table = _table("endpoint", "waiting", "failing", "oldest", *more, words=1)
    table.add_column("last", overflow="fold")
    for each in vitals.endpoints:
        last = f"{each.last_status} (try {each.tries})" if each.tries else each.last_status
        due = ("-" if each.next_ms is None else span(each.next_ms),) if wide else ()
        table.add_row(
            Text(one_line(each.host)),
            str(each.waiting),
            str(each.failing),
            span(each.oldest_ms),
            *due,
            Text(one_line(last)),
        )
    return table


def _workers(vitals: Vitals, *, wide: bool) -> Table:
    """Draw who is alive and what each holds; a narrow terminal does without what seldom changes."""
    more = ("version", "stages", "up") if wide else ()
    table = _table("worker", *more[:2], *more[2:], "seen", words=1 + len(more[:2]))
    table.add_column("in flight", overflow="fold")
    now_ms = vitals.overview.at_ms
    for each in vitals.workers:
        held = " ".join(f"{stage} {count}" for stage, count in each.in_flight.items()) or "-"
        up = "-" if each.since_at is None else span(max(0, now_ms - each.since_at))
        rare = (Text(one_line(each.version) or "-"), Text(one_line(" ".join(each.stages)) or "-"), up)
        table.add_row(
            Text(one_line(each.name)), *(rare if wide else ()), span(each.seen_ms), Text(one_line(held))
        )
    return table


def _spend(vitals: Vitals) -> Table:
    table = _table("spent and held", "window", "amount", "held", "cap", words=2)
    for row in vitals.spend:
        cap = "-" if row.limit_micros is None else money(row.limit_micros, row.currency)
        used, held = (money(micros, row.currency) for micros in (row.used_micros, row.held_micros))
        table.add_row(Text(row.scope), row.window, used, held, cap)
    return table
