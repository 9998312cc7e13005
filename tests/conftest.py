"""Fixtures of all tests: a sealed environment, real servers, a namespace per test, and no skips.

valkey      Valkey 9.1, one process per test worker and run     redis7     Debian's Redis 7.0, the oldest promised
s3          SeaweedFS with credentials and a bucket              state      a namespace of its own on `valkey`
each_state  the same, once on Valkey and once on Redis 7.0       folder_of_servers  where logs of servers are kept

Servers a test wants to hurt it starts itself: `with ValkeyProc(tmp_path) as server: ...` (see `tests.servers`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from shared.redis.keys import Keys
from shared.settings import BrokerSettings, RedisSettings, Settings
from tests.leaks import assert_no_orphan_keys, living
from tests.process import Proc
from tests.servers import SeaweedProc, ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import redis

REDIS7_MISSING = (
    "the tests need redis-server: Debian package redis-server (`make test` installs it when it may; "
    "else: apt-get install redis-server)"
)
LOG_LINES = 60
_log_marks = pytest.StashKey[dict[str, int]]()

# A busy machine must not fail a property: no example has a deadline.
hypothesis.settings.register_profile("darkroom", deadline=None, print_blob=True)
hypothesis.settings.load_profile("darkroom")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a parallel run that lacks a server at once: a worker process has no way to say so."""
    if config.getoption("numprocesses", None) and not shutil.which("redis-server"):
        raise pytest.UsageError(REDIS7_MISSING)
    _seal_environment()


def _seal_environment() -> None:
    """Let no setting of this machine's user reach a test, nor a process it starts."""
    for variable in list(os.environ):
        if variable.startswith(("DARKROOM_", "CELERY_", "FLOWER_")) or variable.lower().endswith("_proxy"):
            del os.environ[variable]
    nowhere = Path(tempfile.gettempdir()) / f"darkroom-tests-{os.getpid()}"
    os.environ["DARKROOM_CONFIG"] = str(nowhere / "darkroom.toml")
    os.environ["XDG_STATE_HOME"] = str(nowhere / "state")
    os.environ["DARKROOM_DEV_FILE"] = str(nowhere / "dev.toml")


# --- reports: no skips, and the logs of servers beside a failure ---------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: tests here fail or pass. ({report.longrepr})"
    if report.failed:
        marks = item.stash.get(_log_marks, {})
        for proc in Proc.alive:
            written = proc.log()[marks.get(proc.name, 0) :].splitlines()
            if written:
                report.sections.append((f"log of {proc.name}", "\n".join(written[-LOG_LINES:])))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped: tests here fail or pass. ({report.longrepr})"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_log_marks] = {proc.name: len(proc.log()) for proc in Proc.alive}


# --- servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutine tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def folder_of_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers keep data and logs; kept after a failure as pytest keeps its temporary folders."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def valkey(folder_of_servers: Path) -> Iterator[ValkeyProc]:
    """Valkey 9.1 for every test of this process. Do not hurt it: others use it."""
    with ValkeyProc(folder_of_servers / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def redis7(folder_of_servers: Path) -> Iterator[ValkeyProc]:
    """Debian's Redis 7.0 for every test of this process."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.exit(REDIS7_MISSING, returncode=pytest.ExitCode.USAGE_ERROR)
    with ValkeyProc(folder_of_servers / "redis7", name="redis7", binary=binary) as server:
        yield server


@pytest.fixture(scope="session")
def s3(folder_of_servers: Path) -> Iterator[SeaweedProc]:
    """SeaweedFS for every test of this process. `s3.settings(prefix)` suits `StorageSettings`."""
    with SeaweedProc(folder_of_servers / "seaweed") as server, pytest.MonkeyPatch.context() as patch:
        for variable, secret in server.secrets.items():
            patch.setenv(variable, secret)
        yield server


# --- a namespace per test -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """A test's own part of a state server: database 0, with the broker in database 1.

    `owned` takes patterns (relative to the namespace) of keys that the test itself leaves without a TTL.
    """

    server: ValkeyProc
    client: redis.Redis
    settings: Settings
    owned: list[str] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.settings.redis.namespace

    @property
    def keys(self) -> Keys:
        return Keys.of(self.namespace)


def _new_state(server: ValkeyProc) -> Iterator[State]:
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        redis=RedisSettings(url=server.url(0), namespace=namespace), broker=BrokerSettings(url=server.url(1))
    )
    with server.client(0) as client:
        state = State(server, client, settings)
        yield state
        assert_no_orphan_keys(client, namespace, [*living(client, state.keys), *state.owned])
        _clear(server, namespace)


def _clear(server: ValkeyProc, namespace: str) -> None:
    """Remove what the test left in both databases; the broker's keys carry the namespace too."""
    for database in (0, 1):
        with server.client(database) as client:
            for key in client.scan_iter(match=f"*{namespace}*", count=1000):
                client.delete(key)


@pytest.fixture
def state(valkey: ValkeyProc) -> Iterator[State]:
    """A namespace of its own on Valkey; the test fails if it leaves a key that nobody owns."""
    yield from _new_state(valkey)


@pytest.fixture(params=["valkey", "redis7"])
def each_state(request: pytest.FixtureRequest) -> Iterator[State]:
    """As `state`, once on Valkey 9.1 and once on Redis 7.0."""
    yield from _new_state(request.getfixturevalue(request.param))
