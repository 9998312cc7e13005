"""How `darkroom top` looks: pure, from what was read to tables, or to what JSON knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from producers.cli import one_line
from producers.cli.sheet import Sheet, Styled
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


Part = str | Styled | Sheet


def parts(vitals: Vitals, columns: int) -> Iterator[Part]:
    """Give what is on the screen, from above; with fewer columns some numbers are left out."""
    yield from _head(vitals)
    yield ""
    wide = columns >= _WIDE_COLUMNS
    yield _lanes(vitals, wide=wide)
    sheets = (
        _queues(vitals),
        _stages(vitals),
        _endpoints(vitals, wide=wide),
        _workers(vitals, wide=wide),
        _spend(vitals),
    )
    for sheet in sheets:
        if sheet:
            yield ""
            yield sheet
    yield from _left_out(vitals)
    for each in remarks(vitals.overview):
        yield Styled(f"! {one_line(each)}", "yellow")


def _left_out(vitals: Vitals) -> Iterator[str]:
    for model, count in vitals.left_out.items():
        yield f"{count} more tenants of {model} have a queue"
    if (count := vitals.endpoint_count - len(vitals.endpoints)) > 0:
        yield f"{count} more endpoints have deliveries waiting"
    if (count := len(vitals.overview.workers) - len(vitals.workers)) > 0:
        yield f"{count} more workers are alive"


def plain_lines(vitals: Vitals, columns: int) -> Iterator[str]:
    """Give the screen for a pipe."""
    for part in parts(vitals, columns):
        if isinstance(part, Sheet):
            yield from part.lines()
        else:
            yield str(part)


def screen(vitals: Vitals, columns: int) -> RenderableType:
    """Give the screen for a terminal of that many columns."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        *(
            part.table()
            if isinstance(part, Sheet)
            else Text(str(part), style=part.style if isinstance(part, Styled) else "")
            for part in parts(vitals, columns)
        )
    )


def _head(vitals: Vitals) -> tuple[str, str]:
    overview = vitals.overview
    counts = ", ".join(f"{count} {state}" for state, count in overview.counts.items() if count)
    workers = (
        f"{len(overview.workers)} workers, {overview.unknown} unknown, {overview.deliveries} webhooks due"
    )
    return f"{moment(overview.at_ms)}  {workers}", f"jobs: {counts or 'none'}"


def _sheet(*headings: str, words: int, last: tuple[str, ...] = ()) -> Sheet:
    """Give a sheet whose first columns, and `last`, are words, the others numbers."""
    return Sheet(*headings, *last, right=headings[words:], folds=(*headings[:words], *last))


def _lanes(vitals: Vitals, *, wide: bool) -> Sheet:
    limits = {lane.name: lane for lane in vitals.lanes}
    rates = ("submits/s", "polling", "polls/s") if wide else ()
    sheet = _sheet("lane", "submits", "posts", "slots", *rates, words=2, last=("why",))
    now_ms = vitals.overview.at_ms
    for lane in vitals.overview.lanes:
        condition, limit = lane.condition(now_ms), limits[lane.name]
        shown = Styled(condition, _CONDITION_STYLES.get(condition, "yellow"))
        use = (f"{limit.posts}/{limit.posts_limit}", f"{lane.in_flight}/{limit.slots_limit}")
        more = (_rate(limit.submit_per_s), str(lane.polling), _rate(limit.poll_per_s)) if wide else ()
        sheet.add(lane.name, shown, *use, *more, one_line(why_not_open(lane, condition, now_ms)))
    return sheet


def _rate(per_s: float) -> str:
    return f"≤ {per_s:g}" if per_s else "no limit"


def _queues(vitals: Vitals) -> Sheet:
    sheet = _sheet("queue", "tenant", "jobs", "next waits", words=2)
    for queue in vitals.queues:
        age = "-" if queue.next_age_ms is None else span(queue.next_age_ms)
        why = {"paused": "paused", "cap": "waits for a cap"}.get(queue.reason, "parked")
        tenant = f"{queue.tenant} ({why})" if queue.parked else queue.tenant
        sheet.add(queue.model, one_line(tenant), str(queue.depth), age)
    return sheet


def _stages(vitals: Vitals) -> Sheet:
    sheet = _sheet("stage", "lane", "due", "late", words=2)
    for stage in vitals.stages:
        late = span(stage.lag_ms) if stage.due else "-"
        sheet.add(stage.stage, stage.lane, str(stage.due), late)
    return sheet


def _endpoints(vitals: Vitals, *, wide: bool) -> Sheet:
    """Draw where deliveries wait for another try, and why the oldest does."""
    more = ("next try",) if wide else ()
    numbers = ("waiting", "failing", "oldest", *more)
    sheet = Sheet("endpoint", *numbers, "last", right=numbers, folds=("endpoint", "last"))
    for each in vitals.endpoints:
        last = f"{each.last_status} (try {each.tries})" if each.tries else each.last_status
        due = ("-" if each.next_ms is None else span(each.next_ms),) if wide else ()
        counts = (str(each.waiting), str(each.failing), span(each.oldest_ms))
        sheet.add(one_line(each.host), *counts, *due, one_line(last))
    return sheet


def _workers(vitals: Vitals, *, wide: bool) -> Sheet:
    """Draw who is alive and what each holds; a narrow terminal does without what seldom changes."""
    rare = ("version", "stages", "up") if wide else ()
    folds = ("worker", "stages", "in flight")
    sheet = Sheet("worker", *rare, "seen", "in flight", right=("up", "seen"), folds=folds)
    now_ms = vitals.overview.at_ms
    for each in vitals.workers:
        held = " ".join(f"{stage} {count}" for stage, count in each.in_flight.items()) or "-"
        up = "-" if each.since_at is None else span(max(0, now_ms - each.since_at))
        cells = (one_line(each.version) or "-", one_line(" ".join(each.stages)) or "-", up) if wide else ()
        sheet.add(one_line(each.name), *cells, span(each.seen_ms), one_line(held))
    return sheet


def _spend(vitals: Vitals) -> Sheet:
    sheet = _sheet("spent and held", "window", "amount", "held", "cap", words=2)
    for row in vitals.spend:
        cap = "-" if row.limit_micros is None else money(row.limit_micros, row.currency)
        used, held = (money(micros, row.currency) for micros in (row.used_micros, row.held_micros))
        sheet.add(row.scope, row.window, used, held, cap)
    return sheet
