"""A load under which faults are tried, and the judgement after one has ended."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from shared.money.ledger import verify
from shared.redis.keys import Keys
from tests.faults.judge import judge
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import redis

    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict
    from tests.servers import ValkeyProc

JOBS: Final = 40
SLOTS: Final = 6  # so that the jobs outlast the fault
RESUME_S: Final = 10.0
BUSY_MACHINE: Final = 2.0  # promises are of a quiet machine


def under_load(
    faults: FaultHouse, jobs: int = JOBS, env: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> list[str]:
    """Start two workers on more jobs than they can do at once, and wait until all stages have work.

    `env` gives environment variables of `one` and `two`.
    """
    faults.lane(max_in_flight=SLOTS)
    for name in ("one", "two"):
        faults.worker(name, **env.get(name, {}))
    ids = faults.enqueue_for_judgement(jobs)
    faults.until(lambda: faults.counts().get("completed", 0) >= 2, 60, "work in progress")
    return ids


def judged(faults: FaultHouse, fault: str, ids: list[str], *, resume_s: float = RESUME_S) -> float:
    """The fault has just ended: work goes on by itself, every promise is kept. Gives the seconds until it went on."""
    resumed_s = faults.resumed(len(ids), resume_s * BUSY_MACHINE)
    recovered_s = resumed_s + faults.quiet(len(ids))
    verdict = judge(faults, ids)
    name = faults.state_binary or "valkey"
    note_row(f"{fault} ({name})", faults.seed, verdict, recovered_s, resumed_s=resumed_s)
    assert verdict.clean, verdict
    assert verdict.failed == 0, verdict
    assert all(worker.running for worker in faults.workers), "no worker ends over it"
    return resumed_s


def intents(server: ValkeyProc, ids: list[str]) -> dict[str, str]:
    """Give per job the intent of its POST, as this server has it."""
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(f"{{darkroom}}:j:{job_id}", "intent_id")
        found = pipe.execute()
    return {job_id: intent.decode() for job_id, intent in zip(ids, found, strict=True) if intent}


def forgotten_intents(had: Mapping[str, str], kept: Mapping[str, str]) -> set[str]:
    """Give the jobs with an intent in what a server `had` that is not in what was `kept`."""
    return {job_id for job_id, intent in had.items() if kept.get(job_id) != intent}


def judged_with_a_gap(
    faults: FaultHouse, fault: str, ids: list[str], doubtful: set[str], *, resume_s: float = RESUME_S
) -> Verdict:
    """Every promise is kept but for the `doubtful` jobs, whose intents were lost: each may have been sent again.

    What was sent twice runs twice at the provider, so its slots may be passed by as many, and one of the two charges
    belongs to no job. If the first image was stored already, the second is not put over it: failed(copy_failed).
    Nothing else is wrong, and the books themselves add up.
    """
    resumed_s = faults.resumed(len(ids), resume_s * BUSY_MACHINE)
    recovered_s = resumed_s + faults.quiet(len(ids))
    verdict = judge(faults, ids)
    name = faults.state_binary or "valkey"
    note_row(f"{fault} ({name})", faults.seed, verdict, recovered_s, resumed_s=resumed_s)
    twice = {group["marker"] for group in faults.ledger()["groups"] if group["accepted"] > 1}
    undoubted = twice - {f"b-{ids.index(job_id)}" for job_id in doubtful}
    assert not undoubted, f"{undoubted} sent twice: {verdict}"
    again = verdict.double_charged
    assert max(verdict.forgotten, verdict.wrong_bill, verdict.over_limit) <= again, verdict
    assert max(verdict.failed, verdict.wrong_terminal) <= again, verdict
    assert not any((verdict.lost, verdict.damaged, verdict.untold, verdict.duplicate_events)), verdict
    assert verify(faults.state.client(), Keys.of("darkroom")).adds_up
    assert all(worker.running for worker in faults.workers)
    return verdict


@contextmanager
def again_and_again(hurt: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it again and again while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            hurt()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def kill_clients(client: redis.Redis) -> None:
    """End every connection of a server but this one: CLIENT KILL."""
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
