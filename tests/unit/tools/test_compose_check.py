"""What `make compose` says of a project that is not as docs/deploy.md promises; no Docker is asked."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tools import compose_check
from tools.compose_check import configuration, findings, seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """Give our own file as Compose reads it."""
    return configuration()


def test_our_own_file_is_as_promised(real: dict[str, Any]) -> None:
    """Nothing is found, and every profile was looked at."""
    assert findings(real) == []
    assert {"exporter", "prometheus", "sandbox", "s3"} <= real["services"].keys()


def _open_port(services: dict[str, Any]) -> None:
    services["flower"]["ports"][0]["host_ip"] = "0.0.0.0"


def _plain_celery(services: dict[str, Any]) -> None:
    services["flower"]["command"] = ["celery", "-A", "workers.app", "flower"]


def _history_in_the_container(services: dict[str, Any]) -> None:
    services["flower"]["environment"]["DARKROOM_FLOWER__HISTORY"] = "/tmp/history"


def _no_login(services: dict[str, Any]) -> None:
    services["flower"]["environment"]["DARKROOM_FLOWER_AUTH"] = ""


def _told_a_key(services: dict[str, Any]) -> None:
    services["flower"]["environment"]["DARKROOM_API_KEY"] = "k"


def _named(services: dict[str, Any]) -> None:
    services["worker"]["container_name"] = "worker"


def _worker_with_a_port(services: dict[str, Any]) -> None:
    services["worker"]["ports"] = [{"host_ip": "127.0.0.1", "target": 9108, "published": "9108"}]


def _short_grace(services: dict[str, Any]) -> None:
    services["worker"]["stop_grace_period"] = "10s"


def _no_grace(services: dict[str, Any]) -> None:
    del services["worker"]["stop_grace_period"]


def _stand_in_for_all(services: dict[str, Any]) -> None:
    del services["sandbox"]["profiles"]


def _evicting(services: dict[str, Any]) -> None:
    services["state"]["command"] = ["valkey-server", "--appendonly", "yes"]


def _root_is_written(services: dict[str, Any]) -> None:
    services["prometheus"]["read_only"] = False


def _unwatched(services: dict[str, Any]) -> None:
    del services["exporter"]["healthcheck"]


def _without_s3(services: dict[str, Any]) -> None:
    del services["s3"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_open_port, "flower: a port is open to the network"),
        (_plain_celery, "flower: it does not run `darkroom flower`"),
        (_history_in_the_container, "flower: its history is on no volume"),
        (_no_login, "flower: it has no login"),
        (_told_a_key, "flower: it is told DARKROOM_API_KEY"),
        (_named, "worker: its container has a name of its own"),
        (_worker_with_a_port, "worker: it has a port of this machine"),
        (_short_grace, "worker: stop_grace_period is 10s: too short"),
        (_no_grace, "worker: stop_grace_period is not set: too short"),
        (_stand_in_for_all, "sandbox: its profiles are not ['sandbox']"),
        (_evicting, "state: no noeviction"),
        (_root_is_written, "prometheus: its root filesystem can be written"),
        (_unwatched, "exporter: it serves, but has no health check"),
        (_without_s3, "no service s3"),
    ],
)
def test_each_promise_is_looked_at(
    real: dict[str, Any], spoil: Callable[[dict[str, Any]], None], said: str
) -> None:
    """One change of the real file, and one finding that names it."""
    project = copy.deepcopy(real)
    spoil(project["services"])
    (found,) = findings(project)
    assert found.startswith(said)


def test_durations_are_read_as_go_writes_them() -> None:
    """Seconds, minutes, both, and none."""
    assert [seconds(text) for text in ("75s", "1m15s", "2m0s", "2m", "")] == [75, 75, 120, 120, 0]


def test_a_missing_compose_is_one_sentence_of_advice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No traceback: what cannot be run, and what to do."""
    monkeypatch.setattr(compose_check, "compose_command", lambda: [str(tmp_path / "docker"), "compose"])
    assert compose_check.main() == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"docker-compose.yml: cannot run {tmp_path / 'docker'} (No such file or directory)"
    )
    assert "make venv" in line


def test_a_missing_hadolint_is_one_sentence_of_advice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, real: dict[str, Any]
) -> None:
    """The file was looked at all the same."""
    monkeypatch.setattr(compose_check, "configuration", lambda: real)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert compose_check.main() == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("deploy/Dockerfile: cannot run")
    assert "make venv" in line


def test_what_compose_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words, not a stack of ours."""
    monkeypatch.setattr(
        compose_check, "compose_command", lambda: ["sh", "-c", "echo 'no such file' >&2; exit 15"]
    )
    with pytest.raises(ValueError, match="no such file"):
        configuration()
