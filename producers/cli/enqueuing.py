"""What `darkroom enqueue` does, once its options are read."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from producers.cli import EXIT_JOBS, one_line
from producers.cli.terminal import console, opened, plain, prices, print_json
from producers.cli.waiting import print_outcome, wait_for
from producers.intake import Parsed, RejectsWriter, read_items
from producers.intake_fields import split_defaults
from shared.errors import ConfigurationError, DarkroomError, InvalidRequest, Issue
from shared.jobs.disposition import Disposition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from rich.progress import Progress

    from producers import BatchReceipt, Darkroom, ItemReceipt
    from producers.cli.waiting import Outcome
    from shared.money.caps import BatchCaps

SHOWN_REJECTS: Final = 5
SHOWN_IDS: Final = 10
_FORMATS: Final = ("jsonl", "csv", "tsv")
_REFRESH_ITEMS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of one run."""

    source: str | None
    format: str | None
    columns: Mapping[str, str]
    request: Mapping[str, Any]
    job: Mapping[str, Any]
    idempotency_prefix: str | None
    batch: str | None
    batch_webhook: str | None
    seal: bool
    max_cost: str | None
    max_failed: str | None
    tenant: str | None
    rejects: Path | None
    dry_run: bool
    wait: bool
    as_json: bool

    @property
    def rejects_path(self) -> Path:
        name = "stdin" if self.source in (None, "-") else str(self.source)
        return self.rejects or Path(f"{name}.rejects.jsonl")

    @property
    def writes_rejects(self) -> bool:
        """A dry run leaves no file that was not asked for."""
        return self.rejects is not None or not self.dry_run

    @property
    def batch_name(self) -> str | None:
        """A run that waits needs a batch to ask after: without a name it gets one."""
        if self.batch is None and self.wait:
            return f"cli-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        return self.batch


def run(plan: Plan) -> int:
    """Enqueue (or judge) every line, report, wait if asked to. Gives the exit code."""
    if plan.format is not None and plan.format not in _FORMATS:
        raise ConfigurationError(f"there is no format {plan.format!r}. Formats are {', '.join(_FORMATS)}.")
    with opened() as darkroom:
        batch = plan.batch_name
        with _source(plan.source) as (stream, size), RejectsWriter(plan.rejects_path) as rejects:
            _refuse_to_overwrite(plan, stream)
            lines = Lines(plan, stream, size, rejects, _default_model(darkroom))
            receipt = _enqueue(darkroom, plan, batch, lines)
        summary = _summary(plan, receipt, lines)
        if not plan.as_json:
            _print_summary(plan, receipt, lines)
        code = EXIT_JOBS if lines.rejected else 0
        if plan.wait and not plan.dry_run and batch is not None:
            outcome = _wait(darkroom, batch, receipt)
            summary["batches"] = [plain(status) | {"done": status.done} for status in outcome.statuses]
            if not plan.as_json:
                print_outcome(darkroom, outcome)
            code = code or outcome.exit_code
        if plan.as_json:
            print_json(summary)
        return code


def _wait(darkroom: Darkroom, batch: str, receipt: BatchReceipt) -> Outcome:
    try:
        return wait_for(darkroom, batch, receipt.tenants)
    except KeyboardInterrupt:
        sys.stderr.write(f"the jobs go on; see `darkroom batch {batch}`\n")
        raise


def _default_model(darkroom: Darkroom) -> str | None:
    models = [model for account in darkroom.settings.accounts.values() for model in account.models]
    return models[0] if models else None


@contextmanager
def _source(name: str | None) -> Iterator[tuple[BinaryIO | None, int | None]]:
    """Open the input; give it with its size in bytes, if it has one."""
    if name is None:
        yield None, None
    elif name == "-":
        yield sys.stdin.buffer, None
    else:
        try:
            stream = Path(name).open("rb")  # noqa: SIM115 - closed below; only the opening may fail here
        except OSError as error:
            raise ConfigurationError(f"cannot read {name}: {error.strerror}. Check the path.") from None
        with stream:
            status = os.fstat(stream.fileno())
            yield stream, status.st_size if stat.S_ISREG(status.st_mode) else None


def _refuse_to_overwrite(plan: Plan, stream: BinaryIO | None) -> None:
    """Rejects written into the file that is read would take its lines, and be read in their turn, without end."""
    if stream is None or not plan.writes_rejects:
        return
    try:
        read, written = os.fstat(stream.fileno()), plan.rejects_path.stat()
    except OSError:  # it is not there yet, or nothing that has a file
        return
    if stat.S_ISREG(read.st_mode) and os.path.samestat(read, written):
        raise ConfigurationError(f"{plan.rejects_path} is what is read. Choose another rejects file.")


class Lines:
    """Lines on their way: from the input to the client, and back from it as enqueued, duplicate or rejected."""

    def __init__(
        self,
        plan: Plan,
        stream: BinaryIO | None,
        size: int | None,
        rejects: RejectsWriter,
        default_model: str | None,
    ) -> None:
        self.size_bytes, self.notes = size, list[str]()
        self.first_ids: list[str] = []
        self.enqueued = self.duplicates = self.rejected = self.settled = 0
        self.last_line = 0
        self.shown: list[str] = []
        self.warnings: dict[str, int] = {}
        self._plan, self._stream, self._rejects = plan, stream, rejects
        self._default_model = default_model
        self._under_way: deque[tuple[int, str]] = deque()

    @property
    def done_bytes(self) -> int:
        return self._stream.tell() if self._stream is not None and self.size_bytes is not None else 0

    @property
    def in_doubt(self) -> tuple[int, int] | None:
        """The first and last line that nobody has answered for."""
        return (self._under_way[0][0], self._under_way[-1][0]) if self._under_way else None

    def items(self) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
        """Give (request, options) per readable line; the others are rejected here."""
        for item in self._read():
            self.last_line = item.line_number
            if isinstance(item, Parsed):
                self._under_way.append((item.line_number, item.raw))
                yield item.data, self._options(item)
            else:
                self._reject(item.line_number, item.issue, item.raw)

    def _read(self) -> Iterator[Any]:
        given = {name: value for name, value in self._plan.request.items() if value is not None}
        if self._stream is None:
            request, _ = split_defaults({"model": self._default_model, **given})
            return iter([Parsed(1, request, {}, "")])
        return read_items(
            self._stream,
            format=self._plan.format,  # type: ignore[arg-type]
            columns=self._plan.columns,
            defaults={"model": self._default_model, **given},
            notes=self.notes,
        )

    def _options(self, item: Parsed) -> dict[str, object]:
        prefix = self._plan.idempotency_prefix
        if prefix is not None and item.params.get("idempotency_key") is None:
            return {**item.params, "idempotency_key": f"{prefix}:{item.line_number}"}
        return item.params

    def take(self, item: ItemReceipt) -> None:
        """Note what became of the next line under way."""
        line, raw = self._under_way.popleft()
        self.settled += 1
        if item.disposition is Disposition.REJECTED:
            self._reject(line, item.issues[0], raw)
        elif item.job_id is not None and len(self.first_ids) <= SHOWN_IDS:
            self.first_ids.append(item.job_id)
        self.enqueued += item.disposition is Disposition.ENQUEUED
        self.duplicates += item.disposition is Disposition.DUPLICATE
        for warning in item.warnings:
            self.warnings[warning] = self.warnings.get(warning, 0) + 1

    def _reject(self, line: int, issue: Issue, raw: str) -> None:
        self.rejected += 1
        if self._plan.writes_rejects:
            self._rejects.write(line, issue, raw)
        if len(self.shown) < SHOWN_REJECTS:
            self.shown.append(f"line {line}: {issue.message}")


def _enqueue(darkroom: Darkroom, plan: Plan, batch: str | None, lines: Lines) -> BatchReceipt:
    _, defaults = split_defaults(plan.job)
    options: Any = defaults
    with _progress(lines) as took:
        of_batch: Any = {
            "tenant": plan.tenant, "batch": batch, "batch_webhook": plan.batch_webhook,
            "batch_caps": _batch_caps(plan, batch),
        }  # fmt: skip
        if plan.dry_run:
            return darkroom.check_many(lines.items(), on_disposition=took, **of_batch, **options)
        try:
            return darkroom.enqueue_many(
                lines.items(), seal=plan.seal, keep=False, on_disposition=took, **of_batch, **options
            )
        except KeyboardInterrupt:
            _print_stopped(plan, lines)
            raise
        except DarkroomError:
            if lines.settled:  # else the error says all there is to say
                _print_stopped(plan, lines)
            raise


def _batch_caps(plan: Plan, batch: str | None) -> BatchCaps | None:
    """Read `--max-cost 40.00` and `--max-failed 5%`. Raises InvalidRequest."""
    if plan.max_cost is None and plan.max_failed is None:
        return None
    if batch is None:
        message = "--max-cost and --max-failed are those of a batch: name one with --batch"
        raise InvalidRequest((Issue("batch", "batch_caps", message),))
    from shared.money.caps import BatchCaps

    return BatchCaps(
        max_cost=_decimal("max_cost", plan.max_cost),
        max_failed_percent=_decimal("max_failed", plan.max_failed and plan.max_failed.removesuffix("%")),
    )


def _decimal(field: str, text: str | None) -> Decimal | None:
    try:
        return Decimal(text) if text is not None else None
    except InvalidOperation:
        raise InvalidRequest((Issue(field, "number", f"{field} must be a number", str(text)[:40]),)) from None


def _print_stopped(plan: Plan, lines: Lines) -> None:
    """Say how far it came, and how to go on without paying for anything twice."""
    doubt = "; lines {} to {} may be in, too".format(*lines.in_doubt) if lines.in_doubt else ""
    keyed = plan.idempotency_prefix is not None or "idempotency_key" in plan.columns
    again = (
        "Run it again to go on."
        if keyed
        else "Its lines have no idempotency keys, so a second run would enqueue, and pay for, what is in once more: "
        "give it only the lines that are not in."
    )
    sys.stderr.write(
        f"stopped near line {lines.last_line}: {lines.enqueued} enqueued, {lines.duplicates} duplicates, "
        f"{lines.rejected} rejected so far{doubt}. {again}\n"
    )


@contextmanager
def _progress(lines: Lines) -> Iterator[Any]:
    """Show progress on stderr, if it is a terminal; give the callback that counts."""
    if not sys.stderr.isatty():
        yield lines.take
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    known = lines.size_bytes is not None
    columns = (BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    if not known:
        columns = (MofNCompleteColumn(), *columns[1:])  # type: ignore[assignment]
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=lines.size_bytes, note="")

        def took(item: ItemReceipt) -> None:
            lines.take(item)
            if lines.settled % _REFRESH_ITEMS == 0:
                _advance(progress, bar, lines)

        yield took


def _advance(progress: Progress, bar: Any, lines: Lines) -> None:
    note = f"{lines.settled} lines, {lines.rejected} rejected"
    progress.update(bar, completed=lines.done_bytes or lines.settled, note=note)


def _summary(plan: Plan, receipt: BatchReceipt, lines: Lines) -> dict[str, Any]:
    return {
        "dry_run": plan.dry_run,
        "batch": receipt.batch,
        "tenants": list(receipt.tenants),
        "sealed": receipt.sealed,
        "enqueued": receipt.enqueued,
        "duplicates": receipt.duplicates,
        "rejected": lines.rejected,
        "price_micros": receipt.price_micros,
        "job_ids": lines.first_ids if len(lines.first_ids) <= SHOWN_IDS and not plan.dry_run else None,
        "rejects_file": str(plan.rejects_path) if lines.rejected and plan.writes_rejects else None,
        "notes": lines.notes,
        "warnings": lines.warnings,
    }


def _print_summary(plan: Plan, receipt: BatchReceipt, lines: Lines) -> None:
    _print_remarks(plan, lines)
    if not receipt.total and not lines.rejected:
        sys.stderr.write("the input holds no requests; nothing was enqueued\n")
        return
    cost = f"at most {prices(receipt.price_micros)}"
    if plan.dry_run:
        print(f"{receipt.enqueued} valid, {lines.rejected} rejected; {cost}. Nothing was enqueued.")
        return
    duplicates = f", {receipt.duplicates} duplicates" if receipt.duplicates else ""
    sealed = f" Batch {receipt.batch} is {'sealed' if receipt.sealed else 'open'}." if receipt.batch else ""
    print(f"{receipt.enqueued} enqueued{duplicates}, {lines.rejected} rejected; {cost}.{sealed}")
    if 0 < len(lines.first_ids) <= SHOWN_IDS:
        print("\n".join(lines.first_ids))


def _print_remarks(plan: Plan, lines: Lines) -> None:
    remarks = [*lines.notes, *(f"{warning} ({count} jobs)" for warning, count in lines.warnings.items())]
    remarks += lines.shown
    if lines.rejected > len(lines.shown):
        remarks.append(f"... and {lines.rejected - len(lines.shown)} more rejected lines")
    if lines.rejected and plan.writes_rejects:
        remarks.append(f"rejected lines are in {plan.rejects_path}")
    for remark in remarks:
        sys.stderr.write(one_line(remark) + "\n")
