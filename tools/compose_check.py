"""Checks what no test of Python sees: docker-compose.yml as Compose v2 reads it, and the Dockerfile by hadolint.

No daemon is asked. Exit code 1 if anything was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tools.compose_test.project import compose_command

ROOT: Final = Path(__file__).resolve().parent.parent
_STAND_INS: Final = ["--env-file", str(ROOT / "deploy" / "sandbox.env")]
_SERVICES: Final = frozenset({"state", "worker", "flower", "cli", "sandbox", "s3"})
_POST_AND_DRAIN_S: Final = 73  # worker.submit_timeout_s, worker.shutdown_s and the worker's last resort


def configuration() -> dict[str, Any]:
    """Give the project as Compose understands it, every profile included. Raises ValueError with what it says."""
    command = [
        *compose_command(),
        "--project-directory",
        str(ROOT),
        "--file",
        str(ROOT / "docker-compose.yml"),
    ]
    command += [*_STAND_INS, "--profile", "*", "config", "--format", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ValueError(ran.stderr.strip())
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def findings(project: dict[str, Any]) -> list[str]:
    """Say where the project is not what docs/deploy.md promises."""
    services: dict[str, dict[str, Any]] = project["services"]
    found = [f"no service {name}" for name in sorted(_SERVICES - services.keys())]
    for name, service in services.items():
        found += [f"{name}: {fault}" for fault in _faults(service)]
    state = str(services.get("state", {}).get("command"))
    found += [f"state: no {words}" for words in ("--appendonly", "noeviction") if words not in state]
    grace = str(services.get("worker", {}).get("stop_grace_period", ""))
    if _seconds(grace) < _POST_AND_DRAIN_S:
        found.append(f"worker: stop_grace_period is {grace}: too short for a POST in flight")
    return found


def _faults(service: dict[str, Any]) -> list[str]:
    asked = {
        "its root filesystem can be written": service.get("read_only") is True,
        "it keeps capabilities": service.get("cap_drop") == ["ALL"],
        "it may gain privileges": "no-new-privileges:true" in service.get("security_opt", ()),
        "a port is open to the network": all(
            port.get("host_ip") == "127.0.0.1" for port in service.get("ports", ())
        ),
        "it serves, but has no health check": "healthcheck" in service or service.get("profiles") == ["cli"],
    }
    return [fault for fault, holds in asked.items() if not holds]


def _seconds(duration: str) -> int:
    """Read Go's way of writing a duration (`1m15s`)."""
    minutes, has_minutes, rest = duration.rpartition("m")
    return (int(minutes) * 60 if has_minutes else 0) + int(rest.rstrip("s") or 0)


def main() -> int:
    try:
        found = findings(configuration())
    except ValueError as refused:
        found = [str(refused)]
    for finding in found:
        print(f"docker-compose.yml: {finding}", file=sys.stderr)
    linted = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), str(ROOT / "deploy" / "Dockerfile")], check=False
    )
    return 1 if found or linted.returncode != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
