"""What a provider can do after it accepted: polls that fail, generations that are lost, results that are not all there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import middleman as spoils
from tests.faults.dials import peak_rss_mib, rules, tune, tune_account
from tests.faults.judge import judge
from tests.faults.middleman import Middleman, Twist
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

JOBS = 6
HITS = 8  # every job's first poll, and some again
PRICE_MICROS = 200_000
GIB = 1024  # MiB

pytestmark = pytest.mark.timeout(180)

POLL_RULES = {
    "500": ("500", ""),
    "502 as a page": ("html", "502"),
    "503": ("503", ""),
    "429 with Retry-After": ("429", "1"),
    "429 with a date": ("429", "date:2"),
    "429, absurd": ("429", "999999"),
    "401": ("401", ""),
    "404 right after the submit": ("404", ""),
    "302 elsewhere": ("redirect", "http://127.0.0.1:9/"),
    "connection reset": ("lost_answer", "reset"),
    "no answer": ("hang", ""),
    "half of the body": ("cut", ""),
    "garbage with 200": ("garbage", ""),
    "empty body with 200": ("empty", ""),
    "a page with 200": ("html", ""),
}
SLOW_TO_HEAL = {"401": 3}  # a refused account is asked again after 30 s


@pytest.mark.parametrize("name", POLL_RULES)
def test_a_poll_that_fails(faults: FaultHouse, name: str) -> None:
    """Asking again is free: every job completes, none is submitted again, none becomes unknown."""
    kind, arg = POLL_RULES[name]
    rules(faults, {"on": "poll", "kind": kind, "arg": arg, "times": SLOW_TO_HEAL.get(name, HITS)})
    _patient(faults)
    tune(faults, "retry", retry_after_cap_s=2.0)
    faults.worker()
    _all_complete(faults, f"poll: {name}")


def _status(word: object) -> Callable[[Any], Any]:
    def change(document: Any) -> Any:
        document["data"] = {"id": document["data"]["id"], "status": word}
        return document

    return change


def _result(result: object) -> Callable[[Any], Any]:
    def change(document: Any) -> Any:
        if document["data"]["status"] == "completed":
            document["data"]["result"] = result
        return document

    return change


def _of_another(document: Any) -> Any:
    """The answer that belongs to another generation, whose end is not this job's."""
    document["data"] = {"id": document["data"]["id"][:-1] + "!", "status": "failed"}
    return document


TWISTS: dict[str, Callable[[], Twist]] = {
    "slow-loris: a byte every 0.3 s": lambda: Twist("poll", spoils.dripping(0.3, 4)),
    "half-open: silence": lambda: Twist("poll", spoils.silent(4)),
    "reset inside the body": lambda: Twist("poll", spoils.stopping(after="half", reset=True)),
    "body of 1 GiB": lambda: Twist("poll", spoils.endless(GIB)),
    "a number as status": lambda: Twist("poll", spoils.changed(_status(7))),
    "an unknown status": lambda: Twist("poll", spoils.changed(_status("contemplating"))),
    "an empty list as data": lambda: Twist("poll", spoils.says({"code": 200, "data": []})),
    "null": lambda: Twist("poll", spoils.says(None)),
    "the answer about another": lambda: Twist("poll", spoils.changed(_of_another)),
    "images as text": lambda: Twist("poll", spoils.changed(_result({"images": "soon"}))),
    "images as numbers": lambda: Twist("poll", spoils.changed(_result({"images": [1, 2]}))),
}


@pytest.mark.parametrize("name", TWISTS)
def test_a_poll_answered_with_nonsense(faults: FaultHouse, name: str) -> None:
    """What says nothing is asked again, in bounded memory."""
    twist = TWISTS[name]()
    twist.times = HITS
    with Middleman(faults.provider.url, [twist]) as between:
        tune_account(faults, base_url=between.url + "/v1")
        _patient(faults)
        worker = faults.worker()
        before_mib = peak_rss_mib(worker.pid)
        _all_complete(faults, f"poll: {name}")
        grew_mib = peak_rss_mib(worker.pid) - before_mib
    assert twist.done == HITS
    assert grew_mib < 192, f"{grew_mib:.0f} MiB more, of eight bodies of which 8 MiB each are read"


def test_a_status_that_goes_backwards(faults: FaultHouse) -> None:
    """Processing, pending, a word nobody knows, then done; and a provider that denies it afterwards changes nothing."""
    words, lock = ["processing", "pending", "submitted", "contemplating"], threading.Lock()
    told: dict[str, int] = {}

    def backwards(document: Any) -> Any:
        with lock:
            at = told[document["data"]["id"]] = told.get(document["data"]["id"], -1) + 1
        ended = document["data"]["status"] == "completed"
        if at < len(words):
            return _status(words[at])(document)
        return document if ended and at == len(words) else _status("processing")(document)

    with Middleman(faults.provider.url, [Twist("poll", spoils.changed(backwards))]) as between:
        tune_account(faults, base_url=between.url + "/v1")
        faults.worker()
        _all_complete(faults, "poll: status goes backwards")


@pytest.mark.parametrize("outcome", ["never", "lost_task"])
def test_a_generation_that_never_ends(faults: FaultHouse, outcome: str) -> None:
    """Never done, or never found: asked until give_up_s, then failed(lost), settled at its price, never sent again."""
    hit = 3
    rules(faults, {"on": "submit", "kind": outcome, "times": hit})
    tune(faults, "poll", deadline_s=2.0, late_every_s=1.0, give_up_s=5.0, missing_grace_s=1.0)
    faults.worker()
    verdict, jobs = _run(faults, f"generation: {outcome}")
    assert verdict.failed == hit, verdict
    assert verdict.unknown == 0, verdict
    lost = [job for job in jobs if str(job.state) == "failed"]
    assert {(job.error_code, job.cost_micros, job.hold_micros) for job in lost} == {("lost", PRICE_MICROS, 0)}
    assert all(job.generation_id for job in lost)
    flags = {faults.state.client().hget(f"{{darkroom}}:j:{job.id}", "flag") for job in lost}
    assert flags == {b"lost"}


@pytest.mark.parametrize(
    ("kind", "code"), [("fail", "provider:task_failed"), ("cancel", "provider:cancelled")]
)
def test_a_generation_that_fails(faults: FaultHouse, kind: str, code: str) -> None:
    """The provider says so: failed, free, and never tried again as a new paid job."""
    rules(faults, {"on": "submit", "kind": kind, "times": 3})
    faults.worker()
    verdict, jobs = _run(faults, f"generation: {kind}")
    assert verdict.failed == 3, verdict
    failed = [job for job in jobs if str(job.state) == "failed"]
    assert {(job.error_code, job.cost_micros, job.hold_micros) for job in failed} == {(code, 0, 0)}


@pytest.mark.parametrize("delivered", [0, 1, 2])
def test_fewer_images_than_asked_for(faults: FaultHouse, delivered: int) -> None:
    """Some are a partial completion at the price of what came; none is failed(no_images)."""
    wanted = 3
    kind = {"kind": "partial", "arg": str(delivered)} if delivered else {"kind": "no_images", "arg": ""}
    rules(faults, {"on": "submit", **kind})
    faults.worker()
    requests = [request | {"n": wanted} for request in faults.requests(JOBS, "b")]
    receipt = faults.darkroom.enqueue_many(requests, batch="b", webhook=f"{faults.sink.url}/ok")
    assert receipt.enqueued == JOBS
    ids = [item.job_id for item in receipt.items if item.job_id]
    recovered_s = faults.quiet(JOBS)
    jobs = [faults.darkroom.get(job_id) for job_id in ids]
    verdict = judge(faults, ids)
    note_row(f"generation: {delivered} of {wanted} images", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert {len(job.artifacts) for job in jobs} == {delivered}
    ends = {(str(job.state), job.error_code, job.partial) for job in jobs}
    assert ends == {("completed", None, True) if delivered else ("failed", "no_images", False)}
    assert (
        sum(job.cost_micros for job in jobs)
        == faults.ledger()["charged_micros"]
        == JOBS * delivered * PRICE_MICROS
    )


def _patient(faults: FaultHouse) -> None:
    """Keep the grace longer than the fault, and a poll shorter than the test."""
    tune(faults, "poll", missing_grace_s=60.0)
    tune(faults, "worker", poll_timeout_s=1.5)


def _all_complete(faults: FaultHouse, fault: str) -> None:
    verdict, jobs = _run(faults, fault)
    assert (verdict.failed, verdict.unknown) == (0, 0), verdict
    assert {job.cost_micros for job in jobs} == {PRICE_MICROS}
    assert faults.ledger()["submits_seen"] == JOBS


def _run(faults: FaultHouse, fault: str) -> tuple[Verdict, list[Job]]:
    ids = faults.enqueue_for_judgement(JOBS)
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(fault, faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    return verdict, [faults.darkroom.get(job_id) for job_id in ids]
