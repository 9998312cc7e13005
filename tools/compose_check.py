"""Checks what no test of Python sees: docker-compose.yml as Compose v2 reads it, and the Dockerfile by hadolint.

No daemon is asked. Exit code 1 if anything was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tools.compose_test.project import compose_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
_STAND_INS: Final = ["--env-file", str(ROOT / "deploy" / "sandbox.env")]
_PROFILES: Final[Mapping[str, tuple[str, ...]]] = {
    "state": (),
    "worker": (),
    "flower": (),
    "cli": ("cli",),
    "exporter": ("metrics",),
    "prometheus": ("metrics",),
    "sandbox": ("sandbox",),
    "s3": ("sandbox",),
}
_POST_AND_DRAIN_S: Final = 73  # worker.submit_timeout_s, worker.shutdown_s and the worker's last resort
_SECRETS: Final = ("API_KEY", "ACCESS_KEY", "WEBHOOK_SECRET", "SESSION_TOKEN")


def run(command: Sequence[str], advice: str, *, shown: bool = False) -> str:
    """Give what it printed (nothing if `shown`). Raises ValueError with what it said, or with advice if not there."""
    try:
        ran = subprocess.run(list(command), capture_output=not shown, text=True, check=False)
    except OSError as error:
        raise ValueError(f"cannot run {command[0]} ({error.strerror}). {advice}") from None
    if ran.returncode != 0:
        said = "" if shown else ran.stderr.strip()
        raise ValueError(said or f"{Path(command[0]).name} gave {ran.returncode}.")
    return ran.stdout or ""


def configuration() -> dict[str, Any]:
    """Give the project as Compose understands it, every profile included. Raises ValueError with what it says."""
    place = ["--project-directory", str(ROOT), "--file", str(ROOT / "docker-compose.yml")]
    command = [*compose_command(), *place, *_STAND_INS, "--profile", "*", "config", "--format", "json"]
    advice = "Run `make venv`, which installs Compose v2, or install Docker with its compose plugin."
    found: dict[str, Any] = json.loads(run(command, advice))
    return found


def findings(project: Mapping[str, Any]) -> list[str]:
    """Say where the project is not what docs/deploy.md promises."""
    services: Mapping[str, Mapping[str, Any]] = project["services"]
    found = [f"no service {name}" for name in sorted(_PROFILES.keys() - services.keys())]
    for name, service in services.items():
        found += [f"{name}: {fault}" for fault in _faults(name, service)]
    own = {"state": _of_state, "worker": _of_worker, "flower": _of_flower}
    for name, faults in own.items():
        found += [f"{name}: {fault}" for fault in faults(services.get(name, {}))]
    return found


def _faults(name: str, service: Mapping[str, Any]) -> list[str]:
    asked = {
        "its root filesystem can be written": service.get("read_only") is True,
        "it keeps capabilities": service.get("cap_drop") == ["ALL"],
        "it may gain privileges": "no-new-privileges:true" in service.get("security_opt", ()),
        "a port is open to the network": all(
            port.get("host_ip") == "127.0.0.1" for port in service.get("ports", ())
        ),
        "it serves, but has no health check": "healthcheck" in service or service.get("profiles") == ["cli"],
        "its container has a name of its own, so that a second project collides": "container_name"
        not in service,
        f"its profiles are not {list(_PROFILES.get(name, ()))}": tuple(service.get("profiles") or ())
        == _PROFILES.get(name, ()),
    }
    return [fault for fault, holds in asked.items() if not holds]


def _of_state(service: Mapping[str, Any]) -> Iterator[str]:
    command = str(service.get("command"))
    yield from (f"no {words}" for words in ("--appendonly", "noeviction") if words not in command)


def _of_worker(service: Mapping[str, Any]) -> Iterator[str]:
    grace = str(service.get("stop_grace_period", ""))
    if seconds(grace) < _POST_AND_DRAIN_S:
        yield f"stop_grace_period is {grace or 'not set'}: too short for a POST in flight"
    if service.get("ports"):
        yield "it has a port of this machine, so that it cannot be scaled"


def _of_flower(service: Mapping[str, Any]) -> Iterator[str]:
    environment: Mapping[str, Any] = service.get("environment") or {}
    if list(service.get("command") or ())[:2] != ["darkroom", "flower"]:
        yield "it does not run `darkroom flower`, which keeps its login and our settings apart"
    if not environment.get("DARKROOM_FLOWER_AUTH"):
        yield "it has no login (DARKROOM_FLOWER_AUTH)"
    history = str(environment.get("DARKROOM_FLOWER__HISTORY", ""))
    kept = [str(volume.get("target")) for volume in service.get("volumes", ()) if volume["type"] == "volume"]
    if not any(history.startswith(f"{target}/") for target in kept):
        yield "its history is on no volume: its list is lost with the container"
    told = sorted(name for name in environment if any(word in name for word in _SECRETS))
    yield from (f"it is told {name}, which it does not need" for name in told)


def seconds(duration: str) -> int:
    """Read Go's way of writing a duration (`1m15s`); nothing is 0."""
    minutes, has_minutes, rest = duration.rpartition("m")
    return (int(minutes) * 60 if has_minutes else 0) + int(rest.rstrip("s") or 0)


def main() -> int:
    """Print what was found, and what hadolint prints."""
    try:
        found = findings(configuration())
    except ValueError as refused:
        found = [str(refused)]
    for finding in found:
        print(f"docker-compose.yml: {finding}", file=sys.stderr)
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    try:
        run(
            [hadolint, str(ROOT / "deploy" / "Dockerfile")], "Run `make venv`, which installs it.", shown=True
        )
    except ValueError as refused:
        print(f"deploy/Dockerfile: {refused}", file=sys.stderr)
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
