"""The servers and fixtures that other tests rely on do what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import obstore
import pytest
import redis
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import S3Store
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.settings import Settings, StorageSettings, load_settings
from tests.leaks import assert_no_orphan_keys, living
from tests.process import ROOT, Proc, ServerFailed
from tests.servers import FlowerProc, SandboxProc, SeaweedProc, SinkProc, ValkeyProc, WorkerProc, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.conftest import State


class _Script(Proc):
    """A few lines of Python as a server: ready when they print `ready`."""

    ready_within_s = 2
    stop_within_s = 0.5

    def __init__(self, folder: Path, text: str) -> None:
        super().__init__("script", folder)
        self._text = text

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self._text]

    def ready(self) -> bool:
        return "ready" in self.log_of_this_start()


def test_a_killed_server_keeps_port_and_data(tmp_path: Path) -> None:
    """What was acknowledged survives SIGKILL and is found at the same URL."""
    with ValkeyProc(tmp_path, appendfsync="always") as server, server.client() as client:
        client.set("kept", "yes")
        url, pid = server.url(), server.pid
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert (server.url(), server.pid != pid) == (url, True)
        assert client.get("kept") == b"yes"


def test_a_paused_server_hangs_and_resumes(tmp_path: Path) -> None:
    """A stopped process accepts connections and answers nothing, until it is resumed."""
    with ValkeyProc(tmp_path) as server, server.client(socket_timeout=0.3) as client:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_a_password_is_demanded(tmp_path: Path) -> None:
    """With a password the URL carries it, and nobody comes in without it."""
    with ValkeyProc(tmp_path, password="open-sesame") as server:
        with server.client() as client:
            assert client.ping()
        stranger = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_the_two_state_servers_are_what_they_are_called(valkey: ValkeyProc, redis7: ValkeyProc) -> None:
    """`valkey` is Valkey 9, `redis7` is Redis 7.0; both keep an AOF and never evict."""
    with valkey.client() as client:
        assert client.info("server")["valkey_version"].startswith("9.")
    with redis7.client() as client:
        assert client.info("server")["redis_version"].startswith("7.0.")
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_object_store_is_a_real_one(s3: SeaweedProc) -> None:
    """Create-only puts, refusal of wrong keys and of strangers: what a mock would let through."""
    store = _store(s3, s3.secret_access_key)
    obstore.put(store, "a/b", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "a/b", b"second", mode="create")
    assert obstore.get(store, "a/b").bytes() == b"first"
    with pytest.raises(PermissionDeniedError):
        obstore.put(_store(s3, "another-key"), "a/b", b"third")
    assert httpx.get(f"{s3.endpoint}/{s3.bucket}/a/b", trust_env=False).status_code == 403


def _store(server: SeaweedProc, secret: str) -> S3Store:
    return S3Store(
        server.bucket, endpoint=server.endpoint, region="us-east-1", access_key_id=server.access_key_id,
        secret_access_key=secret, client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip


def test_settings_of_the_object_store_are_complete(s3: SeaweedProc) -> None:
    """`s3.settings` validates, and the secrets it refers to can be read."""
    settings = StorageSettings.model_validate(s3.settings("results"))
    assert settings.url == f"s3://{s3.bucket}/results"
    assert settings.secret_access_key is not None
    assert settings.secret_access_key.read("test").get_secret_value() == s3.secret_access_key


def test_the_sandbox_keeps_its_address_over_a_restart(tmp_path: Path) -> None:
    """Provider and sink say where they serve; a restarted one is found where it was."""
    with SandboxProc(tmp_path) as provider, SinkProc(tmp_path) as sink:
        assert provider.get("/ledger")["charged_images"] == 0
        before, pid = provider.url, provider.pid
        provider.restart()
        assert (provider.url, provider.pid != pid) == (before, True)
        assert httpx.post(sink.url, content=b"{}", trust_env=False).status_code < 500


def test_a_worker_and_flower_start_as_users_start_them(tmp_path: Path, state: State) -> None:
    """`celery -A workers.app worker` and `flower` come up on settings given by environment, and end when asked."""
    secrets = {"DARKROOM_API_KEY": "sk-tests"}
    with (
        WorkerProc(tmp_path, state.settings, env=secrets) as worker,
        FlowerProc(tmp_path, state.settings, env=secrets) as flower,
    ):
        assert httpx.get(f"{flower.url}/metrics", trust_env=False).is_success
        assert worker.cpu_s() > 0
        assert worker.stop() == 0


def test_a_server_that_ends_at_start_shows_its_log(tmp_path: Path) -> None:
    """The failure says how it ended and what it wrote."""
    with pytest.raises(ServerFailed, match=r"ended with 3 at start:\nno disk"):
        _Script(tmp_path, "print('no disk', flush=True); raise SystemExit(3)").start()


def test_a_server_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    """It does not outlive the wait for it."""
    script = _Script(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ServerFailed, match="not ready"):
        script.start()
    assert not script.running
    assert script not in Proc.alive


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """`stop` asks, waits, insists."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)"
    )
    script = _Script(tmp_path, f"{stubborn}; time.sleep(60)").start()
    assert script.stop() == -9
    assert not script.running


def test_settings_travel_to_another_process() -> None:
    """What `environment` gives is read back as equal settings."""
    given = Settings(tenant="acme", storage=StorageSettings(url="off"))
    text = "import json, sys; from shared.settings import load_settings; print(load_settings().model_dump_json())"
    ran = subprocess.run(
        [sys.executable, "-c", text],
        env=os.environ | environment(given),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert Settings.model_validate_json(ran.stdout) == given


def test_the_environment_is_sealed() -> None:
    """No setting of this machine reaches a test: all settings are the defaults."""
    assert [name for name in os.environ if name.startswith("DARKROOM_")] == [
        "DARKROOM_CONFIG", "DARKROOM_DEV_FILE",
    ]  # fmt: skip
    assert load_settings() == Settings.model_construct()


def test_a_key_without_owner_fails_the_test(state: State) -> None:
    """A TTL or an owner makes a key right; neither makes it a leak."""
    keys, client = state.keys, state.client
    client.hset(keys.job("job_1"), mapping={"state": "queued"})
    client.set(keys.spec("job_1"), "{}")
    client.set(keys.generation("task_1"), "job_1", ex=60)
    client.hset(keys.counts, "*|queued", 1)
    assert_no_orphan_keys(client, state.namespace, living(client, keys))
    client.hset(keys.job("job_1"), "state", "completed")
    with pytest.raises(AssertionError, match="2 keys have neither"):
        assert_no_orphan_keys(client, state.namespace, living(client, keys))
    client.hset(keys.job("job_1"), "accounting", "open")
    client.set(state.keys.prefix + "invented", 1)
    with pytest.raises(AssertionError, match=r"1 keys have neither.*invented"):
        assert_no_orphan_keys(client, state.namespace, living(client, keys))
    state.owned.append("inv*")


def test_two_tests_never_share_a_namespace(each_state: State, state: State) -> None:
    """Each fixture has a namespace of its own, empty at the start."""
    assert each_state.namespace != state.namespace
    assert not list(each_state.client.scan_iter(match=f"*{each_state.namespace}*"))


def test_a_skip_is_a_failure_and_logs_stand_beside_it(tmp_path: Path) -> None:
    """A skipped test fails the run, and a failed one shows what its server wrote."""
    (tmp_path / "test_sample.py").write_text(
        "import pytest\n"
        "@pytest.mark.skip(reason='too hard')\n"
        "def test_skipped(): pass\n"
        "def test_with_server(valkey): assert valkey.client().ping() is None\n"
    )
    ran = _pytest(tmp_path, env=os.environ)
    assert ran.returncode == 1
    assert "1 failed, 1 error" in ran.stdout
    assert "too hard" in ran.stdout
    assert "Ready to accept connections" in ran.stdout.partition("log of valkey")[2]


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_missing_redis_server_is_named(tmp_path: Path, processes: str) -> None:
    """Without Debian's Redis the run ends at once and says what to install."""
    (tmp_path / "test_sample.py").write_text("def test_it(redis7): pass\n")
    ran = _pytest(tmp_path, "-n", processes, env=os.environ | {"PATH": str(tmp_path)})
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "apt-get install redis-server" in ran.stdout + ran.stderr


def _pytest(folder: Path, *options: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    plugin = ["-p", "tests.conftest", f"--rootdir={folder}"]
    command = [sys.executable, "-m", "pytest", *plugin, *options, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
