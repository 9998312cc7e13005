"""What a provider can do to a submit: each answer means one thing, and nothing is paid for twice."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import API_KEY
from tests.faults import middleman as spoils
from tests.faults.dials import lane_record, peak_rss_mib, rules, server_ms, tune, tune_account
from tests.faults.judge import judge
from tests.faults.middleman import Middleman, Twist
from tests.faults.table import note_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.jobs.job import Job
    from tests.faults.campaign import FaultHouse
    from tests.faults.judge import Verdict

JOBS = 6
HIT = 3  # fewer than open the breaker
PRICE_MICROS = 200_000
DEADLINE_S = 2.0
GIB = 1024  # MiB

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Case:
    """A fault that meets the first HIT submits, and what becomes of those jobs."""

    fault: str
    rule: dict[str, object]
    becomes: str = "unknown"
    cause: str = ""

    def __str__(self) -> str:
        return self.fault


def rule(kind: str, arg: str = "", **more: object) -> dict[str, object]:
    return {"on": "submit", "kind": kind, "arg": arg, "times": HIT, **more}


ANSWERS = (
    Case("500", rule("500"), cause="http_500"),
    Case("500, accepted all the same", rule("500", accept=True)),
    Case("502", rule("502"), cause="bad_gateway"),
    Case("502 as a page", rule("html", "502"), cause="http_502"),
    Case("503 without a code", rule("503"), cause="http_503"),
    Case("503, accepted all the same", rule("503", accept=True)),
    Case("504", rule("504"), cause="http_504"),
    Case("504, accepted all the same", rule("504", accept=True)),
    Case("408", rule("408"), cause="http_408"),
    Case("302 elsewhere", rule("redirect", "http://127.0.0.1:9/"), cause="http_302"),
    Case("connection closed without an answer", rule("lost_answer"), cause="closed"),
    Case("connection reset before an answer", rule("lost_answer", "reset"), cause="reset"),
    Case("connection closed, not accepted", rule("lost_answer", accept=False), cause="closed"),
    Case("no answer until the deadline", rule("hang"), cause="timeout"),
    Case("answer after the deadline", rule("slow", "4"), cause="timeout"),
    Case("half of the body", rule("cut"), cause="closed"),
    Case("garbage with 200", rule("garbage"), cause="unreadable_body"),
    Case("empty body with 200", rule("empty"), cause="unreadable_body"),
    Case("a page with 200", rule("html"), cause="unreadable_body"),
    Case("get_channel_failed", rule("code", "get_channel_failed"), "completed"),
    Case("503 idempotency_unavailable", rule("code", "idempotency_unavailable"), "completed"),
    Case("content refused", rule("refuse"), "failed"),
    Case("400", rule("400"), "failed"),
    Case("500 build_request_failed", rule("build_request_failed"), "failed"),
)


@pytest.mark.parametrize("case", ANSWERS, ids=str)
def test_an_answer_to_a_submit(faults: FaultHouse, case: Case) -> None:
    """What may have been accepted is unknown and held; what was not is free; the rest of the batch goes on."""
    tune(faults, "worker", submit_timeout_s=DEADLINE_S)
    rules(faults, case.rule)
    faults.worker()
    verdict, jobs = _run(faults, f"submit: {case.fault}")
    hit = {job.id: job for job in jobs if str(job.state) != "completed"}
    assert len(hit) == (0 if case.becomes == "completed" else HIT), verdict
    assert {str(job.state) for job in hit.values()} <= {case.becomes}
    _books_agree(faults, jobs)
    if case.becomes == "completed":
        assert sum(job.attempts for job in jobs) == HIT  # counted, free, and sent again
    if case.cause:
        assert {job.unknown_cause for job in hit.values()} == {case.cause}


TWISTS: dict[str, Callable[[], Twist]] = {
    "slow-loris: a byte every 0.3 s": lambda: Twist("submit", spoils.dripping(0.3, 6)),
    "half-open: silence after the POST": lambda: Twist("submit", spoils.silent(6)),
    "head, then nothing": lambda: Twist("submit", spoils.stopping(after="head", reset=False)),
    "reset inside the body": lambda: Twist("submit", spoils.stopping(after="half", reset=True)),
    "body of 1 GiB": lambda: Twist("submit", spoils.endless(GIB)),
    "list instead of an id": lambda: Twist("submit", spoils.says({"data": [{"task_id": ["x"]}]})),
    "number instead of data": lambda: Twist("submit", spoils.says({"code": 200, "data": 7})),
    "a list on top": lambda: Twist("submit", spoils.says([1, 2, 3])),
    "null": lambda: Twist("submit", spoils.says(None)),
    "nested 100,000 deep": lambda: Twist("submit", spoils.says_bytes(b"[" * 100_000)),
    "an id of 5,000 characters": lambda: Twist("submit", spoils.says({"data": [{"task_id": "x" * 5000}]})),
}


@pytest.mark.parametrize("name", TWISTS)
def test_an_answer_no_server_should_give(faults: FaultHouse, name: str) -> None:
    """Accepted, and answered with what means nothing: unknown at the deadline at the latest, memory bounded."""
    with Middleman(faults.provider.url) as between:
        twist = TWISTS[name]()
        twist.times = HIT
        between.twists.append(twist)
        tune(faults, "worker", submit_timeout_s=DEADLINE_S)
        tune_account(faults, base_url=between.url + "/v1")
        worker = faults.worker()
        before_mib = peak_rss_mib(worker.pid)
        verdict, jobs = _run(faults, f"submit: {name}")
        grew_mib = peak_rss_mib(worker.pid) - before_mib
    assert verdict.unknown == HIT, verdict
    _books_agree(faults, jobs)
    assert grew_mib < 128, f"{grew_mib:.0f} MiB more, of three bodies of which 8 MiB are read"
    for job in jobs:
        if job.unknown_cause:
            assert _unknown_after_s(job) < DEADLINE_S + 3  # 1 s of its own, the rest for a loaded machine


def test_two_submits_get_one_generation_id(faults: FaultHouse) -> None:
    """The second job that is given the id is unknown: two jobs never share one result."""
    given: list[str] = []

    def same(document: Any) -> Any:
        entry = document["data"][0]
        given.append(entry["task_id"])
        entry["task_id"] = given[0]
        return document

    with Middleman(faults.provider.url, [Twist("submit", spoils.changed(same), times=2)]) as between:
        tune_account(faults, base_url=between.url + "/v1", max_outstanding_posts=1)
        faults.worker()
        verdict, jobs = _run(faults, "submit: one generation id for two")
    assert verdict.unknown == 1, verdict
    assert [job.unknown_cause for job in jobs if job.unknown_cause] == [
        "generation id belongs to another job"
    ]
    assert sum(job.generation_id == given[0] for job in jobs) == 1


@pytest.mark.parametrize(
    ("wait", "least_s"),
    [("1", 1.0), ("date:2", 1.0), ("999999", 2.0), ("", 2.5)],
    ids=["s", "date", "absurd", "none"],
)
def test_429_closes_the_lane(faults: FaultHouse, wait: str, least_s: float) -> None:
    """Closed for as long as asked, within the clamp; no job burns an attempt, and none is unknown."""
    tune(faults, "retry", retry_after_cap_s=2.0)
    tune_account(faults, max_outstanding_posts=1)
    rules(faults, {"on": "submit", "kind": "429", "arg": wait, "times": 1})
    with Middleman(faults.provider.url) as between:
        tune_account(faults, base_url=between.url + "/v1")
        faults.worker()
        verdict, jobs = _run(faults, f"submit: 429 with Retry-After {wait or 'missing'}")
        posts = [at for at, kind in between.seen if kind == "submit"]
    assert verdict.unknown == verdict.failed == 0, verdict
    assert [job.attempts for job in jobs] == [0] * JOBS
    assert len(posts) == JOBS + 1
    assert least_s - 0.2 <= posts[1] - posts[0] < 12  # THROTTLE_S is 2.5 to 7.5; the rest is a loaded machine
    assert int(lane_record(faults)["closed_until"]) <= server_ms(faults) + 7500


def test_a_storm_of_5xx_opens_the_breaker(faults: FaultHouse) -> None:
    """500, 502 and 504 with 200 queued: unknown are the POSTs that were out, and the probes; it resumes by itself."""
    queued, out_at_once = 200, 8
    tune(faults, "worker", breaker_probe_s=2.0)
    tune_account(faults, max_outstanding_posts=out_at_once)
    storm: list[dict[str, object]] = [
        {"on": "submit", "kind": kind, "probability": chance}
        for kind, chance in (("500", 0.3), ("502", 0.5), ("504", 1))
    ]
    rules(faults, *storm)
    for name in ("one", "two", "three"):
        faults.worker(name)
    ids = faults.enqueue_for_judgement(queued)
    faults.until(lambda: int(lane_record(faults).get("ambiguous", 0)) >= 5, 30, "the breaker opened")
    faults.until(lambda: faults.counts().get("submitting", 0) == 0, 10, "no POST is out")
    at_once = faults.counts().get("unknown", 0)
    assert 5 <= at_once <= 5 - 1 + out_at_once + 1, at_once  # four before it opens, those out then, one probe
    time.sleep(4.5)
    probes = faults.counts().get("unknown", 0) - at_once
    assert probes <= 3, f"{probes} probes in 4.5 s at one every 2 s"
    healed_at = time.monotonic()
    rules(faults)
    faults.until(lambda: faults.counts().get("completed", 0) > 0, 30, "submits resumed")
    resumed_s = time.monotonic() - healed_at
    faults.quiet(queued)
    verdict = judge(faults, ids)
    note_row("submit: storm of 500, 502, 504 with 200 queued", faults.seed, verdict, resumed_s)
    assert verdict.clean, verdict
    assert verdict.unknown <= at_once + 3, verdict


@pytest.mark.parametrize("state", ["invalid", "broke", "forbidden"], ids=["401", "402", "403"])
def test_a_refused_account_pauses_the_lane(faults: FaultHouse, state: str) -> None:
    """After the first answer no more jobs are tried; all stay queued, and a probe finds out that it is well again."""
    faults.provider.post("/control/settings", {"api_keys": {API_KEY: state}})
    tune_account(faults, max_outstanding_posts=2)
    faults.worker()
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: "blocked" in lane_record(faults), 20, "the lane is paused")
    faults.until(lambda: faults.counts() == {"queued": JOBS}, 20, "every job is queued again")
    assert faults.ledger()["submits_seen"] <= 2  # those that were out together
    faults.provider.post("/control/settings", {"api_keys": {API_KEY: "valid"}})
    if state != "broke":  # one of the three waits for the probe's own time, 30 s
        faults.state.client().hset("{darkroom}:lane:main/wan2.7-image", "probe_at", 0)
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(f"submit: the account is {state}", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert faults.counts() == {"completed": JOBS}
    assert "blocked" not in lane_record(faults)


@pytest.mark.parametrize("where", ["refused", "unresolved"])
def test_a_provider_that_is_not_there(faults: FaultHouse, where: str) -> None:
    """No connection, or no address: proved not sent, so free and never unknown; it goes on when it is back."""
    url = faults.provider.url
    if where == "refused":
        faults.provider.kill()
    else:
        tune_account(faults, base_url="http://provider.invalid/v1")
    worker = faults.worker()
    ids = faults.enqueue_for_judgement(JOBS)
    faults.until(lambda: _not_sent(faults, ids), 30, "every job was tried in vain")
    assert set(faults.counts()) <= {"queued", "submitting"}
    if where == "refused":
        faults.provider.start()
    else:
        worker.stop()
        tune_account(faults, base_url=url + "/v1")
        faults.worker("healed")
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(f"submit: provider {where}", faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    assert faults.counts() == {"completed": JOBS}


def _not_sent(faults: FaultHouse, ids: list[str]) -> bool:
    jobs = [faults.darkroom.get(job_id) for job_id in ids]
    return all(any("not sent" in line.note for line in job.timeline) for job in jobs)


def _run(faults: FaultHouse, fault: str) -> tuple[Verdict, list[Job]]:
    """Enqueue, wait for the end of everything, judge, and note the row."""
    ids = faults.enqueue_for_judgement(JOBS)
    recovered_s = faults.quiet(JOBS)
    verdict = judge(faults, ids)
    note_row(fault, faults.seed, verdict, recovered_s)
    assert verdict.clean, verdict
    return verdict, [faults.darkroom.get(job_id) for job_id in ids]


def _books_agree(faults: FaultHouse, jobs: list[Job]) -> None:
    """Completed jobs cost what the provider charged for them; unknown ones hold their price; failed ones are free."""
    charged = sum(group["charged_micros"] for group in faults.ledger()["groups"])
    completed = [job for job in jobs if str(job.state) == "completed"]
    assert {job.cost_micros for job in completed} <= {PRICE_MICROS}
    assert sum(job.cost_micros for job in jobs) == len(completed) * PRICE_MICROS <= charged
    held = {job.hold_micros for job in jobs if str(job.state) == "unknown"}
    assert held <= {PRICE_MICROS}
    assert {job.hold_micros for job in jobs if str(job.state) == "failed"} <= {0}


def _unknown_after_s(job: Job) -> float:
    """Give the time from the intent to the note that its outcome is unknown."""
    assert job.intent_at is not None
    unknown_at = next(line.at_ms for line in job.timeline if line.state == "unknown")
    return (unknown_at - job.intent_at) / 1000
