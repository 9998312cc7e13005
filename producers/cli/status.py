"""`darkroom status` and `darkroom batch`: looking, never changing (but for `batch seal`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli import one_line
from producers.cli.sheet import Cell, Pairs, Sheet, Styled
from producers.cli.terminal import (
    STATE_STYLES,
    JsonOption,
    TenantOption,
    looking,
    moment,
    money,
    opened,
    plain,
    print_json,
    print_styled,
    span,
    terminal_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers import BatchStatus, Job, LaneStatus, Overview, Pause
    from producers.looking import Looking

_SHOWN_CHARS = 100
_SHOWN_PAUSES = 10
_BAR_CELLS = 30
_WIDE_COLUMNS = 80


def status(
    job: Annotated[str | None, typer.Argument(help="Job id; without it, the state of the whole.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job with its timeline; or lanes, workers, counts, and what needs a person."""
    with looking() as darkroom:
        if job is None:
            _show_overview(darkroom, as_json)
        else:
            found = darkroom.get(job)
            pauses = darkroom.pauses_of(found.tenant, found.batch) if found.state == "queued" else ()
            _show_job(found, pauses, darkroom.now_ms(), as_json)


# --- one job ---


def _show_job(job: Job, pauses: tuple[Pause, ...], now_ms: int, as_json: bool) -> None:
    if as_json:
        print_json(plain(job) | {"held_by": [plain(pause) for pause in pauses]})
        return
    _pairs(_job_facts(job, pauses)).write()
    print()
    _timeline(job, now_ms).write()


def _job_facts(job: Job, pauses: tuple[Pause, ...] = ()) -> Iterator[tuple[str, Cell]]:
    request = job.request
    yield "job", job.id
    yield "state", Styled(job.state + _held(job, pauses), STATE_STYLES.get(job.state, ""))
    if job.error_code:
        yield "why", f"{job.error_code}: {job.error_message}" if job.error_message else job.error_code
    if job.unknown_cause:
        yield "cause", job.unknown_cause
    yield "tenant", job.tenant
    if job.batch:
        yield "batch", job.batch
    yield "model", " · ".join(str(part) for part in (job.model, request.get("size"), f"n={job.n}") if part)
    if prompt := request.get("prompt"):
        yield "prompt", prompt if len(prompt) <= _SHOWN_CHARS else prompt[:_SHOWN_CHARS] + "…"
    if job.lane:
        yield "lane", job.lane
    if job.generation_id:
        yield "generation", job.generation_id
    yield from _job_money(job)
    if job.not_before_at:
        yield "not before", moment(job.not_before_at)
    if job.deadline_at:
        yield "deadline", moment(job.deadline_at)
    for artifact in job.artifacts:
        size = f"{artifact.width}x{artifact.height}" if artifact.width else ""
        yield (
            f"image {artifact.index}",
            " ".join(part for part in (artifact.object_key or artifact.url or "", size) if part),
        )


def _held(job: Job, pauses: tuple[Pause, ...]) -> str:
    """Say which pauses hold a queued job back."""
    own = f"paused by {_author(job.paused_by, job.paused_why)}" if job.paused_by else ""
    others = (f"{pause.name} is paused by {_author(pause.by, pause.why)}" for pause in pauses)
    said = "; ".join(filter(None, (own, *others)))
    return f" ({said})" if said else ""


def _author(by: str | None, why: str | None) -> str:
    return one_line(f"{by}: {why}" if why else f"{by}")


def _job_money(job: Job) -> Iterator[tuple[str, str]]:
    if job.hold_micros:
        yield "held", money(job.hold_micros, job.currency)
    if job.ended and not job.currency:
        yield "cost", "nothing"
    elif job.cost_micros or job.ended:
        yield "cost", money(job.cost_micros, job.currency) + (" so far" if job.accounting_open else "")


def _timeline(job: Job, now_ms: int) -> Sheet:
    sheet = Sheet("when", "after", "state", "what", folds=("what",))
    sheet.add(moment(job.created_at), "", _state("queued"), "enqueued")
    before = job.created_at
    for entry in job.timeline:
        after = span(entry.at_ms - before)
        sheet.add(moment(entry.at_ms), after, _state(entry.state), one_line(entry.note))
        before = entry.at_ms
    if not job.ended:
        sheet.add("now", span(max(0, now_ms - before)), _state(job.state), "")
    return sheet


def _state(state: str) -> Styled:
    return Styled(state, STATE_STYLES.get(state, ""))


def _pairs(facts: Iterator[tuple[str, Cell]]) -> Pairs:
    pairs = Pairs()
    for name, value in facts:
        pairs.add(name, value if isinstance(value, Styled) else one_line(value))
    return pairs


# --- the whole ---


def _show_overview(darkroom: Looking, as_json: bool) -> None:
    overview = darkroom.overview()
    if as_json:
        lanes = [plain(lane) | {"condition": lane.condition(overview.at_ms)} for lane in overview.lanes]
        print_json(plain(overview) | {"lanes": lanes})
        return
    _pairs(_whole_facts(overview, darkroom.settings.flower.url)).write()
    print()
    _lanes(overview, terminal_columns()).write()
    for remark in remarks(overview):
        print_styled(f"! {remark}", "yellow")


def _whole_facts(overview: Overview, flower: str | None) -> Iterator[tuple[str, Cell]]:
    yield "jobs", ", ".join(f"{count} {state}" for state, count in overview.counts.items() if count) or "none"
    yield "workers", str(len(overview.workers))
    yield "open batches", str(overview.open_batches)
    yield "webhooks due", str(overview.deliveries)
    if flower:
        yield "flower", flower


def _lanes(overview: Overview, width: int) -> Sheet:
    """Draw the lanes; a narrow terminal does without the numbers."""
    numbers = ("posts", "slots", "polls") if width >= _WIDE_COLUMNS else ()
    sheet = Sheet("lane", "submits", *numbers, "why", right=numbers, folds=("lane", "why"))
    for lane in overview.lanes:
        condition = lane.condition(overview.at_ms)
        style = "green" if condition == "open" else "bold red" if condition == "blocked" else "yellow"
        cells = (str(lane.submitting), str(lane.in_flight), str(lane.polling))[: len(numbers)]
        why = one_line(why_not_open(lane, condition, overview.at_ms))
        sheet.add(lane.name, Styled(condition, style), *cells, why)
    return sheet


def why_not_open(lane: LaneStatus, condition: str, now_ms: int) -> str:
    match condition:
        case "blocked":
            since = f" since {moment(lane.blocked_at)}" if lane.blocked_at else ""
            return f"{lane.blocked}{since}{_probe(lane, now_ms)}"
        case "closed":
            return f"throttled by the provider, opens in {span((lane.closed_until or now_ms) - now_ms)}"
        case "probing":
            return f"{lane.ambiguous} submits in a row with an unknown outcome{_probe(lane, now_ms)}"
        case "paused":
            why = f" ({lane.paused_why})" if lane.paused_why else ""
            return f"by {lane.paused_by} since {moment(lane.paused_at)}{why}: `darkroom resume {lane.name}`"
        case _:
            return ""


def _probe(lane: LaneStatus, now_ms: int) -> str:
    if lane.probe_at is None or lane.probe_at <= now_ms:
        return ""
    return f", next try in {span(lane.probe_at - now_ms)}"


def remarks(overview: Overview) -> Iterator[str]:
    """Say what needs a person, and what to do."""
    waiting = sum(count for state, count in overview.counts.items() if state == "queued")
    if overview.frozen:
        freeze = overview.frozen
        why = f" ({one_line(freeze.why)})" if freeze.why else ""
        since = f" since {moment(freeze.at_ms)} by {one_line(freeze.by)}" if freeze.at_ms else ""
        yield f"frozen: {one_line(freeze.what)}{since}{why}. `darkroom freeze off` lets work go on"
    if overview.losses:
        yield "the state server was emptied or replaced while workers ran: see docs/operations.md before `darkroom freeze off`"
    if overview.newer:
        yield f"{overview.newer} records of a later version wait for workers of that version"
    if overview.store_trouble:
        trouble = overview.store_trouble
        yield f"{trouble.said} since {moment(trouble.since_ms)}: submits wait until a copy succeeds; nothing is lost"
    yield from _pauses(overview)
    if waiting and not overview.workers:
        yield "jobs wait and no worker is alive: start one with `darkroom worker`"
    if any(lane.condition(overview.at_ms) == "blocked" for lane in overview.lanes):
        yield "a blocked lane keeps its jobs: correct the account's key or balance, the next try opens it"
    if overview.unknown:
        yield f"{overview.unknown} jobs have an unknown outcome: see `darkroom unknown list`"
    if overview.orphans:
        yield f"{overview.orphans} generations of the provider belong to no job"


def _pauses(overview: Overview) -> Iterator[str]:
    for pause in overview.paused[:_SHOWN_PAUSES]:
        why = f" ({one_line(pause.why)})" if pause.why else ""
        yield f"{pause.name} is paused since {moment(pause.at_ms)} by {one_line(pause.by)}{why}: `{pause.resume}`"
    if (more := len(overview.paused) - _SHOWN_PAUSES) > 0:
        yield f"{more} more tenants and batches are paused: see `darkroom status --json`"
    if overview.paused_jobs:
        yield f"{overview.paused_jobs} jobs are paused one by one: `darkroom resume --state queued` lets all go on"


# --- batches ---


def batch(
    words: Annotated[list[str], typer.Argument(metavar="[show|seal] NAME", help="The batch.")],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a batch with its counts, progress and cost; or seal it, so that it can complete."""
    verb, name = _batch_words(words)
    sealed_now = verb == "seal" and _seal(name, tenant)
    with looking() as darkroom:
        found = darkroom.batch(name, tenant)
    if as_json:
        print_json(plain(found) | {"done": found.done, "at_most_micros": found.at_most_micros})
        return
    if verb == "seal":
        typer.echo(f"batch {name} is sealed" if sealed_now else f"batch {name} was sealed already")
    _pairs(batch_facts(found)).write()


def _seal(name: str, tenant: str | None) -> bool:
    with opened() as darkroom:
        return darkroom.seal(name, tenant)


def _batch_words(words: list[str]) -> tuple[str, str]:
    match words:
        case [name]:
            return "show", name
        case ["show" | "seal" as verb, name]:
            return verb, name
        case _:
            raise typer.BadParameter("give the name of one batch, or `seal NAME`")


def batch_facts(found: BatchStatus) -> Iterator[tuple[str, str]]:
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    filled = _BAR_CELLS * found.done // found.total if found.total else 0
    percent = 100 * found.done // found.total if found.total else 0
    yield "batch", found.name
    yield "tenant", found.tenant
    yield (
        "progress",
        f"{'█' * filled}{'░' * (_BAR_CELLS - filled)} {percent} % ({found.done} of {found.total})",
    )
    yield "jobs", counts or "none"
    for pause in found.paused:
        author = _author(pause.by, pause.why)
        yield "paused", f"{pause.name} since {moment(pause.at_ms)} by {author}: `{pause.resume}`"
    yield "images", str(found.images)
    yield "cost", money(found.cost_micros, found.currency)
    if found.at_most_micros > found.cost_micros:
        yield "at most", money(found.at_most_micros, found.currency)
    yield from _caps(found)
    yield "created", moment(found.created_at)
    yield "sealed", moment(found.sealed_at) if found.sealed else "no: it takes more jobs, and cannot complete"
    if found.completed_at:
        yield "completed", moment(found.completed_at)
    elif found.stalled_at:
        yield "stalled", f"{moment(found.stalled_at)}: only jobs with an unknown outcome are left"


def _caps(found: BatchStatus) -> Iterator[tuple[str, str]]:
    limits = []
    if found.max_cost_micros is not None:
        limits.append(f"before it costs more than {money(found.max_cost_micros, found.currency)}")
    if found.max_failed_percent is not None:
        limits.append(f"when more than {found.max_failed_percent:g} % failed")
    if limits:
        yield "stops", ", or ".join(limits)
    if found.stopped and found.stopped_at:
        reached = {"max_cost": "its cost", "max_failed": "its failures"}.get(found.stopped, found.stopped)
        yield "stopped", f"{moment(found.stopped_at)} by {reached}; what was queued is cancelled, free"
