"""A state server that cannot hold the truth: every command says so in one line, says what to do, and ends with 2."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.process import HOST, ROOT, free_ports
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator

_BESIDE: Final = Path(sys.executable).parent
CELERY: Final = (str(_BESIDE / "celery"), "-A", "workers.app", "worker", "-P", "threads")
DARKROOM: Final = str(_BESIDE / "darkroom")
JOBS: Final = '{"model": "wan2.7-image", "prompt": "a heron"}\n'
# Celery warns root in a paragraph of its own, before it asks us anything.
QUIET_FOR_ROOT: Final = "ignore:You're running the worker with superuser privileges"
PASSWORD: Final = "right-password-canary"
NO_URL: Final = "setting redis.url is no URL of a Redis"
COMMANDS: Final = {
    "celery worker": CELERY,
    "darkroom worker": (DARKROOM, "worker"),
    "darkroom enqueue": (DARKROOM, "enqueue", "-"),
    "darkroom status": (DARKROOM, "status", "job_00000000000000000000000000"),
    "darkroom batch": (DARKROOM, "batch", "parti"),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A state server's URL, and what a refusal has to say of it: what is wrong, and what to do."""

    url: str
    wrong: str
    remedy: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProc]:
    """Give a server that wants a password."""
    with ValkeyProc(tmp_path_factory.mktemp("guarded"), name="guarded", password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def evicting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProc]:
    """Give a server that is set up as a cache."""
    folder = tmp_path_factory.mktemp("evicting")
    with ValkeyProc(folder, name="evicting", maxmemory_policy="allkeys-lru", maxmemory="100mb") as server:
        yield server


@pytest.fixture(params=["down", "wrong password", "no password", "evicting", "no URL"])
def trouble(request: pytest.FixtureRequest, guarded: ValkeyProc, evicting: ValkeyProc) -> Trouble:
    set_url = "DARKROOM_REDIS__URL"
    match request.param:
        case "down":
            return Trouble(f"redis://{HOST}:{free_ports(1)[0]}/0", "no Redis at", set_url)
        case "wrong password":
            url = f"redis://:wrong-password-canary@{HOST}:{guarded.port}/0"
            return Trouble(url, "refuses the credentials", set_url)
        case "no password":
            return Trouble(f"redis://{HOST}:{guarded.port}/0", "refuses the credentials", set_url)
        case "no URL":
            return Trouble("redis://:canary@host:port/0", NO_URL, set_url)
    return Trouble(evicting.url(), "maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction")


def run(command: tuple[str, ...], url: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DARKROOM_REDIS__URL": url, "PYTHONWARNINGS": QUIET_FOR_ROOT}
    return subprocess.run(
        command, cwd=ROOT, env=env, input=JOBS, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", list(COMMANDS.values()), ids=list(COMMANDS))
def test_a_server_that_cannot_hold_the_truth_is_refused_in_one_line(
    command: tuple[str, ...], trouble: Trouble
) -> None:
    """Exit status 2, one line on stderr with what is wrong, where, and the remedy; never a password."""
    ran = run(command, trouble.url)
    assert ran.returncode == 2, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("darkroom")
    assert trouble.wrong in line
    if trouble.wrong != NO_URL:  # of which nothing is quoted
        assert trouble.url.rpartition("@")[2].removeprefix("redis://") in line
    assert trouble.remedy in line
    assert "canary" not in ran.stderr + ran.stdout
    assert ran.stdout == ""
