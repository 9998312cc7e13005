"""`python -m tools.compose_test`: plays the day, takes everything down, prints the verdict; exit code 1 if it fails."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.compose_test.daemon import running_or_own
from tools.compose_test.project import Project
from tools.compose_test.scenario import Scenario
from tools.compose_test.shell import STARTED_AT, StepFailed, say, seconds_since
from tools.compose_test.verdict import Verdict


def _play(base: Path | None, verdict: Verdict) -> None:
    with running_or_own(base) as (daemon, left):
        project = Project.prepare(daemon)
        try:
            Scenario(project, verdict).play()
        except (StepFailed, OSError, KeyError, ValueError) as failed:
            verdict.note("the day", f"{type(failed).__name__}: {failed}", holds=False)
            say("the workers' last words:\n" + project.compose("logs", "--tail", "15", "worker", check=False))
        finally:
            verdict.expect("left by the project", _take_down(project), [])
    verdict.expect("left on the machine", left, [])


def _take_down(project: Project) -> list[str]:
    """Remove the project with its volumes and images; name what is still there."""
    say("taking it down")
    down = ("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "80")
    project.compose(*down, check=False)
    docker = project.daemon.docker
    docker("image", "rm", "--force", *project.images, check=False)
    label = f"label=com.docker.compose.project={project.name}"
    kinds = {"container": ("ps", "--all"), "volume": ("volume", "ls"), "network": ("network", "ls")}
    left = [
        f"{kind} {name}"
        for kind, listing in kinds.items()
        for name in docker(*listing, "--quiet", "--filter", label).split()
    ]
    return left + [f"image {each}" for each in docker("images", "--quiet", f"{project.name}-*").split()]


def main() -> int:
    parser = argparse.ArgumentParser("python -m tools.compose_test", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--base", type=Path, metavar="TAR", help="keep the Debian base here, and use it again"
    )
    options = parser.parse_args()
    verdict = Verdict()
    try:
        _play(options.base, verdict)
    except StepFailed as failed:
        verdict.note("the machine", str(failed), holds=False)
    verdict.note("seconds in all", f"{seconds_since(STARTED_AT):.0f}", holds=True)
    print(verdict.json() if options.json else verdict.table())
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
