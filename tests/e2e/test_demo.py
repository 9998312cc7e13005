"""`darkroom demo`, run as users run it."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from producers.demo_jobs import demo_jobs
from tests.e2e.local_stack import CommandProc, Terminal

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def test_everything_adds_up(terminal: Terminal) -> None:
    """One JSON line on stdout whose figures agree; the page shows every image; nothing is left running.

    Settings for other servers, in the environment and in darkroom.toml, change nothing.
    """
    (terminal.cwd / "darkroom.toml").write_text("[accounts.real]\nbase_url = 'https://127.0.0.1:9/v1'\n")
    done = terminal.run(
        "demo", "--json", "--output", "out", DARKROOM_REDIS__URL="redis://127.0.0.1:9/0", CELERY_BROKER_URL="redis://127.0.0.1:9/1"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    figures = json.loads(line)
    images = sum(job.images for job in demo_jobs())
    assert figures["jobs"] == len(demo_jobs()) >= 24
    assert (figures["completed"], figures["failed"]) == (len(demo_jobs()) - 1, 1)
    assert (figures["cancelled"], figures["unknown"]) == (0, 0)
    assert figures["images"] == figures["artifacts_verified"] == figures["provider_charged_images"] == images
    assert figures["webhooks_verified"] == len(demo_jobs()) + 1
    assert figures["provider_submits"] == len(demo_jobs()) - 1
    assert figures["cost_micros"] == figures["provider_charged_micros"] > 0
    _check_page(terminal.cwd / "out" / "contact-sheet.html", figures, images)
    assert terminal.left_running() == []
    assert terminal.left_behind() == []
    assert not terminal.dev_file.exists()  # a `darkroom dev` beside it keeps its own


def _check_page(page: Path, figures: dict[str, object], images: int) -> None:
    """Every image of the page is there, and every image that is there is on the page."""
    assert figures["contact_sheet"] == str(page)
    shown = {unquote(source) for source in re.findall(r'<img src="([^"]+)"', page.read_text())}
    kept = {
        path.relative_to(page.parent).as_posix() for path in (page.parent / "artifacts").rglob("[0-9].png")
    }
    assert shown == kept
    assert len(shown) == images


def test_people_get_tables_and_a_fresh_folder(terminal: Terminal) -> None:
    """Progress is lines on stderr, the tables are on stdout, and an earlier demo's images are gone."""
    old = terminal.cwd / "demo-output" / "artifacts" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    page = terminal.cwd / "demo-output" / "contact-sheet.html"
    page.write_text('<meta name="generator" content="darkroom contact sheet">')
    done = terminal.run("demo")
    assert done.returncode == 0, done.stderr
    for part in ("valkey", "provider", "sink", "worker1", "flower"):
        assert re.search(rf"^  {part} .* pid \d+ ", done.stderr, re.MULTILINE)
    assert len(re.findall(r"^ +\d+/25 (?:completed|failed) ", done.stderr, re.MULTILINE)) == len(demo_jobs())
    assert len(re.findall(r"^job_\w+ ", done.stdout, re.MULTILINE)) == len(demo_jobs())
    assert done.stdout.endswith("Everything adds up.\n")
    assert not old.exists()
    assert "<img" in page.read_text()


def test_ctrl_c_stops_what_was_started(terminal: Terminal) -> None:
    """In the middle of the run: exit code 130, one line, and nothing is left."""
    output = str(terminal.cwd / "out")
    demo = CommandProc(terminal, ["demo", "--json", "--output", output], ready_when="jobs enqueued")
    with demo:
        assert len(terminal.left_running()) >= 5  # itself, Valkey, sandbox, worker, Flower
        demo.signal(signal.SIGINT)
        assert demo.stop(within_s=30) == 130
    assert demo.log().splitlines()[-1] == "stopped; all that the demo started has ended"
    assert terminal.left_running() == []
    assert terminal.left_behind() == []


def test_a_file_in_the_way_is_one_line(terminal: Terminal) -> None:
    """The output folder cannot be made: exit code 2, before anything is started."""
    (terminal.cwd / "demo-output").touch()
    done = terminal.run("demo", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("darkroom: cannot make the folder ")
