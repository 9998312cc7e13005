"""`darkroom doctor` on real servers: what it finds, what it says to do, and its exit code for scripts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.redis.keys import Keys
from shared.settings import AccountSettings, EndpointSettings, Settings, StorageSettings, WebhookSettings
from shared.settings_section import SecretReference
from tests.process import HOST
from tests.servers import SinkProc, ValkeyProc, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)

DARKROOM = str(Path(sys.executable).with_name("darkroom"))
KEY, PASSWORD = "sk-doctor-canary", "redis-doctor-canary"
KEY_VARIABLE, HOOK_VARIABLE = "TESTS_DOCTOR_KEY", "TESTS_DOCTOR_HOOK"


@dataclass
class Patient:
    """A system of which each part may be hurt: state server, provider's port, consumer, store, secrets."""

    folder: Path
    server: ValkeyProc
    sink: SinkProc
    provider: socket.socket

    @property
    def settings(self) -> Settings:
        base = Settings()
        endpoint = EndpointSettings.model_validate(
            {"url": self.sink.url + "/ok", "secret": {"env": HOOK_VARIABLE}}
        )
        account = AccountSettings(
            base_url=f"http://{HOST}:{self.provider.getsockname()[1]}/v1",
            api_key=SecretReference(env=KEY_VARIABLE),
        )
        return base.model_copy(
            update={
                "redis": base.redis.model_copy(update={"url": self.server.url(0)}),
                "broker": base.broker.model_copy(update={"url": self.server.url(1)}),
                "accounts": {"main": account},
                "worker": base.worker.model_copy(update={"spool": self.folder / "spool"}),
                "storage": StorageSettings(url=f"file://{self.folder / 'artifacts'}"),
                "webhooks": WebhookSettings(endpoints={"orders": endpoint}, allow_private=True, allow_http=True),
            }
        )  # fmt: skip

    def run(
        self, *args: str, settings: Settings | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "darkroom.toml").touch()
        secrets = {KEY_VARIABLE: KEY, HOOK_VARIABLE: self.sink.secret, "DARKROOM_CONFIG": "darkroom.toml"}
        done = subprocess.run(
            [DARKROOM, "doctor", *args],
            cwd=self.folder,
            env={**os.environ, **environment(settings or self.settings), **secrets, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        for canary in (KEY, PASSWORD, self.sink.secret):
            assert canary not in done.stdout + done.stderr
        return done

    def findings(self, *args: str, code: int, **more: Any) -> list[dict[str, str]]:
        """Run it with --json; give what is not ok, each of which says what to do."""
        done = self.run(*args, "--json", **more)
        assert done.returncode == code, done.stdout + done.stderr
        found = json.loads(done.stdout)
        rest = [each for each in found["findings"] if each["level"] != "ok"]
        assert found["error"] == sum(each["level"] == "error" for each in rest)
        assert all(each["do"] for each in rest)
        return rest

    def says(self, area: str, what: str, *args: str, code: int = 1, **more: Any) -> str:
        """Find the trouble of an area that says this; give its level. A busy machine may be called slow beside it."""
        found = self.findings(*args, code=code, **more)
        (level,) = (each["level"] for each in found if each["area"] == area and what in each["what"])
        return level


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    """A healthy one, but for the worker that is not there."""
    with (
        ValkeyProc(tmp_path / "state", password=PASSWORD) as server,
        SinkProc(tmp_path / "sink") as sink,
        socket.create_server((HOST, 0)) as provider,
    ):
        yield Patient(tmp_path, server, sink, provider)


def test_a_healthy_system_is_exit_code_0(patient: Patient) -> None:
    """Only that nobody works yet is said, as a warning; every part was looked at."""
    found = [each for each in patient.findings(code=0) if not each["what"].startswith("it answers in")]
    assert {each["area"] for each in found} == {"work", "storage"}
    assert all("no worker is alive" in each["what"] for each in found)
    text = patient.run().stdout
    for part in ("settings", "secrets", "state", "broker", "storage", "provider", "webhooks", "work"):
        assert f" {part} " in f" {' '.join(text.split())} "
    assert text.splitlines()[-1].startswith("0 errors, ")
    assert "an object was written, read and deleted" in text
    assert "TESTS_DOCTOR_KEY holds one" in text


def test_an_evicting_server_is_an_error(patient: Patient) -> None:
    """As workers refuse to start on it."""
    with patient.server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert patient.says("state", "evicts keys") == "error"
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        assert patient.says("state", "no append-only file") == "error"


def test_a_server_without_headroom_is_a_warning(patient: Patient) -> None:
    """Full, it takes no jobs; scripts that ask for errors go on."""
    with patient.server.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
        assert patient.says("state", "% of maxmemory", code=0) == "warning"


@pytest.mark.parametrize("how", ["down", "wrong password"])
def test_a_state_server_that_cannot_be_asked_is_an_error(patient: Patient, how: str) -> None:
    """The rest is looked at all the same."""
    settings = patient.settings
    if how == "down":
        patient.server.kill()
    else:
        wrong = settings.redis.model_copy(update={"url": settings.redis.url.replace(PASSWORD, "wrong")})
        settings = settings.model_copy(update={"redis": wrong})
    areas = {each["area"] for each in patient.findings(code=1, settings=settings)}
    assert "state" in areas
    assert "provider" not in areas


def test_a_store_that_takes_nothing_is_an_error(patient: Patient) -> None:
    """A folder that cannot be made."""
    (patient.folder / "file").write_text("in the way")
    store = StorageSettings(url=f"file://{patient.folder / 'file' / 'artifacts'}")
    settings = patient.settings.model_copy(update={"storage": store})
    assert patient.says("storage", "", settings=settings) == "error"


def test_a_missing_key_and_a_dead_provider_are_errors(patient: Patient) -> None:
    """A machine that only enqueues needs neither."""
    settings = patient.settings
    patient.provider.close()
    found = patient.findings(code=1, settings=settings, **{KEY_VARIABLE: ""})
    told = {each["area"]: each["what"] for each in found if each["level"] == "error"}
    assert f"{KEY_VARIABLE} is empty" in told["secrets"]
    assert "connection refused" in told["provider"]
    assert patient.findings("--producer", code=0, settings=settings, **{KEY_VARIABLE: ""})


def test_a_test_event_is_sent_only_when_asked_for(patient: Patient) -> None:
    """Without --send-test nothing arrives; with it, a consumer that refuses is an error."""
    patient.findings(code=0)
    assert patient.sink.get("/received")["deliveries"] == []
    assert "took a signed test event" in patient.run("--send-test").stdout
    assert len(patient.sink.get("/received")["deliveries"]) == 1
    refusing = EndpointSettings.model_validate(
        {"url": patient.sink.url + "/status/500", "secret": {"env": HOOK_VARIABLE}}
    )
    hooks = patient.settings.webhooks.model_copy(update={"endpoints": {"orders": refusing}})
    settings = patient.settings.model_copy(update={"webhooks": hooks})
    assert patient.says("webhooks", "it answered 500", "--send-test", settings=settings) == "error"


def test_a_private_endpoint_is_refused_as_workers_do(patient: Patient) -> None:
    """Unless settings allow it."""
    hooks = patient.settings.webhooks.model_copy(update={"allow_private": False})
    settings = patient.settings.model_copy(update={"webhooks": hooks})
    assert patient.says("webhooks", "has a private address", settings=settings) == "error"


def test_workers_and_failing_endpoints_are_judged(patient: Patient) -> None:
    """Two versions, another store, deliveries that failed: what each living worker said, and what waits."""
    prefix = "{darkroom}:"
    with patient.server.client() as client:
        now_ms = int(client.time()[0]) * 1000
        client.zadd(prefix + "workers", {"w1": now_ms + 60_000, "w2": now_ms + 60_000})
        client.hset(prefix + "w:w1", mapping={"version": "1", "store": "another"})
        client.hset(prefix + "w:w2", mapping={"version": "2"})
        client.zadd(prefix + "endpoints", {"hooks.test": 1})
        client.zadd(prefix + "ew:hooks.test", {"evt_1": now_ms})
        client.zadd(prefix + "ef:hooks.test", {"evt_1": now_ms})
        client.hset(prefix + "d:evt_1", mapping={"attempts": 2, "last_status": "timeout"})
    told = [each["what"] for each in patient.findings(code=1)]
    assert "workers of 2 versions run: 1, 2" in told
    assert "worker w1 uses another store than this machine" in told
    assert any(each.startswith("worker w2 has not said which store") for each in told)
    assert "1 delivery to hooks.test failed (the oldest: timeout after 2 tries)" in told


def test_a_lane_that_no_setting_names_is_an_error_while_it_has_work(patient: Patient) -> None:
    """Its generations are asked about by nobody; jobs for a model that no account serves wait for ever."""
    keys = Keys.of("darkroom")
    with patient.server.client() as client:
        client.sadd(keys.lanes, "main/wan2.7-image", "gone/wan2.7-image", "gone/retired", "gone/empty")
        client.zadd(keys.index("poll:gone/wan2.7-image"), {"job_1": 1, "job_2": 1})
        client.zadd(keys.index("submit:gone/wan2.7-image"), {"job_3": 1})
        client.zadd(keys.ready("wan2.7-image"), {"default": 1})
        client.zadd(keys.ready("retired"), {"default": 1})
    told = [each["what"] for each in patient.findings(code=1) if each["level"] == "error"]
    assert told == [
        "jobs are queued for retired, which no account serves",
        "3 jobs are under way in lane gone/wan2.7-image, which no setting here names: nobody asks about them",
    ]


def test_what_does_not_answer_costs_its_own_time_only(patient: Patient) -> None:
    """A provider that accepts and says nothing is reached; one behind a blackhole does not hold up the rest for long."""
    started = time.monotonic()
    account = AccountSettings(base_url="https://192.0.2.1/v1", api_key=SecretReference(env=KEY_VARIABLE))
    settings = patient.settings.model_copy(update={"accounts": {"main": account}})
    assert patient.says("provider", "", settings=settings) == "error"
    assert time.monotonic() - started < 30


def test_settings_that_cannot_be_read_are_exit_code_2(patient: Patient) -> None:
    """One line, no findings."""
    done = patient.run(DARKROOM_WORKER='{"lease_s": -1}')
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
