"""Whether the demo adds up: each thing that does not is named in a sentence, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from producers.cli import demo as command
from producers.cli.app import app
from producers.demo_jobs import PRO, DemoJob, demo_jobs
from producers.demo_result import DemoResult, OwnBooks, ProviderLedger, SinkSummary, differences
from shared.jobs.job import Artifact, Job
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIGURES = {
    "jobs", "completed", "failed", "cancelled", "unknown", "images", "artifacts_verified", "webhooks_verified",
    "provider_submits", "provider_charged_images", "cost_micros", "provider_charged_micros", "wall_s",
    "contact_sheet",
}  # fmt: skip


def ended(shown: DemoJob, number: int) -> Job:
    """Give the job as it ends on a good day."""
    n, unit = int(shown.request.get("n", 1)), 500_000 if shown.request["model"] == PRO else 200_000
    job = Job(
        id=f"job_{number:02d}", state=JobState.COMPLETED, tenant="default", model=shown.request["model"], n=n,
        created_at=0, finished_at=1500, currency="CNY", request=shown.request,
    )  # fmt: skip
    if shown.refused:
        return replace(job, state=JobState.FAILED, error_code="refused:content", error_message="rejected")
    return replace(
        job,
        generation_id=f"task_{number}",
        partial=shown.images < n,
        cost_micros=unit * shown.images,
        artifacts=tuple(Artifact(at, "image/png", object_key=f"k/{at}.png") for at in range(shown.images)),
    )


@pytest.fixture
def good(tmp_path: Path) -> DemoResult:
    """Give a demo in which everything adds up."""
    jobs = tuple((shown, ended(shown, number)) for number, shown in enumerate(demo_jobs()))
    images = sum(len(job.artifacts) for _, job in jobs)
    cost = sum(job.cost_micros for _, job in jobs)
    return DemoResult(
        jobs=jobs,
        rejected=(),
        artifacts_verified=images,
        books=OwnBooks(spent_micros=cost, held_micros=0),
        provider=ProviderLedger(len(jobs) - 1, images, cost, 0, ()),
        sink=SinkSummary(len(jobs) + 1, 0, {"batch.completed": 1}),
        wall_s=5.678,
        contact_sheet=tmp_path / "contact-sheet.html",
    )


def changed(good: DemoResult, shows: str, **fields: Any) -> DemoResult:
    """Give the result with another end of one job, and nothing else corrected for it."""
    jobs = [(shown, replace(job, **fields) if shown.shows == shows else job) for shown, job in good.jobs]
    return replace(good, jobs=tuple(jobs))


def test_a_good_day_adds_up(good: DemoResult) -> None:
    """There is nothing to say, and the figures have exactly their keys."""
    assert differences(good) == []
    figures = good.figures()
    assert set(figures) == FIGURES
    assert figures["jobs"] == figures["completed"] + figures["failed"] == len(demo_jobs())
    assert figures["images"] == figures["provider_charged_images"] == sum(job.images for job in demo_jobs())
    assert figures["wall_s"] == 5.68
    assert json.loads(json.dumps(figures)) == figures


WRONG: dict[str, tuple[Callable[[DemoResult], DemoResult], str]] = {
    "an example was rejected": (
        lambda good: replace(good, rejected=("1K: size: no such size",)),
        "An example was not enqueued: 1K: size: no such size.",
    ),
    "an image is lost or altered": (
        lambda good: replace(good, artifacts_verified=31),
        "32 images are recorded, but 31 could be read back",
    ),
    "an image too many was charged": (
        lambda good: replace(good, provider=replace(good.provider, charged_images=33)),
        "32 images are recorded, but the provider charged 33.",
    ),
    "our ledger and our records differ": (
        lambda good: replace(good, books=replace(good.books, spent_micros=9_000_000)),
        "The jobs cost ¥9.10, but our ledger says ¥9.00.",
    ),
    "money is still held": (
        lambda good: replace(good, books=replace(good.books, held_micros=500_000)),
        "¥0.50 is still held",
    ),
    "the provider charged more": (
        lambda good: replace(good, provider=replace(good.provider, charged_micros=9_600_000)),
        "The jobs cost ¥9.10, but the provider charged ¥9.60.",
    ),
    "a submit too many": (
        lambda good: replace(good, provider=replace(good.provider, accepted=25)),
        "24 jobs were accepted, but the provider accepted 25 submits.",
    ),
    "a prompt submitted twice": (
        lambda good: replace(good, provider=replace(good.provider, twice=("demo-03",))),
        "The provider accepted these more than once: demo-03.",
    ),
    "the provider is not done": (
        lambda good: replace(good, provider=replace(good.provider, in_flight=2)),
        "The provider still works on 2 generations.",
    ),
    "a webhook is missing": (
        lambda good: replace(good, sink=replace(good.sink, verified=25)),
        "26 webhooks should have arrived and been verified, but 25 were.",
    ),
    "a forged webhook": (
        lambda good: replace(good, sink=replace(good.sink, bad_signature=1)),
        "Webhooks with a bad signature: 1.",
    ),
    "the batch never completed": (
        lambda good: replace(good, sink=replace(good.sink, by_type={"image.completed": 26})),
        "The webhook batch.completed did not arrive.",
    ),
    "a job is unknown": (
        lambda good: changed(good, "seed", state=JobState.UNKNOWN),
        "job_06 (seed) should be completed with images: 1, and is unknown.",
    ),
    "a job is under way": (
        lambda good: changed(good, "seed", state=JobState.GENERATING),
        "job_06 (seed) should be completed with images: 1, and is generating.",
    ),
    "a job failed": (
        lambda good: changed(good, "seed", state=JobState.FAILED, error_code="provider"),
        "job_06 (seed) should be completed with images: 1, and is failed (provider).",
    ),
    "the partial one is not said to be": (
        lambda good: changed(good, "partial success", partial=False),
        "should be completed with images: 2, partial, and is completed with images: 2.",
    ),
    "another one is partial": (
        lambda good: changed(good, "seed", partial=True),
        "should be completed with images: 1, and is completed with images: 1, partial.",
    ),
    "the refused one completed": (
        lambda good: changed(good, "refused", state=JobState.COMPLETED),
        "should be failed (refused), and is completed with images: 0.",
    ),
    "the refused one failed for another reason": (
        lambda good: changed(good, "refused", error_code="expired"),
        "should be failed (refused), and is failed (expired).",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(good: DemoResult, name: str) -> None:
    """The one thing that is wrong has its one sentence."""
    spoil, sentence = WRONG[name]
    (found,) = differences(spoil(good))
    assert sentence in found


def test_the_command_prints_one_line_and_fails(good: DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json, stdout is the one JSON line, what is wrong is on stderr, and the exit code is 1."""
    bad = replace(good, artifacts_verified=31, provider=replace(good.provider, twice=("demo-03",)))
    monkeypatch.setattr(command, "_run", lambda _output: bad)
    outcome = CliRunner().invoke(app, ["demo", "--json"])
    assert outcome.exit_code == 1
    (line,) = outcome.stdout.splitlines()
    assert json.loads(line) == bad.figures()
    assert outcome.stderr.splitlines() == differences(bad)


def test_the_command_prints_both_bills(good: DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people: a row per job, both sides' sums, and where the images are."""
    monkeypatch.setattr(command, "_run", lambda _output: good)
    outcome = CliRunner().invoke(app, ["demo"])
    assert outcome.exit_code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split() == ["job", "model", "size", "images", "cost", "time", "shows"]
    rows = {line.split()[0]: line for line in lines if line.startswith("job_")}
    assert set(rows) == {job.id for _, job in good.jobs}
    assert "2 of 4" in rows["job_24"]
    assert "refused" in rows["job_23"]
    (ours,) = [line for line in lines if line.startswith("our bill")]
    (theirs,) = [line for line in lines if line.startswith("the sandbox's ledger")]
    assert ours.split()[-3:] == theirs.split()[-3:] == ["24", "32", "¥9.10"]
    assert f"contact sheet: {good.contact_sheet}" in lines
    assert lines[-1] == "Everything adds up."


def test_images_of_an_earlier_demo_are_removed_only_beside_its_page(tmp_path: Path) -> None:
    """A folder that no demo made is left alone, whatever its names."""
    (tmp_path / "artifacts").mkdir()
    image = tmp_path / "artifacts" / "mine.png"
    image.touch()
    command._clear(tmp_path)
    assert image.exists()
    page = tmp_path / command.PAGE
    page.write_text("<title>Mine</title>")
    command._clear(tmp_path)
    assert image.exists()
    assert page.exists()
