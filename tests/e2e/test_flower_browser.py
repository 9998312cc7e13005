"""Flower as an operator meets it: `darkroom flower` in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from tests.e2e.chromium import Browser, chromium
from tests.e2e.conftest import API_KEY, House
from tests.servers import FlowerCommandProc, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("browser")]

OPERATOR, PASSWORD = "operator", "flower-password-canary"
PROMPT = "heron-canary in the reeds"
HOOK_TOKEN = "hook-token-canary"
WITHIN_S = 60.0
SEARCH = "#tasks-table_filter input"


@dataclass
class Desk:
    """An operator's screen before a running Darkroom of two workers."""

    house: House
    flower: FlowerCommandProc
    browser: Browser

    def log_in(self, password: str = PASSWORD) -> None:
        """Give the login by the address, as the browser's dialog cannot be typed into."""
        self.browser.open(self.flower.url.replace("://", f"://{OPERATOR}:{password}@") + "/tasks")

    def open(self, path: str) -> None:
        self.browser.open(self.flower.url + path)

    def until(self, true: Any, what: str) -> None:
        self.browser.until(true, what, WITHIN_S)

    def enqueue(self, prompt: str = "", **more: Any) -> str:
        hook = f"{self.house.sink.url}/ok?token={HOOK_TOKEN}"
        request = {"model": "wan2.7-image", "prompt": f"{PROMPT} {prompt}", "size": "1K", **more}
        return self.house.darkroom.enqueue(request, webhook=hook).job_id

    def rows(self) -> list[str]:
        """Give the ids of the rows shown."""
        script = "return Array.from(document.querySelectorAll('#tasks-table tbody tr[id]'), row => row.id)"
        return list(self.browser.driver.execute_script(script))

    def api_state(self, job_id: str) -> str | None:
        auth = (OPERATOR, PASSWORD)
        answer = httpx.get(f"{self.flower.url}/api/tasks", auth=auth, trust_env=False, timeout=30)
        state: str | None = answer.raise_for_status().json().get(job_id, {}).get("state")
        return state

    def heard(self, job_id: str, state: str) -> str:
        """Wait until Flower has heard of a job's state; give its id."""
        self.until(lambda: self.api_state(job_id) == state, f"{job_id} as {state}")
        return job_id

    def open_task(self, job_id: str) -> None:
        self.open(f"/task/{job_id}")
        self.until(lambda: self.browser.texts(".task-details-card .badge"), f"the page of {job_id}")

    def badge(self) -> str:
        (text,) = self.browser.texts(".task-details-card .badge")
        return text

    def search(self, text: str) -> None:
        field = self.browser.driver.find_element("css selector", SEARCH)
        field.clear()
        field.send_keys(text, Keys.ENTER)

    def open_list(self) -> None:
        """Open the list with nothing of an earlier look remembered by the browser."""
        self.open("/tasks")
        self.browser.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.open("/tasks")

    def shows(self, shown: str, *hidden: str) -> None:
        """Wait until one job is in the list and others are not; rows of other tests may be."""
        self.until(
            lambda: shown in (rows := self.rows()) and not set(hidden).intersection(rows),
            f"{shown} in the list and {hidden} not",
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One stack and one window for all tests here; each looks at its own jobs."""
    folder = tmp_path_factory.mktemp("desk")
    login = f"{OPERATOR}:{PASSWORD}"
    with (
        House(folder) as house,
        FlowerCommandProc(folder / "flower", house.settings, login=login) as flower,
        chromium(folder) as browser,
    ):
        for name in ("one", "two"):
            house.worker(name)
        desk = Desk(house, flower, browser)
        desk.log_in()
        desk.open("/workers")
        desk.until(lambda: {"one", "two"} <= _names(desk), "both workers online")
        yield desk


def _names(desk: Desk) -> set[str]:
    """Give the workers listed, without their machine's name."""
    script = "return Array.from(document.querySelectorAll('#workers-table tbody tr'), row => row.innerText)"
    rows = [str(row) for row in desk.browser.driver.execute_script(script)]
    return {row.strip().partition("@")[0] for row in rows if "@" in row}


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_stranger_is_refused(desk: Desk, tmp_path: Path, password: str) -> None:
    """Neither without a login nor with a wrong one is there anything to see."""
    with chromium(tmp_path) as window:
        stranger = Desk(desk.house, desk.flower, window)
        if password:
            stranger.log_in(password)
        else:
            stranger.open("/tasks")
        assert not window.driver.find_elements("css selector", "#tasks-table")
        assert "generate_image" not in window.source
        stranger.log_in()
        stranger.until(lambda: window.driver.find_elements("css selector", "#tasks-table"), "the list")


def test_the_list_shows_jobs_by_state_and_by_text(desk: Desk) -> None:
    """The buttons narrow it to a state, the field to a text; a row is a job, and no stage task is one."""
    done = desk.heard(desk.enqueue("[[fault:partial:2]]", n=3), "SUCCESS")
    failed = desk.heard(desk.enqueue("[[fault:code:bad_response_status_code]]"), "FAILURE")
    running = desk.heard(desk.enqueue("[[fault:never]]"), "STARTED")
    desk.open_list()
    desk.until(lambda: {done, failed, running} <= set(desk.rows()), "three jobs")
    assert "darkroom." not in desk.browser.text
    assert {job.id for job in desk.house.darkroom.get_many(desk.rows()) if job} == set(desk.rows())
    desk.browser.driver.set_window_size(1800, 760)
    desk.browser.shoot("flower-list")
    for state, job_id in (("STARTED", running), ("SUCCESS", done), ("FAILURE", failed)):
        desk.browser.click(f"button[data-task-state={state}]")
        desk.shows(job_id, *{done, failed, running} - {job_id})
    desk.search(done)
    desk.shows(done, failed, running)
    desk.search("state:FAILURE wan2.7-image")
    desk.shows(failed, done, running)
    desk.search("nothing-like-this")
    desk.until(lambda: "No tasks match your search" in desk.browser.text, "no rows")
    desk.house.darkroom.cancel(running)
    desk.heard(running, "REVOKED")


def test_a_finished_job_shows_its_images_and_cost(desk: Desk) -> None:
    """The result names the object keys that a script can fetch, and what was paid."""
    done = desk.heard(desk.enqueue("[[fault:partial:2]]", n=3), "SUCCESS")
    desk.open_task(done)
    assert desk.badge() == "SUCCESS"
    assert f"2 images, 0.400000 CNY: default/{done}/0.png default/{done}/1.png" in desk.browser.text
    desk.browser.driver.set_window_size(1360, 1180)
    desk.browser.shoot("flower-completed")


def test_a_failed_job_shows_its_code(desk: Desk) -> None:
    """The code is that of the record; `darkroom status` says more."""
    failed = desk.heard(desk.enqueue("[[fault:code:bad_response_status_code]]"), "FAILURE")
    desk.open_task(failed)
    assert desk.badge() == "FAILURE"
    assert "refused:bad_response_status_code" in desk.browser.text
    assert not desk.browser.texts("#task-terminate, #task-revoke")
    desk.browser.driver.set_window_size(1360, 1180)
    desk.browser.shoot("flower-failed")


def test_terminate_cancels_a_running_job(desk: Desk) -> None:
    """REVOKED in Flower, `cancelled` for `darkroom status`."""
    running = desk.heard(desk.enqueue("[[fault:never]]"), "STARTED")
    desk.open_task(running)
    assert desk.badge() == "STARTED"
    desk.browser.click("#task-terminate")
    desk.heard(running, "REVOKED")
    desk.open_task(running)
    assert desk.badge() == "REVOKED"
    darkroom = str(Path(sys.executable).with_name("darkroom"))
    told = subprocess.run(
        [darkroom, "status", running, "--json"],
        env=environment(desk.house.settings), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(told.stdout)["state"] == "cancelled"


def test_the_workers_are_those_that_run(desk: Desk) -> None:
    """Two rows, whatever events said: no phantom of an invented host name."""
    desk.heard(desk.enqueue(), "SUCCESS")
    desk.open("/workers")
    desk.until(lambda: _names(desk) == {"one", "two"}, "exactly the two workers")


def test_no_page_holds_a_secret_or_a_prompt(desk: Desk) -> None:
    """Also not in the parts of a page that do not show."""
    done = desk.heard(desk.enqueue(), "SUCCESS")
    failed = desk.heard(desk.enqueue("[[fault:refuse]]"), "FAILURE")
    desk.open("/workers")
    desk.until(lambda: _names(desk) >= {"one", "two"}, "the workers")
    links = desk.browser.driver.find_elements("css selector", "#workers-table tbody a")
    hrefs = [str(link.get_attribute("href")) for link in links]
    workers = {href for href in hrefs if "/worker/" in href}
    assert len(workers) == 2, hrefs
    pages = ["/workers", "/tasks", f"/task/{done}", f"/task/{failed}", "/broker", *workers]
    for page in pages:
        path = page.removeprefix(desk.flower.url)
        desk.open(path)
        if path == "/tasks":
            desk.open_list()
            desk.until(lambda: {done, failed} <= set(desk.rows()), "both jobs in the list")
        for canary in ("heron", API_KEY, desk.house.sink.secret, HOOK_TOKEN, PASSWORD):
            assert canary not in desk.browser.source, page


def test_the_list_survives_a_restart(desk: Desk) -> None:
    """It comes back from the history file, not from new events."""
    done = desk.heard(desk.enqueue(), "SUCCESS")
    desk.flower.stop()
    desk.flower.start()
    assert desk.api_state(done) == "SUCCESS"
    desk.log_in()
    desk.open_list()
    desk.until(lambda: done in desk.rows(), "the old row")


def test_without_events_the_list_is_empty(tmp_path: Path) -> None:
    """flower.events = false: jobs complete, and no row is made of them."""
    login = f"{OPERATOR}:{PASSWORD}"
    with (
        House(tmp_path) as house,
        FlowerCommandProc(tmp_path / "flower", house.settings, login=login) as flower,
        chromium(tmp_path) as browser,
    ):
        house.worker(DARKROOM_FLOWER='{"events": false}')
        desk = Desk(house, flower, browser)
        house.enqueue(5)
        house.until(lambda: house.counts() == {"completed": 5}, 60, "completed without events")
        desk.log_in()
        desk.until(lambda: "No tasks have been received" in browser.text, "an empty list")
        desk.open("/workers")
        desk.until(lambda: _names(desk) == {"w1"}, "the worker all the same")
        desk.open("/tasks")
        desk.until(lambda: "No tasks have been received" in browser.text, "a list that is still empty")
        assert desk.rows() == []
