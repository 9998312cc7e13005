"""What a Docker daemon does to its machine outside its own directory: looked at, compared and taken back."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.compose_test.shell import StepFailed, run

_SWITCHES: Final = tuple(
    Path("/proc/sys/net", name)
    for name in (
        "ipv4/ip_forward",
        "ipv4/conf/all/forwarding",
        "ipv4/conf/default/forwarding",
        "bridge/bridge-nf-call-iptables",
        "bridge/bridge-nf-call-ip6tables",
    )
)
_PATHS: Final = tuple(
    Path(name)
    for name in (
        "/etc/docker", "/run/docker", "/run/docker.sock", "/var/lib/docker", "/run/containerd",
        "/var/lib/containerd", "/opt/containerd", "/var/lib/docker-engine", "/var/lib/cni",
    )
)  # fmt: skip
_OURS: Final = re.compile(r"docker|\bbr-[0-9a-f]{12}\b", re.IGNORECASE)
_KINDS: Final = {
    "link": "links",
    "rule": "rules",
    "switch": "switches",
    "path": "paths",
    "cgroup": "cgroups",
    "mount": "mounts",
    "process": "processes",
}
_PROGRAMS: Final = ("dockerd", "containerd", "docker-proxy", "containerd-shim")


@dataclass(frozen=True, slots=True)
class Footprint:
    """A machine's links, firewall, switches, directories, cgroups, mounts and processes that a daemon may change."""

    links: frozenset[str]
    rules: frozenset[str]
    switches: frozenset[tuple[str, str]]
    paths: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]

    @classmethod
    def now(cls) -> Footprint:
        return cls(
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            rules=frozenset(_rules()),
            switches=frozenset((str(path), path.read_text().strip()) for path in _SWITCHES if path.exists()),
            paths=frozenset(str(path) for path in _PATHS if path.exists()),
            cgroups=frozenset(str(path) for path in _cgroups()),
            mounts=frozenset(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
            processes=frozenset(_processes()),
        )

    def left_in(self, later: Footprint) -> list[str]:
        """Say what is there later and was not, or is another now."""
        return [
            f"{kind} {what}"
            for kind, name in _KINDS.items()
            for what in sorted(str(each) for each in getattr(later, name) - getattr(self, name))
        ]


def _rules() -> list[str]:
    """Give every policy, chain and rule as `TABLE LINE`, without counters."""
    rules, table = [], ""
    for line in run(["iptables-save"]).splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            rules.append(f"{table} {' '.join(line.split()[:2])}")
        elif line.startswith("-A"):
            rules.append(f"{table} {line}")
    # A table that docker was the first to use stays, empty and open, as the kernel keeps it.
    return [rule for rule in rules if not re.fullmatch(r"\w+ :[A-Z]+ ACCEPT", rule)]


def _cgroups() -> list[Path]:
    return [path for depth in ("docker", "*/docker") for path in Path("/sys/fs/cgroup").glob(depth)]


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            name = path.read_text().strip()
            if name.startswith(_PROGRAMS):
                found.append(f"{name} {path.parent.name}")
    return found


def take_back(before: Footprint) -> None:
    """Undo what a daemon left: bridges, its chains and rules, policies, switches, empty directories and cgroups."""
    now = Footprint.now()
    for link in now.links - before.links:
        if _OURS.search(link):
            run(["ip", "link", "delete", link], check=False)
    _take_back_rules(before, now)
    for name, value in before.switches - now.switches:
        with suppress(OSError):
            Path(name).write_text(value)
    for path in sorted(now.cgroups - before.cgroups, reverse=True):
        _remove_cgroup(Path(path))
    for path in now.paths - before.paths:
        run(["rm", "-rf", "--one-file-system", path], check=False)


def _take_back_rules(before: Footprint, now: Footprint) -> None:
    fresh = sorted(now.rules - before.rules)
    lines = [rule.split(" ", 1) for rule in fresh]
    for table, line in lines:
        if line.startswith("-A") and _OURS.search(line):
            run(["iptables", "-t", table, "-D", *shlex.split(line)[1:]], check=False)
    chains = [(table, line.split()[0][1:]) for table, line in lines if line.startswith(":")]
    for flag in ("-F", "-X"):
        for table, chain in chains:
            if chain.startswith("DOCKER"):
                run(["iptables", "-t", table, flag, chain], check=False)
    if ("filter", "FORWARD") in chains:  # Docker closes it when it was it who turned forwarding on
        was = next(
            (rule.split()[-1] for rule in before.rules if rule.startswith("filter :FORWARD ")), "ACCEPT"
        )
        run(["iptables", "-P", "FORWARD", was], check=False)


def _remove_cgroup(path: Path) -> None:
    with suppress(OSError):
        for folder in sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True):
            folder.rmdir()
        path.rmdir()


def refuse_if_occupied(before: Footprint) -> None:
    """Raise StepFailed on a machine whose Docker we would share bridge and chains with."""
    if before.processes or "docker0" in before.links:
        raise StepFailed(
            "there is a Docker here, but it does not answer us: start it, or set DOCKER_HOST. A second daemon beside "
            "it would share its bridge and firewall chains."
        )
