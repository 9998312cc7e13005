"""What `darkroom estimate` does, once its options are read."""

from __future__ import annotations

import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from producers.cli import EXIT_JOBS, one_line
from producers.cli.estimating_caps import cap_table, shortfall
from producers.cli.inputs import opened_input, progress
from producers.cli.terminal import console, money, opened, plain, print_json, span
from producers.intake import Broken, read_items
from producers.reports.estimate import Estimate, ModelEstimate, PriceRange, Shape, estimate
from producers.reports.headroom import read_headrooms
from producers.reports.journal import opened_books
from producers.reports.situation import read_situations
from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.disposition import Disposition
from shared.jobs.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from rich.table import Table

    from producers import Darkroom, ItemReceipt
    from producers.intake import Parsed
    from producers.reports.headroom import Headroom
    from shared.jobs.request import GenerationRequest

SHOWN_REJECTS: Final = 5
_FORMATS: Final = ("jsonl", "csv", "tsv")
NOTHING_DONE: Final = "Nothing was enqueued."


@dataclass(frozen=True, slots=True)
class Question:
    """The options of one run."""

    source: str
    format: str | None
    columns: Mapping[str, str]
    defaults: Mapping[str, Any]
    tenant: str | None
    as_json: bool


def run(question: Question) -> int:
    """Judge every line, estimate the good ones, print. Gives the exit code."""
    if question.format is not None and question.format not in _FORMATS:
        raise ConfigurationError(
            f"there is no format {question.format!r}. Formats are {', '.join(_FORMATS)}."
        )
    with opened() as darkroom:
        judged = Judged(question.tenant or darkroom.settings.tenant)
        with opened_input(question.source) as stream, progress(stream) as show:
            items = judged.items(_read(question, stream, darkroom, judged.notes))
            darkroom.check_many(items, tenant=question.tenant, on_disposition=judged.taking(show))
        settings = darkroom.settings
    with opened_books(settings) as books:
        situations = read_situations(books, sorted({shape.model for shape in judged.shapes}))
        caps = read_headrooms(books, judged.shapes)
    found = estimate(judged.shapes, settings.accounts, settings.poll, situations)
    if question.as_json:
        print_json(_document(found, judged) | {"caps": [_row(each) for each in caps]})
    else:
        _print(found, judged, caps)
    return EXIT_JOBS if judged.rejected else 0


def _read(question: Question, stream: BinaryIO, darkroom: Darkroom, notes: list[str]) -> Iterator[Any]:
    models = [model for account in darkroom.settings.accounts.values() for model in account.models]
    given = {name: value for name, value in question.defaults.items() if value is not None}
    return read_items(
        stream,
        format=question.format,  # type: ignore[arg-type] # compared with the formats there are by `run`
        columns=question.columns,
        defaults={"model": models[0] if models else None, **given},
        notes=notes,
    )


@dataclass(slots=True)
class Judged:
    """Lines on their way to the client that judges them, and what became of them."""

    tenant: str
    shapes: Counter[Shape] = field(default_factory=Counter)
    rejected: int = 0
    shown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _under_way: deque[tuple[int, Shape | None]] = field(default_factory=deque)

    def items(self, read: Iterator[Parsed | Broken]) -> Iterator[tuple[Any, dict[str, object]]]:
        """Give (request, options) per readable line; the others are rejected here."""
        for item in read:
            if isinstance(item, Broken):
                self._reject(item.line_number, item.issue.message)
                continue
            request = _parsed(item)
            tenant = item.params.get("tenant")
            shape = _shape(request, str(tenant or self.tenant)) if request else None
            self._under_way.append((item.line_number, shape))
            yield request or item.data, item.params

    def taking(self, show: Callable[[int], object]) -> Callable[[ItemReceipt], None]:
        def take(receipt: ItemReceipt) -> None:
            line, shape = self._under_way.popleft()
            if receipt.disposition is Disposition.REJECTED or shape is None:
                self._reject(line, receipt.issues[0].message)
            else:
                self.shapes[shape] += 1
            show(line)

        return take

    def _reject(self, line: int, message: str) -> None:
        self.rejected += 1
        if len(self.shown) < SHOWN_REJECTS:
            self.shown.append(f"line {line}: {message}")


def _parsed(item: Parsed) -> GenerationRequest | None:
    """Read the request; None for one that breaks a rule: the client is going to say which."""
    try:
        return parse_request(item.data)
    except InvalidRequest:
        return None


def _shape(request: GenerationRequest, tenant: str) -> Shape:
    size = " ".join(str(part) for part in (request.resolution, request.size) if part) or "default"
    return Shape(request.model, size, request.n, bool(request.enable_sequential), tenant)


# --- printing ---


def _document(found: Estimate, judged: Judged) -> dict[str, Any]:
    return {
        "jobs": found.jobs,
        "images": found.images,
        "rejected": judged.rejected,
        "prices": [plain(each) for each in found.prices],
        "duration_s": None if found.duration_s is None else round(found.duration_s, 1),
        "lines": [plain(each) for each in found.lines],
        "models": [plain(each) for each in found.models],
        "notes": judged.notes,
    }


def _row(cap: Headroom) -> dict[str, Any]:
    row: dict[str, Any] = plain(cap)
    return row | {"left_micros": cap.left_micros, "fits": cap.fits}


def _print(found: Estimate, judged: Judged, caps: list[Headroom]) -> None:
    more = judged.rejected - len(judged.shown)
    rejects = [*judged.shown, *([f"... and {more} more rejected lines"] if more > 0 else [])]
    for remark in (*judged.notes, *rejects):
        sys.stderr.write(one_line(remark) + "\n")
    if not found.jobs:
        print(f"No valid requests, {judged.rejected} rejected. {NOTHING_DONE}")
        return
    out = console()
    out.print(_price_table(found))
    out.print()
    out.print(_time_table(found))
    if caps:
        out.print()
        out.print(cap_table(caps))
    for cap in caps:
        if not cap.fits:
            out.print(f"! {shortfall(cap)}", style="yellow")
    for model in found.models:
        for lane, why in model.blocked.items():
            out.print(f"! {lane} takes no jobs now: {one_line(why)}", style="yellow")
    print(
        f"\n{found.jobs} jobs, {found.images} images, {judged.rejected} rejected: {_prices(found.prices)}, {_ends(found)}"
    )
    if not all(model.measured for model in found.models):
        print("Too few generations have been seen lately: their time is assumed, not measured.")
    print(NOTHING_DONE)


def _price_table(found: Estimate) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("model", "left"),
        ("size", "left"),
        ("jobs", "right"),
        ("images", "right"),
        ("price", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type] # a str, as rich's own are
    for line in found.lines:
        table.add_row(line.model, line.size, str(line.jobs), str(line.images), _prices(line.prices))
    return table


def _time_table(found: Estimate) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in (
        "model",
        "submits",
        "polls",
        "queued before",
        "generation",
        "jobs/s",
        "bounded by",
        "done in",
    ):
        table.add_column(name, overflow="fold")
    for model in found.models:
        table.add_row(*_time_row(model))
    return table


def _time_row(model: ModelEstimate) -> tuple[str, ...]:
    how = "" if model.measured else " (assumed)"
    done = "never: no lane is open" if model.duration_s is None else span(round(model.duration_s * 1000))
    return (
        model.model, str(model.submits), f"about {model.polls}", str(model.backlog),
        span(round(model.latency_s * 1000)) + how, f"{model.per_s:.2f}", model.limited_by, done,
    )  # fmt: skip


def _prices(ranges: tuple[PriceRange, ...]) -> str:
    return " or ".join(_price(each) for each in ranges)


def _price(each: PriceRange) -> str:
    most = money(each.most_micros, each.currency)
    if each.least_micros == each.most_micros:
        return f"at most {most}"
    return f"{money(each.least_micros, each.currency)} to {most}"


def _ends(found: Estimate) -> str:
    if found.duration_s is None:
        return "not done while a lane is blocked"
    return f"done in about {span(round(found.duration_s * 1000))}"
