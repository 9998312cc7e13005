"""The ledger: what is charged under which fault, how it groups, and that it survives the process."""

from __future__ import annotations

import hashlib
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.unit.sandbox.sandbox_process import bearer, ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.sandbox.sandbox_process import Sandbox

STANDARD, PRO = 200_000, 500_000
CHARGED = {
    "takes:0": (1, 2),
    "lost_answer": (1, 2),
    "lost_answer:reset": (1, 2),
    "cut": (1, 2),
    "garbage": (1, 2),
    "empty": (1, 2),
    "html": (1, 2),
    "slow:0.01": (1, 2),
    "500;accept=1": (1, 2),
    "502;accept=1": (1, 2),
    "partial:1": (1, 1),
    "partial:99": (1, 2),
    "lost_task": (1, 2),
    "status:in_progress": (1, 2),
    "url_ttl:0": (1, 2),
    "no_images": (1, 0),
    "partial:0": (1, 0),
    "fail": (1, 0),
    "cancel": (1, 0),
    "never": (1, 0),
    "refuse": (0, 0),
    "lost_answer;accept=0": (0, 0),
    "html:503": (0, 0),
    "garbage;accept=0": (0, 0),
    "429:2": (0, 0),
    "400": (0, 0),
    "401": (0, 0),
    "402": (0, 0),
    "403": (0, 0),
    "500": (0, 0),
    "502": (0, 0),
    "503": (0, 0),
    "code:get_channel_failed": (0, 0),
    "build_request_failed": (0, 0),
    "redirect:http://example.com/": (0, 0),
}


def _try(sandbox: Sandbox, prompt: str, **fields: Any) -> httpx.Response | None:
    """Submit, and give the answer if there is one."""
    try:
        return sandbox.submit(prompt, **fields)
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(("fault", "charges"), CHARGED.items(), ids=CHARGED.keys())
def test_the_ledger_charges_what_was_delivered(
    provider: Sandbox, fault: str, charges: tuple[int, int]
) -> None:
    """A submit that was accepted is charged for the images it delivers, whatever became of its answer."""
    marker = f"charge {fault}"
    _try(provider, f"two cats [[m:{marker}]] [[fault:{fault}]]", n=2)
    groups = provider.ledger(marker=marker)["groups"]
    found = [(g["accepted"], g["charged_images"], g["charged_micros"]) for g in groups]
    accepted, images = charges
    assert found == ([(accepted, images, images * STANDARD)] if accepted else [])


def test_a_hanging_answer_is_charged(provider: Sandbox) -> None:
    """A submit whose answer never comes is accepted and charged all the same."""
    body = {"model": "wan2.7-image", "prompt": "[[m:hanging]][[fault:hang]] cat"}
    with pytest.raises(httpx.ReadTimeout):
        provider.http.post("/v1/images/generations", json=body, headers=bearer("sandbox-key"), timeout=0.3)
    assert provider.group("hanging")["charged_images"] == 1


def test_nothing_is_charged_before_completion(provider: Sandbox) -> None:
    """A task that still runs is accepted but not charged."""
    provider.accepted("[[m:running]] cat [[fault:takes:3600]]")
    group = provider.group("running")
    assert (group["accepted"], group["charged_images"]) == (1, 0)


def test_a_charge_needs_no_poll(start: Callable[..., Sandbox]) -> None:
    """A task that nobody asks for is charged once its time has come."""
    sandbox = start("provider", "--latency", "0")
    sandbox.accepted("cat", n=4)
    totals = sandbox.ledger(summary="1")
    assert (totals["charged_images"], totals["charged_micros"], totals["in_flight"]) == (4, 4 * STANDARD, 0)
    assert "groups" not in totals


def test_prices_and_totals(start: Callable[..., Sandbox]) -> None:
    """Totals are sums over both models in integer micro-units of CNY, in all and per account."""
    sandbox = start("provider", "--latency", "0", "--api-key", "one", "--api-key", "two")
    assert sandbox.submit("a", key="one", n=3).status_code == 200
    assert sandbox.submit("b", key="two", n=2, model="wan2.7-image-pro", size="4K").status_code == 200
    assert sandbox.submit("", key="two").status_code == 400
    totals = sandbox.ledger()
    expected = 3 * STANDARD + 2 * PRO
    assert (totals["submits_seen"], totals["submits_accepted"]) == (3, 2)
    assert (totals["charged_images"], totals["charged_micros"], totals["currency"]) == (5, expected, "CNY")
    by_account = sorted(bill["charged_micros"] for bill in totals["accounts"].values())
    assert by_account == [3 * STANDARD, 2 * PRO]


def test_groups_follow_the_marker_not_the_headers(provider: Sandbox) -> None:
    """Two prompts of one marker are one group; headers that name a job change nothing."""
    ids = [provider.accepted("[[m:pair]] cat"), provider.accepted("dog [[m:pair]]")]
    for job in ("1", "2"):
        body = b'{"model": "wan2.7-image", "prompt": "headers do not count"}'
        provider.post(body, bearer("sandbox-key") | {"Idempotency-Key": job, "X-Job-Id": job})
    assert (provider.group("pair")["accepted"], provider.group("pair")["task_ids"]) == (2, ids)
    digest = hashlib.sha256(b"headers do not count").hexdigest()
    group = provider.group(f"prompt:{digest[:16]}")
    assert (group["accepted"], group["prompt_sha256"]) == (2, digest)


def test_an_edit_without_prompt_groups_by_its_images(provider: Sandbox) -> None:
    """Two edits of the same input without a prompt are one group, an edit of another is not in it."""
    edits = [["https://a.example/1.png"], ["https://a.example/1.png"], ["https://a.example/2.png"]]
    for urls in edits:
        provider.accepted(..., image_urls=urls)
    groups = [g for g in provider.ledger()["groups"] if g["marker"].startswith("images:")]
    assert sorted(g["accepted"] for g in groups) == [1, 2]


def test_a_lost_answer_can_be_found_by_its_prompt(provider: Sandbox) -> None:
    """The task id of a submit whose answer was lost is found by the sha256 of its prompt, and can be polled."""
    prompt = "a lost cat \u732b [[fault:lost_answer]]"
    assert _try(provider, prompt) is None
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    [row] = provider.http.get("/ledger/tasks", params={"prompt_sha256": digest}).json()["tasks"]
    assert provider.finished(row["task_id"])["status"] == "completed"
    assert row["prompt"] == "a lost cat \u732b"


def test_the_task_list_is_paged(start: Callable[..., Sandbox]) -> None:
    """Pages follow each other in order of acceptance, without gap or repetition."""
    sandbox = start("provider", "--latency", "0")
    ids = [sandbox.accepted(f"cat {number}") for number in range(5)]
    found: list[str] = []
    params = {"limit": "2"}
    while True:
        page = sandbox.http.get("/ledger/tasks", params=params).json()
        found += [row["task_id"] for row in page["tasks"]]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    assert found == ids


@pytest.mark.parametrize("params", [{"limit": "0"}, {"limit": "x"}, {"limit": "99999"}, {"after": "task_x"}])
def test_a_wrong_page_is_refused(provider: Sandbox, params: dict[str, str]) -> None:
    """A page that cannot be is a 400, not an empty list."""
    assert provider.http.get("/ledger/tasks", params=params).status_code == 400


def test_finished_tasks_are_dropped_but_stay_in_the_totals(start: Callable[..., Sandbox]) -> None:
    """Beyond its bound the sandbox forgets the oldest finished tasks; what they cost stays."""
    sandbox = start("provider", "--latency", "0", "--max-tasks", "3")
    ids = [sandbox.accepted(f"cat {number}") for number in range(6)]
    totals = sandbox.ledger()
    assert (totals["submits_accepted"], totals["charged_images"]) == (6, 6)
    assert [group["task_ids"] for group in totals["groups"]] == [[each] for each in ids[3:]]
    assert sandbox.poll(ids[0]).status_code == 404
    assert sandbox.poll(ids[5]).status_code == 200


def test_a_restart_forgets_nothing(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    """Killed and started on its journal, the sandbox knows its tasks, their ends and its bill."""
    arguments = ("provider", "--latency", "0", "--ledger", str(tmp_path / "ledger.jsonl"))
    first = start(*arguments)
    done = first.accepted("[[m:a]] cat", n=2, watermark=True)
    running = first.accepted("[[m:a]] dog [[fault:takes:3600]][[fault:500;on=poll;times=1]]")
    lost = first.accepted("[[m:b]] owl [[fault:lost_task]]")
    before, row = first.ledger(), first.row(done)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = start(*arguments)
    after = second.ledger()
    assert after["groups"] == before["groups"]
    assert after["charged_micros"] == before["charged_micros"] == 3 * STANDARD
    assert (second.row(done), after["in_flight"]) == (row, 1)
    assert second.finished(done)["status"] == "completed"
    assert [second.poll(running).status_code for _ in range(2)] == [500, 200]
    assert second.poll(lost).status_code == 404
    path = second.image_urls(done)[1].removeprefix(second.urls["provider"])
    assert second.http.get(path).headers["content-type"] == "image/png"


def test_a_torn_last_line_is_dropped(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    """Half a line at the end of the journal, as a kill leaves it, is dropped and does not spoil the next."""
    journal = tmp_path / "ledger.jsonl"
    arguments = ("provider", "--latency", "0", "--ledger", str(journal))
    kept = start(*arguments).accepted("cat")
    with journal.open("a") as file:
        file.write('{"id": "task_')
    second = start(*arguments)
    added = second.accepted("dog")
    third = start(*arguments)
    rows = third.http.get("/ledger/tasks").json()["tasks"]
    assert [row["task_id"] for row in rows] == [kept, added]


@pytest.mark.parametrize("line", ["not json", "[]", '{"id": "x"}', '{"palette": []}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, line: str) -> None:
    """A journal with a foreign line stops the start with one sentence and exit code 2."""
    journal = tmp_path / "ledger.jsonl"
    journal.write_text(line + "\n")
    refused = ended("provider", "--ledger", str(journal))
    assert refused.returncode == 2
    assert refused.stderr.startswith("sandbox: ")
    assert "line 1 is not a line of this ledger" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
