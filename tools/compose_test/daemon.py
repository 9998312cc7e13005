"""A Docker daemon: the one that answers, or one of our own in a temporary directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.compose_test import footprint
from tools.compose_test.shell import StepFailed, run, say, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGES: Final = ("dockerd=docker.io", "docker=docker.io", "iptables=iptables", "debootstrap=debootstrap")
ROOT: Final = Path(__file__).resolve().parent.parent.parent
_READY_WITHIN_S: Final = 60
_STOP_WITHIN_S: Final = 60
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_IMAGE: Final = "darkroom-test-base:local"


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where a daemon answers, a directory for our files, and the images that stand in (variable -> name)."""

    folder: Path
    env: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)

    def docker(self, *words: str, check: bool = True, timeout_s: float = 120) -> str:
        return run(["docker", *words], env=self.env, check=check, timeout_s=timeout_s)


@contextmanager
def running_or_own(base: Path | None) -> Iterator[tuple[Daemon, list[str]]]:
    """Give a daemon, and a list that names what is left of ours after the block (must stay empty).

    `base`: a tar file of the base's root filesystem to use again; made if it does not exist.
    """
    left: list[str] = []
    with _folder() as folder:
        env = dict(os.environ) | {"DOCKER_CONFIG": str(folder / "client")}
        if shutil.which("docker") and _answers(env):
            say("using the Docker daemon that answers")
            yield Daemon(folder, env), left
        else:
            yield from _own(folder, env, base, left)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="darkroom-compose-"))
    (folder / "client").mkdir()
    try:
        yield folder
    finally:
        run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def _answers(env: Mapping[str, str]) -> bool:
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],  # noqa: S607 - whichever docker the user has
        env=env, capture_output=True, check=False,
    )  # fmt: skip
    return asked.returncode == 0


def _own(
    folder: Path, env: dict[str, str], base: Path | None, left: list[str]
) -> Iterator[tuple[Daemon, list[str]]]:
    if os.geteuid() != 0:
        raise StepFailed(
            "no Docker daemon answers, and only root can start one: start Docker, or set DOCKER_HOST."
        )
    run([str(ROOT / "tools" / "debian-packages"), *PACKAGES], timeout_s=900)
    before = footprint.Footprint.now()
    footprint.refuse_if_occupied(before)
    env["DOCKER_HOST"] = f"unix://{folder / 'docker.sock'}"
    daemon = Daemon(folder, env, {"DARKROOM_PYTHON_IMAGE": BASE_IMAGE, "DARKROOM_STATE_IMAGE": BASE_IMAGE})
    try:
        with _dockerd(daemon):
            _import_base(daemon, base)
            yield daemon, left
    finally:
        _unmount_below(folder)
        run(["rm", "-rf", "--one-file-system", str(folder)], check=False)
        footprint.take_back(before)
        left += before.left_in(footprint.Footprint.now())
        left += [f"directory {folder}"] if folder.exists() else []


@contextmanager
def _dockerd(daemon: Daemon) -> Iterator[None]:
    """Run a daemon that keeps all of its own in our directory."""
    folder = daemon.folder
    (folder / "daemon.json").write_text(json.dumps({"deprecated-key-path": str(folder / "key.json")}))
    command = ["dockerd", "--config-file", str(folder / "daemon.json"), "--host", daemon.env["DOCKER_HOST"]]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    say("starting a Docker daemon of our own")
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--pidfile", str(folder / "docker.pid")],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _answers(daemon.env), _READY_WITHIN_S, "dockerd answers"
        )
        if process.poll() is not None:
            raise StepFailed(f"dockerd ended:\n{(folder / 'dockerd.log').read_text()[-3000:]}")
        yield
    finally:
        say("stopping it")
        process.terminate()
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _import_base(daemon: Daemon, kept: Path | None) -> None:
    """Make the one image that stands in for all: Debian with Python, and Redis under Valkey's name."""
    archive = kept or daemon.folder / "base.tar"
    if not archive.exists():
        _make_base(daemon.folder / "rootfs", archive)
    say("importing the base")
    daemon.docker("import", "--change", f"ENV PATH={_PATH}", str(archive), BASE_IMAGE, timeout_s=300)
    if kept is None:
        archive.unlink()


def _make_base(root: Path, archive: Path) -> None:
    say("making a Debian base with debootstrap (a minute or two)")
    wanted = "--include=ca-certificates,python3-venv,redis-server"
    run(["debootstrap", "--variant=minbase", wanted, "bookworm", str(root)], timeout_s=900)
    for name in ("server", "cli"):
        (root / "usr/bin" / f"valkey-{name}").symlink_to(f"redis-{name}")
    (root / "data").mkdir()
    os.chown(root / "data", 999, 999)  # as in Valkey's image
    run(["tar", "--create", "--one-file-system", "--directory", str(root), "--file", str(archive), "."])
    run(["rm", "-rf", "--one-file-system", str(root)])


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), key=len, reverse=True):
        with suppress(StepFailed):
            run(["umount", "--lazy", mount])
