"""Pages that quote files quote them as they are."""

from __future__ import annotations

import re

import pytest

from shared.webhooks.events import EVENT_TYPES
from tests.process import ROOT
from tools import included_files

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", included_files.PAGES)
def test_a_page_quotes_files_as_they_are(page: str) -> None:
    """Every part that is told elsewhere reads as it does there."""
    assert (DOCS / page).read_text() == included_files.render(page), "run `make docs`"


def test_webhooks_shows_every_example_and_every_body() -> None:
    """None of the files is left out of the page, so none goes stale unseen."""
    folders = (DOCS / "webhooks" / "examples", DOCS / "webhooks" / "bodies")
    there = {str(path.relative_to(DOCS)) for folder in folders for path in folder.iterdir() if path.is_file()}
    assert set(included_files.included("webhooks.md")) == there
    assert {f"webhooks/bodies/{each}.json" for each in EVENT_TYPES} <= there


def test_webhooks_names_every_event() -> None:
    """The table of events is whole."""
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", (DOCS / "webhooks.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(EVENT_TYPES)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_inside_the_docs_lead_somewhere(page: str) -> None:
    """A relative link names a file or folder that exists."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (DOCS / page).read_text())
    assert [link for link in links if not (DOCS / link).exists()] == []
