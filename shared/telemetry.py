"""Metrics as Prometheus takes them: what both sides declare, and how a process shows them.

A metric is declared once, in a table; docs/metrics.md is written from the tables. Labels are names of lanes, stages,
states and outcomes: sets that settings or the code bound. Never a prompt, a URL, a key or a job.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX: Final = "darkroom_"
ACCEPT_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A counter's name ends in `_total`, a time is in seconds, money in units of its currency."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


Family = CounterMetricFamily | GaugeMetricFamily


def family(metric: Metric) -> Family:
    """Give an empty family, for what is read when it is asked for."""
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


class _Server(ThreadingWSGIServer):
    """Takes a connection when it can; the library's would spin while no file descriptor is left for one that waits."""

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_AGAIN_S)  # the server's own thread
            raise


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        """Log nothing."""


class MetricsServer:
    """Serves a registry at `/metrics` from threads of its own until closed."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises ConfigurationError if it cannot."""
        try:
            self._server = _listen(registry, address, port)
        except OSError as error:
            why = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise ConfigurationError(
                f"metrics cannot be served at {address}:{port} ({why}). Choose another address or port."
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="darkroom-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        shown = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _listen(registry: CollectorRegistry, address: str, port: int) -> WSGIServer:
    """Listen at a name, an IPv4 or an IPv6 address. Raises OSError."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family_of, _, _, _, place = found[0]
    kind = _Server6 if family_of == socket.AF_INET6 else _Server
    return make_server(str(place[0]), port, make_wsgi_app(registry), kind, handler_class=_Quiet)
