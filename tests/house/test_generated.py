"""Generated pages are what their source says now; `make docs` writes them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.redis.scripts import script
from shared.settings import Settings
from tests.process import ROOT
from tools import event_schemas, lifecycle_doc, lint_lua, metrics_doc, settings_reference

READ_BACK = "from shared.settings import load_settings; print(load_settings().model_dump_json())"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (".env.example", settings_reference.env_example()),
        ("docs/configuration.md", settings_reference.configuration_page()),
        ("docs/lifecycle.md", lifecycle_doc.render()),
        ("docs/metrics.md", metrics_doc.render()),
        *((f"docs/webhooks/schema/{name}", text) for name, text in event_schemas.files().items()),
    ],
    ids=["env", "configuration", "lifecycle", "metrics", *event_schemas.files()],
)
def test_a_generated_page_is_current(page: str, expected: str) -> None:
    """The file equals what its generator gives."""
    assert (ROOT / page).read_text() == expected, "run `make docs`"


def test_every_setting_says_why() -> None:
    """No key stands without a reason, no section without a purpose."""
    silent = [
        key.variable
        for section in settings_reference.sections()
        for key in section.keys
        if not key.meaning or key.meaning.startswith(("(", "name of the environment variable"))
    ]
    assert silent == []
    assert [section.title for section in settings_reference.sections() if not section.meaning] == []


def test_the_defaults_of_the_example_are_the_defaults() -> None:
    """Every line of .env.example that has a value, uncommented, changes no setting."""
    lines = [line.removeprefix("#") for line in settings_reference.env_example().splitlines()]
    pairs = [line.partition("=") for line in lines if line.startswith("DARKROOM_")]
    values = {name: value for name, _, value in pairs if value and "DEV_FILE" not in name}
    assert len(values) > 50
    ran = subprocess.run(
        [sys.executable, "-c", READ_BACK], env=os.environ | values, cwd=ROOT, capture_output=True, check=True
    )
    assert Settings.model_validate_json(ran.stdout) == Settings.model_construct()


def test_lua_is_linted_as_it_is_sent() -> None:
    """The linter puts scripts together exactly as they go to the server."""
    names = [path.stem for path in lint_lua.FOLDER.glob("*.lua") if path.read_text().startswith("#!lua")]
    assert names
    for name in names:
        assert "\n".join(line.text for line in lint_lua.assembled(name)) == script(name).text
