"""What `make` does on a machine that lacks something: it installs it if it may, else it names it and stops."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

APT_GET = """#!/bin/sh
echo "apt-get $*" >>"$0.calls"
case "$*" in *install*) printf '#!/bin/sh\\n' >"${0%/*}/redis-server"; chmod +x "${0%/*}/redis-server" ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Give a folder that is all of PATH: a shell, `id` of a user, and nothing else yet."""
    for name in ("sh", "env", "chmod"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    _command(tmp_path, "id", "#!/bin/sh\necho 1000\n")
    return tmp_path


def _command(machine: Path, name: str, text: str) -> None:
    (machine / name).write_text(text)
    (machine / name).chmod(0o755)


def _run(machine: Path, tool: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "tools" / tool), *args]
    env = {"PATH": str(machine), "SYSTEM_PYTHON": ""}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _packages(machine: Path) -> subprocess.CompletedProcess[str]:
    return _run(machine, "debian-packages", "redis-server=redis-server")


def test_what_is_there_is_left_alone(machine: Path) -> None:
    """Nothing is said and nothing done when the command exists."""
    _command(machine, "redis-server", "#!/bin/sh\n")
    ran = _packages(machine)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_user_is_told_what_is_missing(machine: Path) -> None:
    """Without the right to install, the run stops at once and names command and package."""
    _command(machine, "apt-get", APT_GET)
    ran = _packages(machine)
    assert ran.returncode == 1
    assert "Missing: redis-server. Install from Debian: apt-get install redis-server" in ran.stderr
    assert not (machine / "apt-get.calls").exists()


@pytest.mark.parametrize(
    ("known", "first"), [("exit 0", "install"), ("exit 100", "update")], ids=["known", "unknown"]
)
def test_root_installs_and_says_so(machine: Path, known: str, first: str) -> None:
    """With the right to install it does, after an update if the package is unknown, waiting for dpkg's lock."""
    _command(machine, "id", "#!/bin/sh\necho 0\n")
    _command(machine, "apt-get", APT_GET)
    _command(machine, "apt-cache", f"#!/bin/sh\n{known}\n")
    ran = _packages(machine)
    assert ran.returncode == 0, ran.stderr
    assert "Installing from Debian: redis-server" in ran.stderr
    calls = (machine / "apt-get.calls").read_text().splitlines()
    assert first in calls[0]
    assert calls[-1] == (
        "apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends redis-server"
    )


def test_an_old_python_is_refused_with_advice(machine: Path) -> None:
    """Without a fitting interpreter the message says what to install and how to name one."""
    _command(machine, "python3", "#!/bin/sh\nexit 1\n")
    ran = _run(machine, "find-python")
    assert ran.returncode == 1
    assert "apt-get install python3-venv" in ran.stderr
    assert "make PYTHON=" in ran.stderr


def test_the_first_fitting_python_is_taken(machine: Path) -> None:
    """A named one that does not fit is passed over for one that does."""
    _command(machine, "python3", "#!/bin/sh\nexit 1\n")
    _command(machine, "python3.12", "#!/bin/sh\nexit 0\n")
    assert _run(machine, "find-python").stdout.strip() == str(machine / "python3.12")
