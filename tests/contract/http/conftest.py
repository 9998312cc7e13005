"""The clients under contract, and a certificate for `localhost` that only they trust who are told to."""

from __future__ import annotations

import asyncio
import shlex
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import httpx
import pytest
import uvloop

from workers.http import HttpClient, HttpxClient, PyreqwestClient

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

T = TypeVar("T")


@dataclass(frozen=True)
class Flavour:
    """One implementation in one manner of using connections."""

    kind: Literal["pyreqwest", "httpx"]
    fresh: bool
    loop: Literal["uvloop", "asyncio"] = "uvloop"  # workers run on uvloop, whose errors are its own

    def make(self, connect_timeout_s: float = 5, trusted: Path | None = None) -> HttpClient:
        if self.kind == "pyreqwest":
            ca_pem = trusted.read_bytes() if trusted else None
            return PyreqwestClient(fresh=self.fresh, connect_timeout_s=connect_timeout_s, ca_pem=ca_pem)
        transport = None
        if trusted:
            verify = ssl.create_default_context(cafile=str(trusted))
            transport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False)
        return HttpxClient(transport, fresh=self.fresh, connect_timeout_s=connect_timeout_s)

    def run(self, main: Coroutine[object, object, T]) -> T:
        factory = uvloop.new_event_loop if self.loop == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    def __str__(self) -> str:
        return f"{self.kind}-{'fresh' if self.fresh else 'pooled'}-{self.loop}"


FRESH = [
    Flavour("pyreqwest", fresh=True),
    Flavour("httpx", fresh=True),
    Flavour("pyreqwest", fresh=True, loop="asyncio"),
    Flavour("httpx", fresh=True, loop="asyncio"),
]
POOLED = [Flavour("pyreqwest", fresh=False), Flavour("httpx", fresh=False)]


@pytest.fixture(params=FRESH + POOLED, ids=str)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    assert isinstance(request.param, Flavour)
    return request.param


@pytest.fixture(params=FRESH, ids=str)
def fresh(request: pytest.FixtureRequest) -> Flavour:
    assert isinstance(request.param, Flavour)
    return request.param


@pytest.fixture(params=POOLED, ids=str)
def pooled(request: pytest.FixtureRequest) -> Flavour:
    assert isinstance(request.param, Flavour)
    return request.param


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file with key and self-signed certificate for `localhost`."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
            " -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
            " -keyout key.pem -out cert.pem"
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context
