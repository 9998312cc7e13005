"""Shapes of answers: submits, tasks, errors, in every form the gateway is known to use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.sandbox.sandbox_process import KEY, bearer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.sandbox.sandbox_process import Sandbox

TASK_ID = re.compile(r"task_[0-9A-HJKMNP-TV-Z]{26}")


def _b1(body: dict[str, Any]) -> str:
    assert (body["code"], body["message"], body["data"][0]["status"]) == ("success", "", "processing")
    return str(body["data"][0]["task_id"])


def _b2(body: dict[str, Any]) -> str:
    assert (body["code"], body["data"][0]["status"]) == (200, "submitted")
    return str(body["data"][0]["task_id"])


def _b3(body: dict[str, Any]) -> str:
    assert (body["code"], body["data"]["status"], body["data"]["progress"]) == (200, "pending", 0)
    return str(body["data"]["id"])


def _b4(body: dict[str, Any]) -> str:
    assert (body["code"], body["data"]["status"]) == (202, "pending")
    assert body["data"]["poll_url"].endswith(f"/v1/tasks/{body['data']['id']}")
    return str(body["data"]["id"])


@pytest.mark.parametrize(
    ("shape", "status", "read"), [("B1", 200, _b1), ("B2", 200, _b2), ("B3", 200, _b3), ("B4", 202, _b4)]
)
def test_each_submit_shape_carries_a_task_id(
    start: Callable[..., Sandbox], shape: str, status: int, read: Callable[[dict[str, Any]], str]
) -> None:
    """The four documented answers to a submit can be chosen, and each names a task that can be polled."""
    sandbox = start("provider", "--latency", "0", "--submit-shape", shape)
    answer = sandbox.submit()
    assert answer.status_code == status
    task_id = read(answer.json())
    assert TASK_ID.fullmatch(task_id)
    assert sandbox.finished(task_id)["status"] == "completed"


def test_the_submit_shape_can_change_while_running(start: Callable[..., Sandbox]) -> None:
    """A setting posted to the control route holds for the next request."""
    sandbox = start("provider")
    sandbox.set(submit_shape="B3")
    assert sandbox.submit().json()["data"]["object"] == "image.generation.task"


def test_a_running_task_has_no_result(provider: Sandbox) -> None:
    """Before its time a task is processing, below 100 percent, without result, cost or completed."""
    data = provider.poll(provider.accepted("shapes [[fault:takes:3600]]")).json()["data"]
    assert set(data) == {"id", "status", "progress", "created", "estimated_time"}
    assert data["status"] == "processing"
    assert 0 <= data["progress"] < 100


def test_a_completed_task_has_everything_documented(provider: Sandbox) -> None:
    """A completed task gives times in whole seconds, both costs and images with expires_at."""
    data = provider.finished(provider.accepted("shapes", n=3))
    assert data["progress"] == 100
    assert data["actual_time"] == data["completed"] - data["created"]
    assert data["cost"] == pytest.approx(3 * 0.028)
    assert data["credits_cost"] == pytest.approx(data["cost"] * 10)
    [entry] = data["result"]["images"]
    assert len(entry["url"]) == 3
    assert 86400 <= entry["expires_at"] - data["completed"] <= 86401
    assert "error" not in data


@pytest.mark.parametrize(
    ("layout", "kinds"),
    [("list", [list]), ("string", [str, str, str]), ("mixed", [list, str])],
)
def test_each_url_layout_holds_every_image(
    start: Callable[..., Sandbox], layout: str, kinds: list[type]
) -> None:
    """URLs come as one list, as strings in entries of their own, or mixed; all of them, in order."""
    sandbox = start("provider", "--latency", "0", "--url-layout", layout)
    task_id = sandbox.accepted(n=3)
    entries = sandbox.finished(task_id)["result"]["images"]
    assert [type(entry["url"]) for entry in entries] == kinds
    indexes = [url.partition(".png")[0].rpartition("_")[2] for url in sandbox.image_urls(task_id)]
    assert indexes == ["0", "1", "2"]


def test_a_mixed_layout_of_one_image_has_one_entry(start: Callable[..., Sandbox]) -> None:
    """A single image makes one entry in the mixed layout too."""
    sandbox = start("provider", "--latency", "0", "--url-layout", "mixed")
    assert len(sandbox.finished(sandbox.accepted())["result"]["images"]) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("fail", {"code": 500, "message": "The generation failed", "type": "task_failed"}),
        (
            "fail:content_rejected",
            {
                "code": "content_rejected",
                "message": "The generation failed",
                "type": "task_failed",
                "param": "",
            },
        ),
        ("fail:bare", "The generation failed"),
    ],
)
def test_a_failed_task_is_http_200_with_an_error(provider: Sandbox, fault: str, error: object) -> None:
    """A failed task comes with HTTP 200, in each of the three observed forms of its error."""
    data = provider.finished(provider.accepted(f"shapes [[fault:{fault}]]"))
    assert (data["status"], data["error"]) == ("failed", error)
    assert "result" not in data


@pytest.mark.parametrize(
    ("status", "message"), [("404", "task does not exist or has expired"), ("400", "invalid task id")]
)
def test_an_unknown_task_is_404_or_400(start: Callable[..., Sandbox], status: str, message: str) -> None:
    """The two documented answers for a task that is not there can be chosen."""
    sandbox = start("provider", "--unknown-task-status", status)
    answer = sandbox.poll("task_00000000000000000000000000")
    assert str(answer.status_code) == status
    assert answer.json()["error"]["message"] == message


def test_error_style_object(provider: Sandbox) -> None:
    """By default an error is the documented object with an integer code."""
    answer = provider.submit(key="wrong")
    assert answer.status_code == 401
    message = "Invalid authentication credentials"
    assert answer.json() == {"error": {"code": 401, "message": message, "type": "authentication_error"}}


def test_error_style_string(start: Callable[..., Sandbox]) -> None:
    """The second style has a string code and the request id inside the message."""
    error = start("provider", "--error-style", "string").submit(key="wrong").json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("", "", "apimart_error")
    assert "(request id: " in error["message"]


def test_error_style_html(start: Callable[..., Sandbox]) -> None:
    """The third style is a page, as an edge proxy would send it."""
    answer = start("provider", "--error-style", "html").submit(key="wrong")
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<html>")


def test_balance_counts_what_was_used(start: Callable[..., Sandbox]) -> None:
    """The balance route answers, and its failures are HTTP 200 with success false."""
    sandbox = start("provider", "--latency", "0")
    sandbox.finished(sandbox.accepted())
    good = sandbox.http.get("/v1/balance", headers=bearer(KEY)).json()
    assert (good["success"], good["used_balance"]) == (True, pytest.approx(0.028))
    bad = sandbox.http.get("/v1/balance", headers=bearer("wrong"))
    assert (bad.status_code, bad.json()["success"]) == (200, False)


@pytest.mark.parametrize(
    "settings",
    [
        {"no_such_setting": 1},
        {"rate": -1},
        {"rate": "fast"},
        {"rate": True},
        {"burst": 1.5},
        {"rate": 10**400},
        {"submit_shape": "B5"},
        {"idempotency": "perhaps"},
        {"api_keys": ["sandbox-key"]},
        {"api_keys": {"sandbox-key": "ill"}},
        {"latency": 5, "submit_shape": "B5"},
        {"api_keys": {"sandbox-key": "invalid"}, "latency": -1},
    ],
    ids=repr,
)
def test_a_wrong_setting_changes_nothing(provider: Sandbox, settings: dict[str, object]) -> None:
    """A setting that is unknown or out of range is refused, and none of its neighbours is applied."""
    before = provider.http.get("/control/settings").json()
    answer = provider.set(**settings)
    assert answer.status_code == 400
    assert provider.http.get("/control/settings").json() == before


def test_settings_do_not_show_keys(provider: Sandbox) -> None:
    """Accounts are shown under labels that do not give the key away."""
    text = provider.http.get("/control/settings").text
    assert KEY not in text
    assert "account_" in text
