"""The work itself: who is there to do it, what holds it up, and what waits for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from producers.doctor.findings import bad, beware, good

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from producers.doctor.findings import Finding
    from producers.overview import Overview
    from producers.parties import EndpointUse, WorkerUse

_NAMED: Final = 3  # paused tenants and batches


def judge_work(overview: Overview) -> Iterator[Finding]:
    """Judge workers, lanes, freezes, pauses, unknown outcomes and orphans."""
    yield from _workers(overview)
    if overview.losses:
        what = "the state server was emptied or replaced while workers ran: submits are stopped"
        do = "See docs/operations.md, `When the state server was emptied`; `darkroom freeze off` ends it."
        yield bad("work", what, do)
    if overview.newer:
        what = f"{_count(overview.newer, 'record')} of a later version wait, which workers here cannot read"
        yield beware("work", what, "Start workers of that version, or upgrade these.")
    if overview.frozen:
        what = f"{overview.frozen.what} is frozen" + (
            f" ({overview.frozen.why})" if overview.frozen.why else ""
        )
        yield beware("work", what, "`darkroom freeze off` when the cause is gone.")
    if overview.store_trouble:
        do = "Mend the store: the first copy that succeeds lets submits go on. Queued jobs are kept."
        yield bad("storage", f"{overview.store_trouble.said}: submits wait", do)
    yield from _lanes(overview)
    if overview.paused or overview.paused_jobs:
        held = [pause.name for pause in overview.paused[:_NAMED]]
        more = len(overview.paused) - len(held)
        held += [f"{more} more"] if more else []
        held += [_count(overview.paused_jobs, "single job")] if overview.paused_jobs else []
        yield beware(
            "work", f"paused by hand: {', '.join(held)}", "`darkroom status` says how to resume them."
        )
    if overview.unknown:
        what = f"{overview.unknown} jobs have an unknown outcome, and hold their money"
        yield beware("work", what, "See `darkroom unknown list`, and decide.")
    if overview.orphans:
        what = f"{overview.orphans} generations of the provider belong to no job"
        yield beware("work", what, "Compare them with the provider's bill.")


def _workers(overview: Overview) -> Iterator[Finding]:
    queued = overview.counts.get("queued", 0)
    if overview.workers:
        yield good("work", f"{_count(len(overview.workers), 'worker')} alive, {_count(queued, 'job')} queued")
    elif queued:
        yield bad(
            "work", f"{_count(queued, 'job')} queued, and no worker is alive", "Start `darkroom worker`."
        )
    else:
        yield beware("work", "no worker is alive", "Start `darkroom worker` before you enqueue.")


def _lanes(overview: Overview) -> Iterator[Finding]:
    for lane in overview.lanes:
        match lane.condition(overview.at_ms):
            case "blocked":
                do = "Correct the account's key or balance; the next try opens it."
                yield bad("work", f"lane {lane.name} is blocked ({lane.blocked})", do)
            case "paused":
                what = f"lane {lane.name} is paused by {lane.paused_by}" + (
                    f" ({lane.paused_why})" if lane.paused_why else ""
                )
                yield beware("work", what, f"`darkroom resume {lane.name}` when the cause is gone.")
            case "probing":
                what = f"lane {lane.name}: {lane.ambiguous} submits in a row had an unknown outcome"
                yield beware("work", what, "It tries one at a time until one is clear; look at the provider.")
            case "closed":
                yield good("work", f"lane {lane.name} waits for the provider's quota")


def judge_versions(workers: Sequence[WorkerUse]) -> Iterator[Finding]:
    """Say if workers of several versions run: right during a roll, a forgotten machine afterwards."""
    versions = sorted({each.version for each in workers if each.version})
    if len(versions) > 1:
        what = f"workers of {len(versions)} versions run: {', '.join(versions)}"
        yield beware("work", what, "Replace the older ones; `darkroom top` says which they are.")


def judge_endpoints(endpoints: Sequence[EndpointUse]) -> Iterator[Finding]:
    """Say where webhook deliveries were tried and failed, and wait to be tried again."""
    for each in endpoints:
        if each.failing:
            what = f"{_count(each.failing, 'delivery', 'deliveries')} to {each.host} failed"
            why = f" (the oldest: {each.last_status} after {_count(each.tries, 'try', 'tries')})"
            do = "See that it answers 2xx; they are tried again on the schedule."
            yield beware("webhooks", what + (why if each.last_status else ""), do)


def judge_stores(own: str | None, of_workers: Mapping[str, str | None]) -> Iterator[Finding]:
    """Compare the identity kept in this machine's store with those that workers found in theirs."""
    if own is None:
        return
    if not of_workers:
        what = "no worker is alive: whether workers use this same store cannot be proved from here"
        yield beware("storage", what, "Run this again when one is.")
    silent = [name for name, found in of_workers.items() if found is None]
    others = [name for name, found in of_workers.items() if found not in (None, own)]
    same = len(of_workers) - len(silent) - len(others)
    for name in others:
        what = f"worker {name} uses another store than this machine"
        yield bad("storage", what, "Give both the same storage.url, on a volume or bucket that they share.")
    for name in silent:
        what = f"worker {name} has not said which store it uses: it cannot reach it, or is just starting"
        yield beware("storage", what, "Run `darkroom doctor` on its machine.")
    if same:
        what = f"{_count(same, 'worker')} found the same identity in theirs: it is shared"
        yield good("storage", what)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
