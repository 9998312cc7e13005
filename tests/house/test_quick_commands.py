"""Commands that people type all day answer at once: what they do not need, they do not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from producers.client import Darkroom
from tests.process import ROOT
from tests.servers import environment

if TYPE_CHECKING:
    from tests.conftest import State

# Of libraries: clients that a look does not use, and what draws on terminals, as here there is none.
HEAVY: Final = frozenset(
    {
        "PIL", "celery", "fastapi", "flower", "httpcore", "httptools", "httpx", "kombu", "obstore", "prometheus_client",
        "pyreqwest", "rich", "sandbox", "starlette", "structlog", "tornado", "uvicorn", "uvloop", "workers",
    }
)  # fmt: skip
# Of ours: the models of requests, and whatever brings them.
OURS: Final = frozenset(
    {
        "producers.aio", "producers.bulk", "producers.client", "producers.core", "producers.hints", "producers.intake",
        "producers.link", "producers.waiters", "shared.broker", "shared.jobs.data_uri", "shared.jobs.enqueue",
        "shared.jobs.request", "shared.orders", "shared.storage", "shared.telemetry", "shared.webhooks",
    }
)  # fmt: skip
SERVER: Final = frozenset(
    {"redis", "pydantic_settings", "shared.settings", "shared.redis"}
)  # help asks nobody
PYDANTIC: Final = frozenset({"pydantic"})
FORBIDDEN: Final = {
    ("--help",): HEAVY | OURS | SERVER | PYDANTIC,
    ("--version",): HEAVY | OURS | SERVER,
    ("doctor", "--help"): HEAVY | OURS | SERVER,
    ("enqueue", "--help"): HEAVY | OURS | SERVER,
    ("unknown", "--help"): HEAVY | OURS | SERVER,
    ("status",): HEAVY | OURS,
    ("status", "--json"): HEAVY | OURS,
    ("status", "JOB"): HEAVY | OURS,
    ("batch", "b"): HEAVY | OURS,
    ("top", "--once"): HEAVY | OURS,
    ("top", "--json"): HEAVY | OURS,
}
_CHILD: Final = """
import json, sys
sys.argv = ["darkroom", *sys.argv[1:]]
from producers.cli.app import run
code = run()
sys.stderr.write(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("words", list(FORBIDDEN), ids=" ".join)
def test_a_quick_command_imports_only_what_it_needs(state: State, words: tuple[str, ...]) -> None:
    """The modules after its end are compared with a list; a new import at the top of a module shows here."""
    with Darkroom(state.settings) as darkroom:
        job_id = darkroom.enqueue({"model": "wan2.7-image", "prompt": "a heron"}, batch="b").job_id
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, *(job_id if word == "JOB" else word for word in words)],
        env={**os.environ, **environment(state.settings)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    code, modules = json.loads(ran.stderr)
    assert code == 0
    assert ran.stdout
    assert [name for name in FORBIDDEN[words] if name in modules] == []
