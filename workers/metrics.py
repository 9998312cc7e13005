"""What one worker process counts: its own work, never the state of the store (`darkroom exporter` shows that).

Every worker counts what it did itself, so that sums over workers are true. The table names each metric; the
functions below are all that stages call. Counting happens whether or not `metrics.worker_port` is set: it costs
microseconds, and a port that turns out to be taken must not change what a worker does.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.registry import Collector

from shared.errors import ConfigurationError
from shared.telemetry import Metric, MetricsServer, family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shared.jobs.transition import Applied
    from shared.settings_surface import MetricsSettings
    from shared.telemetry import Family

log = structlog.get_logger(__name__)

_SHORT: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LONG: Final = (
    0.1,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    120.0,
    300.0,
    600.0,
    3600.0,
    86400.0,
)
_POLLS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 50.0)

SUBMITS: Final = Metric(
    "darkroom_submits_total",
    "counter",
    "Submits by what became of them: Accepted, NotSent, Throttled (429), NotExecuted, LaneBlocked, Refused, "
    "Unsendable, Ambiguous (the job is unknown).",
    ("lane", "outcome"),
)
UNKNOWNS: Final = Metric(
    "darkroom_unknowns_total",
    "counter",
    "Jobs that became unknown: by an ambiguous answer, or because a worker died after the intent.",
    ("lane",),
)
PERMITS_USED: Final = Metric(
    "darkroom_permits_used_total", "counter", "Permits taken by claims of this worker.", ("stage", "lane")
)
PERMITS_REFUSED: Final = Metric(
    "darkroom_permits_refused_total",
    "counter",
    "Claims of submits that took nothing because the lane allowed nothing, by reason: permits (rate), posts, slots, "
    "closed (after a 429), blocked, probe, frozen, cap, storage (copies fail or are overdue), lost (the state was emptied or replaced).",
    ("lane", "reason"),
)
POLLS: Final = Metric(
    "darkroom_polls_total",
    "counter",
    "Polls by what the provider said: Running, Succeeded, ProviderFailed, Missing, PollThrottled (429), PollBlocked, "
    "PollUnclear.",
    ("lane", "outcome"),
)
THROTTLED: Final = Metric(
    "darkroom_throttled_total", "counter", "Answers 429 or of the same meaning.", ("stage", "lane")
)
POLLS_PER_JOB: Final = Metric(
    "darkroom_polls_per_job",
    "histogram",
    "Polls until a generation was found done.",
    ("lane",),
    _POLLS,
)
WAIT: Final = Metric(
    "darkroom_wait_seconds",
    "histogram",
    "From enqueue to the claim whose submit was accepted.",
    ("lane",),
    _LONG,
)
SUBMIT: Final = Metric(
    "darkroom_submit_seconds", "histogram", "A POST, until its outcome.", ("lane",), _SHORT
)
GENERATE: Final = Metric(
    "darkroom_generate_seconds",
    "histogram",
    "From the recorded submit to the poll that found the generation done.",
    ("lane",),
    _LONG,
)
STORE: Final = Metric(
    "darkroom_store_seconds",
    "histogram",
    "From the poll that found the generation done to the last image stored.",
    ("lane",),
    _LONG,
)
NOTIFY: Final = Metric(
    "darkroom_notify_seconds",
    "histogram",
    "From an event to the endpoint's 2xx, failed tries included.",
    (),
    _LONG,
)
STORE_TRIES: Final = Metric(
    "darkroom_store_tries_total",
    "counter",
    "Tries to copy a job's images: stored, again (some are missing yet), failed.",
    ("outcome",),
)
DELIVERIES: Final = Metric(
    "darkroom_deliveries_total",
    "counter",
    "Tries of webhook deliveries by the state after them: delivered, pending (tried again later), exhausted, disabled.",
    ("state",),
)
TRANSITIONS: Final = Metric(
    "darkroom_transitions_total",
    "counter",
    "Transitions asked for, by record (job, delivery), the state asked for, and result: applied, fenced (somebody "
    "else decided first), missing, orphan, generation_taken.",
    ("record", "after", "result"),
)
SPOOL_FILES: Final = Metric(
    "darkroom_spool_files",
    "gauge",
    "Generation ids on this machine's disk that the state server has not taken: waiting, or unreadable and set aside. "
    "Workers that share the folder show the same.",
    ("kind",),
)
EVENTS_SENT: Final = Metric("darkroom_flower_events_sent_total", "counter", "Job events sent for Flower.")
EVENTS_DROPPED: Final = Metric(
    "darkroom_flower_events_dropped_total", "counter", "Job events dropped: Flower's list has gaps."
)
HINTS_SENT: Final = Metric("darkroom_hints_sent_total", "counter", "Hints published.")
HINTS_DROPPED: Final = Metric(
    "darkroom_hints_dropped_total",
    "counter",
    "Hints that the broker did not take; the stage ran in this process instead.",
)

TABLE: Final = (
    SUBMITS, UNKNOWNS, PERMITS_USED, PERMITS_REFUSED, THROTTLED, POLLS, POLLS_PER_JOB,
    WAIT, SUBMIT, GENERATE, STORE, NOTIFY, STORE_TRIES, DELIVERIES, TRANSITIONS, SPOOL_FILES,
)  # fmt: skip
READ_WHEN_ASKED: Final = (EVENTS_SENT, EVENTS_DROPPED, HINTS_SENT, HINTS_DROPPED)

registry: Final = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)


def _make(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return Histogram(
            metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=registry
        )
    made = Gauge if metric.kind == "gauge" else Counter
    return made(metric.name, metric.meaning, metric.labels, registry=registry)


_made: Final = {metric.name: _make(metric) for metric in TABLE}


@cache
def _child(name: str, *labels: str) -> Any:
    """Give one series. Remembered: looking it up by labels costs more than counting does."""
    made = _made[name]
    return made.labels(*labels) if labels else made


def count(metric: Metric, *labels: str, by: int = 1) -> None:
    """Count. Labels in the order of the table."""
    _child(metric.name, *labels).inc(by)


def show(metric: Metric, value: float, *labels: str) -> None:
    """Set a gauge."""
    _child(metric.name, *labels).set(value)


def observe(metric: Metric, value: float, *labels: str) -> None:
    """Observe a value of a histogram; a clock that went back gives 0."""
    _child(metric.name, *labels).observe(max(0.0, value))


def count_transition(record: str, after: str, applied: Applied) -> None:
    """Count what became of a transition."""
    count(TRANSITIONS, record, after, "applied" if applied > 0 else applied.name.lower())


class Outside(Collector):
    """Counters that other parts of the process keep, read when they are asked for."""

    def __init__(self, readers: Mapping[Metric, Callable[[], float]]) -> None:
        self._readers = readers

    def describe(self) -> Iterator[Family]:
        for metric in self._readers:
            yield family(metric)

    def collect(self) -> Iterator[Family]:
        for metric, read in self._readers.items():
            found = family(metric)
            found.add_metric((), read())
            yield found


def serve(
    settings: MetricsSettings, readers: Mapping[Metric, Callable[[], float]]
) -> Callable[[], None] | None:
    """Serve this process's metrics if settings want it, and give what ends that. A taken port is only a warning."""
    if not settings.worker_port:
        return None
    try:
        server = MetricsServer(registry, settings.address, settings.worker_port)
    except ConfigurationError as error:
        log.warning("metrics_not_served", error=str(error))
        return None
    outside = Outside(readers)
    registry.register(outside)
    log.info("metrics_served", url=server.url)

    def close() -> None:
        server.close()
        registry.unregister(outside)

    return close
