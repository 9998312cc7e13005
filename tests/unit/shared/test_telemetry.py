"""Serving metrics: a port that is taken, and that what is served ends."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from shared.errors import ConfigurationError
from shared.telemetry import MetricsServer


def test_a_page_is_served_until_it_is_closed() -> None:
    """Port 0 takes a free one, and the URL says which."""
    registry = CollectorRegistry()
    Gauge("darkroom_answer", "What it is.", registry=registry).set(42)
    server = MetricsServer(registry, "127.0.0.1", 0)
    assert "darkroom_answer 42.0" in httpx.get(server.url, trust_env=False).text
    server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    """It names the address and the system's word for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} \(EADDRINUSE\)\. Choose another"):
            MetricsServer(CollectorRegistry(), "127.0.0.1", port)
