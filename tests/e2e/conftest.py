"""A whole Darkroom of real processes for one test: state, broker, provider, sink, workers, object store."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest

from producers.client import Darkroom
from shared.settings import (
    AccountSettings,
    PollSettings,
    RetrySettings,
    Settings,
    StorageSettings,
    WebhookSettings,
    WorkerSettings,
)
from shared.settings_section import SecretReference
from tests.servers import SandboxProc, SinkProc, ValkeyProc, WorkerProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

API_KEY = "sk-canary-of-the-tests"


@dataclass
class House:
    """The processes and the client. Parts that a test wants to hurt are its own."""

    folder: Path
    sandbox_args: tuple[str, ...] = ("--latency-sigma", "0", "--latency-scale", "off", "--image-px", "48")
    latency_s: float = 0.3
    password: str | None = None  # of state server and broker
    state_binary: str | None = None  # of the state server; None: Valkey
    state_options: dict[str, str] = field(default_factory=dict)
    workers: list[WorkerProc] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        enter = self._stack.enter_context
        self.state = enter(
            ValkeyProc(
                self.folder / "state", binary=self.state_binary, password=self.password, **self.state_options
            )
        )
        self.broker = enter(ValkeyProc(self.folder / "broker", name="broker", password=self.password))
        self.provider = enter(
            SandboxProc(
                self.folder / "provider", *self.sandbox_args, api_key=API_KEY, latency_s=self.latency_s
            )
        )
        self.sink = enter(SinkProc(self.folder / "sink"))
        self.key_file = self._secret("api-key", API_KEY)
        self.settings = self._settings(self._secret("webhook-secret", self.sink.secret))
        self.darkroom = enter(Darkroom(self.settings))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _secret(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _settings(self, webhook_secret: Path) -> Settings:
        base = Settings()
        account = AccountSettings(
            base_url=self.provider.url + "/v1",
            api_key=SecretReference(file=self.key_file),
            submit_per_s=0,
            poll_per_s=0,
            max_in_flight=500,
        )
        return base.model_copy(
            update={
                "redis": base.redis.model_copy(update={"url": self.state.url(0)}),
                "broker": base.broker.model_copy(update={"url": self.broker.url(0)}),
                "accounts": {"main": account},
                "storage": StorageSettings(url=f"file://{self.folder / 'artifacts'}", temp_dir=self.folder / "tmp"),
                "webhooks": WebhookSettings(
                    secret=SecretReference(file=webhook_secret), allow_private=True, allow_http=True,
                    schedule_s=(0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1),
                ),
                "poll": PollSettings(first_s=0.3, fast_s=0.3),
                "retry": RetrySettings(base_s=0.2, cap_s=1),
                "worker": WorkerSettings(submit_timeout_s=20, shutdown_s=5),
            }
        )  # fmt: skip

    def worker(self, name: str = "w1", **env: str) -> WorkerProc:
        """Start one more worker."""
        proc = WorkerProc(self.folder / name, self.settings, name=name, env=env)
        self.workers.append(self._stack.enter_context(proc))
        return proc

    def requests(self, count: int, marker: str = "p", text: str = "") -> list[dict[str, Any]]:
        return [
            {"model": "wan2.7-image", "prompt": f"{text} [[m:{marker}-{at}]]", "size": "1K"}
            for at in range(count)
        ]

    def enqueue(self, count: int, batch: str = "b", **more: Any) -> None:
        receipt = self.darkroom.enqueue_many(
            self.requests(count, batch, **more), batch=batch, webhook=f"{self.sink.url}/ok"
        )
        assert receipt.enqueued == count

    def counts(self, batch: str = "b") -> dict[str, int]:
        return {state: number for state, number in self.darkroom.batch(batch).counts.items() if number}

    def ledger(self) -> dict[str, Any]:
        ledger: dict[str, Any] = self.provider.get("/ledger")
        return ledger

    def charged_twice(self) -> list[str]:
        """Markers that the provider charged more often than once: must be empty, always."""
        return [group["marker"] for group in self.ledger()["groups"] if group["charged_images"] > 1]

    def until(self, true: Callable[[], bool], within_s: float, what: str) -> float:
        """Wait for something; give how long it took."""
        started = time.monotonic()
        while not true():
            if time.monotonic() - started > within_s:
                pytest.fail(f"not within {within_s} s: {what}; batch: {self.counts()}")
            time.sleep(0.1)
        return time.monotonic() - started


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Everything but a worker, which the test starts when it wants one."""
    with House(tmp_path) as parts:
        yield parts
