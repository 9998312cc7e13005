"""A worker's counters: served or not, they never stand in its way."""

from __future__ import annotations

import socket

import httpx
from structlog.testing import capture_logs

from shared.jobs.transition import Applied
from shared.settings_surface import MetricsSettings
from tests.process import free_ports
from workers import metrics


def read(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_nothing_is_served_unless_a_port_is_set() -> None:
    """The default opens no port."""
    assert MetricsSettings().worker_port == 0
    assert metrics.serve(MetricsSettings(), {}) is None


def test_a_taken_port_is_a_warning() -> None:
    """A second worker of the machine works all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as logs:
        assert metrics.serve(MetricsSettings(worker_port=taken.getsockname()[1]), {}) is None
    assert [(line["log_level"], line["event"]) for line in logs] == [("warning", "metrics_not_served")]


def test_counters_of_other_parts_are_read_when_asked_and_end_with_the_server() -> None:
    """Flower's drops stand beside the worker's own."""
    dropped = [3]
    settings = MetricsSettings(worker_port=free_ports(1)[0])
    close = metrics.serve(settings, {metrics.EVENTS_DROPPED: lambda: dropped[0]})
    assert close is not None
    url = f"http://127.0.0.1:{settings.worker_port}/metrics"
    assert "darkroom_flower_events_dropped_total 3.0" in httpx.get(url, trust_env=False).text
    dropped[0] = 5
    assert "darkroom_flower_events_dropped_total 5.0" in httpx.get(url, trust_env=False).text
    close()
    assert metrics.registry.get_sample_value("darkroom_flower_events_dropped_total") is None


def test_a_transition_is_counted_by_what_became_of_it() -> None:
    """Whichever of its changes was applied is applied; refusals have names."""
    labels = {"record": "job", "after": "tested"}
    for applied in (Applied.FIRST, Applied.SECOND, Applied.FENCED, Applied.MISSING):
        metrics.count_transition("job", "tested", applied)
    name = "darkroom_transitions_total"
    assert read(name, result="applied", **labels) == 2
    assert read(name, result="fenced", **labels) == 1
    assert read(name, result="missing", **labels) == 1


def test_a_clock_that_went_back_gives_no_negative_time() -> None:
    """Sums of histograms only grow."""
    metrics.observe(metrics.WAIT, -5.0, "lane/of-this-test")
    assert read("darkroom_wait_seconds_sum", lane="lane/of-this-test") == 0
    assert read("darkroom_wait_seconds_count", lane="lane/of-this-test") == 1
