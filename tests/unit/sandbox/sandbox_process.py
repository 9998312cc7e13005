"""Starts the sandbox as a process of its own and speaks HTTP to it; the tests use nothing else of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
KEY = "sandbox-key"
TERMINAL = {"completed", "failed", "cancelled"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sandbox", *arguments]


@dataclass
class Sandbox:
    """One running process and a client to each of its ports."""

    process: subprocess.Popen[str]
    urls: dict[str, str]
    http: httpx.Client
    sink: httpx.Client

    def submit(self, prompt: object = "a cat", *, key: str = KEY, **fields: Any) -> httpx.Response:
        body = {"model": "wan2.7-image", "prompt": prompt} | fields
        present = {name: value for name, value in body.items() if value is not ...}
        return self.post(json.dumps(present).encode(), bearer(key))

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.http.post("/v1/images/generations", content=body, headers=headers)

    def accepted(self, prompt: object = "a cat", **fields: Any) -> str:
        """Submit, and give the task id. `...` leaves a field out."""
        answer = self.submit(prompt, **fields)
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"][0]["task_id"]
        return task_id

    def poll(self, task_id: str, *, key: str = KEY) -> httpx.Response:
        return self.http.get(f"/v1/tasks/{task_id}", headers=bearer(key))

    def finished(self, task_id: str) -> dict[str, Any]:
        """Poll until the task has ended, and give it."""
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            data: dict[str, Any] = self.poll(task_id).json()["data"]
            if data["status"] in TERMINAL:
                return data
            time.sleep(0.01)
        raise AssertionError(f"{task_id} did not end")

    def image_urls(self, task_id: str) -> list[str]:
        entries = self.finished(task_id)["result"]["images"]
        return [url for entry in entries for url in _listed(entry["url"])]

    def ledger(self, **params: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/ledger", params=params).json()
        return found

    def group(self, marker: str) -> dict[str, Any]:
        """Give the ledger's group of a marker."""
        [group] = self.ledger(marker=marker)["groups"]
        return dict(group)

    def row(self, task_id: str) -> dict[str, Any]:
        """Give the ledger's line of a task."""
        rows = self.http.get("/ledger/tasks", params={"limit": "10000"}).json()["tasks"]
        [row] = [row for row in rows if row["task_id"] == task_id]
        return dict(row)

    def set(self, **settings: object) -> httpx.Response:
        return self.http.post("/control/settings", json=settings)

    def rules(self, *rules: dict[str, object]) -> httpx.Response:
        return self.http.post("/control/faults", json={"rules": list(rules)})

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/stats").json()
        return found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _listed(url: str | list[str]) -> list[str]:
    return [url] if isinstance(url, str) else url


def ended(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a sandbox that is expected to refuse its start."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Sandbox]:
    """Run `python -m sandbox ARGUMENTS` and stop it by SIGTERM in the end."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        with (
            httpx.Client(base_url=urls.get("provider", ""), trust_env=False, timeout=20) as http,
            httpx.Client(base_url=urls.get("sink", ""), trust_env=False, timeout=20) as sink,
        ):
            yield Sandbox(process, urls, http, sink)
    finally:
        process.terminate()
        process.communicate(timeout=20)
