"""Keys, accounts, rates, the in-flight limit, the latency model, and the counters that judge a client."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from tests.unit.sandbox.sandbox_process import KEY, bearer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.sandbox.sandbox_process import Sandbox

SLOW = ("--rate", "0.001", "--burst", "2")  # nothing is refilled while a test runs


@pytest.mark.parametrize(
    "authorization",
    ["", "sandbox-key", "Basic sandbox-key", "Bearer", "Bearer wrong", "Bearer sandbox-key x"],
)
def test_a_wrong_key_is_a_401_everywhere(provider: Sandbox, authorization: str) -> None:
    """Without the right bearer key neither submits nor polls are answered."""
    headers = {"Authorization": authorization} if authorization else {}
    assert provider.post(b"{}", headers).status_code == 401
    assert provider.http.get("/v1/tasks/x", headers=headers).status_code == 401


def test_the_rate_limit_refuses_and_says_how_long(start: Callable[..., Sandbox]) -> None:
    """Beyond the burst a submit is a 429 with Retry-After, and is neither accepted nor charged."""
    sandbox = start("provider", "--latency", "0", *SLOW)
    answers = [sandbox.submit() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert 900 <= int(answers[2].headers["retry-after"]) <= 1000
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    totals = sandbox.ledger(summary="1")
    assert (totals["submits_seen"], totals["submits_accepted"]) == (4, 2)


def test_the_rate_limit_is_per_account_and_for_submits_only(start: Callable[..., Sandbox]) -> None:
    """One account at its limit does not slow the other, nor its own polls."""
    sandbox = start("provider", "--api-key", "one", "--api-key", "two", *SLOW)
    task_id = sandbox.submit(key="one").json()["data"][0]["task_id"]
    assert [sandbox.submit(key="one").status_code for _ in range(2)] == [200, 429]
    assert sandbox.submit(key="two").status_code == 200
    assert [sandbox.poll(task_id, key="one").status_code for _ in range(5)] == [200] * 5


def test_the_rate_limit_can_be_lifted(start: Callable[..., Sandbox]) -> None:
    """A rate of 0 posted to the control route ends the refusals at once."""
    sandbox = start("provider", *SLOW)
    assert [sandbox.submit().status_code for _ in range(3)] == [200, 200, 429]
    sandbox.set(rate=0)
    assert sandbox.submit().status_code == 200


def test_retry_after_can_be_a_date_or_missing(start: Callable[..., Sandbox]) -> None:
    """The limiter's Retry-After follows its setting."""
    sandbox = start("provider", "--rate", "0.001", "--burst", "1", "--retry-after", "date")
    sandbox.submit()
    headers = sandbox.submit().headers
    wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    assert 900 <= wait.total_seconds() <= 1002
    sandbox.set(retry_after="none")
    assert "retry-after" not in sandbox.submit().headers


def test_the_poll_rate_is_limited_by_itself(start: Callable[..., Sandbox]) -> None:
    """Polls beyond their own rate are a 429; one second's worth may come at once."""
    sandbox = start("provider", "--poll-rate", "0.001")
    task_id = sandbox.accepted()
    assert [sandbox.poll(task_id).status_code for _ in range(2)] == [200, 429]


def test_the_in_flight_limit_counts_unfinished_tasks(start: Callable[..., Sandbox]) -> None:
    """A submit beyond the limit is a 429; finished tasks do not count."""
    sandbox = start("provider", "--max-in-flight", "2")
    for _ in range(3):
        sandbox.finished(sandbox.accepted("cat [[fault:takes:0]]"))
    answers = [sandbox.submit("cat [[fault:takes:3600]]") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 3500 <= int(answers[2].headers["retry-after"]) <= 3600
    assert list(sandbox.stats()["max_in_flight"].values()) == [2]


def test_a_task_belongs_to_its_account(start: Callable[..., Sandbox]) -> None:
    """The key of another account does not see it."""
    sandbox = start("provider", "--api-key", "one", "--api-key", "two")
    task_id = sandbox.submit(key="one").json()["data"][0]["task_id"]
    assert (sandbox.poll(task_id, key="one").status_code, sandbox.poll(task_id, key="two").status_code) == (
        200,
        404,
    )


@pytest.mark.parametrize(
    ("state", "submit", "poll"), [("invalid", 401, 401), ("forbidden", 403, 403), ("broke", 402, 200)]
)
def test_a_key_can_be_taken_away(start: Callable[..., Sandbox], state: str, submit: int, poll: int) -> None:
    """A key made invalid, forbidden or broke is refused accordingly, until it is valid again."""
    sandbox = start("provider")
    task_id = sandbox.accepted()
    sandbox.set(api_keys={KEY: state})
    assert (sandbox.submit().status_code, sandbox.poll(task_id).status_code) == (submit, poll)
    sandbox.set(api_keys={KEY: "valid"})
    assert sandbox.submit().status_code == 200


def _latency_s(sandbox: Sandbox, prompt: str = "cat", **fields: object) -> float:
    row = sandbox.row(sandbox.accepted(prompt, **fields))
    return float(row["done_at"] - row["created_at"])


def test_latency_grows_with_size_n_and_mode(start: Callable[..., Sandbox]) -> None:
    """With sigma 0 the latency is the median times the factors of tier, n and mode."""
    sandbox = start("provider", "--latency", "100", "--latency-sigma", "0")
    pro = {"model": "wan2.7-image-pro"}
    assert _latency_s(sandbox) == pytest.approx(100)
    assert _latency_s(sandbox, size="1K") == pytest.approx(60)
    assert _latency_s(sandbox, size="4K", **pro) == pytest.approx(220)
    assert _latency_s(sandbox, n=3) == pytest.approx(150)
    assert _latency_s(sandbox, image_urls=["https://a.example/1.png"]) == pytest.approx(130)
    assert _latency_s(sandbox, enable_sequential=True, n=5) == pytest.approx(240)
    assert _latency_s(sandbox, thinking_mode=True) == pytest.approx(130)
    assert _latency_s(sandbox, "cat [[fault:takes:7]]") == pytest.approx(7)
    sandbox.set(latency_scale="off")
    assert _latency_s(sandbox, size="4K", n=4, **pro) == pytest.approx(100)


def test_latency_is_a_repeatable_distribution(start: Callable[..., Sandbox]) -> None:
    """With a sigma latencies differ around the median; a seed repeats them, another one does not."""
    runs = []
    for seed in ("1", "1", "2"):
        sandbox = start("provider", "--latency", "100", "--seed", seed)
        runs.append([round(_latency_s(sandbox), 3) for _ in range(30)])
    assert runs[0] == runs[1] != runs[2]
    below = sum(latency < 100 for latency in runs[0])
    assert 5 <= below <= 25
    assert 10 < min(runs[0]) < max(runs[0]) < 1000


def test_statistics_count_and_can_be_cleared(start: Callable[..., Sandbox]) -> None:
    """The counters show submits, polls, images, answers and faults, and start again after DELETE."""
    sandbox = start("provider", "--latency", "0")
    task_id = sandbox.accepted()
    sandbox.submit("cat [[fault:429]]")
    sandbox.submit("")
    [url] = sandbox.image_urls(task_id)
    sandbox.http.get(url)
    stats = sandbox.stats()
    assert stats["image_gets"] == 1
    assert stats["polls"] == stats["max_polls_in_1s"] >= 1
    assert stats["answers_by_status"]["429"] == stats["faults_by_kind"]["429"] == 1
    assert stats["answers_by_status"]["400"] == 1
    assert 1 <= stats["max_submits_accepted_in_1s"] <= stats["max_submits_seen_in_1s"] <= 3
    seen = sum(int(count) * seconds for count, seconds in stats["seconds_by_submits_seen"].items())
    assert seen == 3
    cleared = sandbox.http.delete("/stats").json()
    assert (cleared["http_requests"], cleared["polls"], cleared["seconds_by_submits_seen"]) == (0, 0, {})


def test_the_operator_needs_no_key_and_the_gateway_does(provider: Sandbox) -> None:
    """Health, ledger, statistics and control answer without a key; unknown routes are a 404."""
    for path in ("/health", "/ledger", "/ledger/tasks", "/stats", "/control/faults", "/control/settings"):
        assert provider.http.get(path).status_code == 200
    assert provider.http.get("/v1/models", headers=bearer(KEY)).status_code == 404
    assert provider.http.post("/v1/tasks/batch", json={}, headers=bearer(KEY)).status_code == 404
