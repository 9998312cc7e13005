"""docs/tutorial.md, followed to the letter: its shell blocks in order, in one shell, against a real S3 server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.local_stack import Terminal
from tests.process import ROOT

if TYPE_CHECKING:
    from tests.servers import SeaweedProc

pytestmark = pytest.mark.timeout(180)

PAGE: Final = ROOT / "docs" / "tutorial.md"


def blocks(language: str) -> list[str]:
    """Give the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def names(s3: SeaweedProc) -> dict[str, str]:
    """Give what the page asks its reader to fill in, for a bucket of ours."""
    return {
        "S3_BUCKET": s3.bucket,
        "S3_ENDPOINT": s3.endpoint,
        "S3_REGION": "us-east-1",
        "S3_ACCESS_KEY_ID": s3.access_key_id,
        "S3_SECRET_ACCESS_KEY": s3.secret_access_key,
    }


def test_the_tutorial_works_as_printed(s3: SeaweedProc, tmp_path: Path) -> None:
    """A thousand images lie in the bucket, every printed output is the output, and nothing is left running."""
    reader = Terminal(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks("sh"))],
        cwd=reader.cwd, env={**os.environ, **reader.env, **names(s3), "PATH": path},
        capture_output=True, text=True, timeout=150, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    logs = "\n".join(path.read_text() for path in reader.cwd.glob("*.log"))
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{logs}"
    at = 0
    for printed in blocks("text"):
        found = ran.stdout.find(printed, at)
        assert found >= 0, f"the page prints\n{printed}\nbut there was\n{ran.stdout[at:]}"
        at = found + len(printed)
    assert re.search(r"^state +completed", ran.stdout[at:], re.MULTILINE)
    assert "beware" not in logs
    assert reader.left_running() == []


def test_what_the_reader_fills_in_is_what_the_blocks_use(s3: SeaweedProc) -> None:
    """The blocks that are not run name every variable that those that are run expect."""
    told = set(re.findall(r"\b(S3_[A-Z_]+)=", "".join(blocks("console"))))
    used = set(re.findall(r"\b(S3_[A-Z_]+)\b", "".join(blocks("sh"))))
    assert used == told == set(names(s3))
