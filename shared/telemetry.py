"""Metrics as Prometheus takes them: what both sides declare, and how a process shows them.

A metric is declared once, in a table; docs/metrics.md is written from the tables. Labels are names of lanes, stages,
states and outcomes: sets that settings or the code bound. Never a prompt, a URL, a key or a job.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX: Final = "darkroom_"


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


class MetricsServer:
    """Serves a registry at `/metrics` from threads of its own until closed."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises ConfigurationError if it cannot."""
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            why = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise ConfigurationError(
                f"metrics cannot be served at {address}:{port} ({why}). Choose another address or port."
            ) from None

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
