"""`darkroom exporter`: the store for Prometheus."""

from __future__ import annotations

from typing import Annotated, Final

import typer

SOCKET_S: Final = 3.0  # Prometheus waits 10 s


def exporter(
    address: Annotated[str | None, typer.Option(help="Where it listens; by default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="By default 9109; 0 takes a free one.")
    ] = None,
) -> None:
    """Serve what the store holds as /metrics, until Ctrl-C or SIGTERM. One is enough, however many workers run."""
    import signal
    import threading

    from prometheus_client import CollectorRegistry

    from producers.exporter import StoreCollector
    from shared.redis.client import make_client
    from shared.settings import load_settings
    from shared.telemetry import MetricsServer

    settings = load_settings()
    bounded = {"socket_timeout_s": SOCKET_S, "connect_timeout_s": SOCKET_S}
    client = make_client(settings.redis.model_copy(update=bounded))
    registry = CollectorRegistry()
    registry.register(StoreCollector(client, settings))
    given = settings.metrics
    server = MetricsServer(registry, address or given.address, given.exporter_port if port is None else port)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    typer.echo(f"serving {server.url}")
    try:
        ended.wait()
    finally:
        server.close()
        client.close()
