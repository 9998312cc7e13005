"""What Prometheus gets of a running system: a live worker and a live exporter, and every name that rules look for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from producers import store_metrics
from shared.settings import RedisSettings, Settings
from tests.e2e.conftest import API_KEY, House
from tests.process import HOST, ROOT, free_ports
from tests.servers import ExporterProc
from tools.metrics_doc import declared
from workers import metrics as worker_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("metrics")]

RULES = ROOT / "deploy/prometheus/rules.yml"
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/darkroom.json"
LANE = "main/wan2.7-image"
CANARY = "kingfisher-in-no-metric"
# Words of PromQL that are no metric; `up` is Prometheus's own.
PROMQL = {
    "and", "by", "histogram_quantile", "increase", "on", "rate", "sum", "up",
}  # fmt: skip


@dataclass
class Series:
    """A page of metrics: its text, and each series by name and labels."""

    text: str
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]
    names: set[str]

    @classmethod
    def of(cls, url: str) -> Series:
        text = httpx.get(url, trust_env=False, timeout=20).raise_for_status().text
        families = list(text_string_to_metric_families(text))
        samples = [sample for each in families for sample in each.samples]
        values = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
        names = {each.name for each in samples}
        for each in families:  # what has no series yet is there by its TYPE line
            names |= {"counter": {f"{each.name}_total"}, "gauge": {each.name}}.get(each.type, set())
            if each.type == "histogram":
                names |= {f"{each.name}_{part}" for part in ("bucket", "count", "sum")}
        return cls(text, values, names)

    def __call__(self, name: str, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]


@dataclass
class Live:
    """What was shown after jobs had been done, while more were waiting."""

    worker: Series
    exporter: Series
    down: Series


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Run jobs of several ends through a worker, stop it, enqueue more; read both pages, then without a store."""
    port = free_ports(1)[0]
    with House(tmp_path_factory.mktemp("metrics")) as house:
        house.settings = house.settings.model_copy(
            update={"metrics": house.settings.metrics.model_copy(update={"worker_port": port})}
        )
        ended = {"": 8, "[[fault:429:1;times=1]]": 1, "[[fault:refuse]]": 1, "[[fault:lost_answer]]": 1}
        with ExporterProc(house.folder / "exporter", house.settings) as exporter, house.worker() as worker:
            for nr, (fault, count) in enumerate(ended.items()):
                house.enqueue(count, f"b{nr}", text=f"{CANARY} {fault}")
            url = f"http://{HOST}:{port}/metrics"
            house.until(lambda: _settled(Series.of(exporter.url)), 60, "jobs where they end")
            page = Series.of(url)
            worker.stop()
            house.enqueue(5, "waiting", text=CANARY)
            store = Series.of(exporter.url)
            house.state.kill()
            yield Live(page, store, Series.of(exporter.url))
            house.state.start()


def _settled(store: Series) -> bool:
    name = "darkroom_jobs"
    ended = (
        store(name, state="completed") == 9
        and store(name, state="failed") == 1
        and store(name, state="unknown") == 1
    )
    return ended and store("darkroom_deliveries_pending") == 0


def test_a_worker_counts_what_it_did(live: Live) -> None:
    """Outcomes, permits, polls, latencies and deliveries of eleven jobs."""
    seen = live.worker
    assert seen("darkroom_submits_total", lane=LANE, outcome="Accepted") == 9
    assert seen("darkroom_submits_total", lane=LANE, outcome="Throttled") == 1
    assert seen("darkroom_submits_total", lane=LANE, outcome="Refused") == 1
    assert seen("darkroom_submits_total", lane=LANE, outcome="Ambiguous") == 1
    assert seen("darkroom_throttled_total", stage="submit", lane=LANE) == 1
    assert seen("darkroom_unknowns_total", lane=LANE) == 1
    assert seen("darkroom_permits_used_total", stage="submit", lane=LANE) == 12
    assert seen("darkroom_polls_total", lane=LANE, outcome="Succeeded") == 9
    assert seen("darkroom_polls_per_job_count", lane=LANE) == 9
    assert seen("darkroom_polls_per_job_sum", lane=LANE) >= 9
    for stage in ("wait", "generate", "store"):
        assert seen(f"darkroom_{stage}_seconds_count", lane=LANE) == 9
        assert 0 < seen(f"darkroom_{stage}_seconds_sum", lane=LANE) < 9 * 60
    assert seen("darkroom_submit_seconds_count", lane=LANE) == 12
    assert seen("darkroom_deliveries_total", state="delivered") >= 11
    assert seen("darkroom_notify_seconds_count") == seen("darkroom_deliveries_total", state="delivered")
    assert seen("darkroom_transitions_total", record="job", after="completed", result="applied") == 9
    assert seen("darkroom_flower_events_sent_total") > 0
    assert seen("darkroom_flower_events_dropped_total") == 0
    assert seen("darkroom_hints_dropped_total") == 0


def test_the_exporter_shows_the_store(live: Live) -> None:
    """Depth, age, states, money and limits, with a queue and without a worker."""
    seen = live.exporter
    assert seen("darkroom_redis_up") == 1
    assert seen("darkroom_jobs", state="queued") == 5
    assert seen("darkroom_queue_jobs", model="wan2.7-image") == 5
    assert seen("darkroom_queue_oldest_seconds", model="wan2.7-image") >= 0
    assert seen("darkroom_workers") in (0, 1)  # its last sign of life may be a lease old
    assert seen("darkroom_unknown_jobs") == 1
    assert seen("darkroom_lane_in_flight", lane=LANE) == 1  # the unknown one keeps its slot
    assert seen("darkroom_lane_in_flight_limit", lane=LANE) == 500
    assert seen("darkroom_lane_throttled_total", lane=LANE) == 1
    assert seen("darkroom_lane_blocked", lane=LANE) == 0
    assert seen("darkroom_results_at_risk_jobs") == 0
    spent = seen("darkroom_money", kind="spent", currency="CNY")
    held = seen("darkroom_money", kind="held", currency="CNY")
    assert spent == pytest.approx(9 * 0.2)
    assert held == pytest.approx(0.2)
    used = {"scope": "account:main", "currency": "CNY"}
    for window in ("day", "month", "total"):
        assert seen("darkroom_spend_used", window=window, **used) == pytest.approx(spent + held)


def test_a_store_that_is_down_is_said_and_nothing_else(live: Live) -> None:
    """Old or zero values would look like an idle system."""
    assert live.down("darkroom_redis_up") == 0
    shown = {name for name, _labels in live.down.values if name.startswith("darkroom_")}
    assert shown == {"darkroom_redis_up", "darkroom_exporter_scrape_seconds"}


def test_no_page_quotes_a_request_or_an_address(live: Live) -> None:
    """Labels are lanes, stages, states and outcomes."""
    for page in (live.worker, live.exporter):
        assert CANARY not in page.text
        assert API_KEY not in page.text
        assert "whsec_" not in page.text
        assert "http://" not in page.text
        assert not re.search(r"\bjob_", page.text)


def test_every_metric_on_a_page_is_in_the_table(live: Live) -> None:
    """What docs/metrics.md lists is what is shown, with these labels."""
    tables = {each.name: set(each.labels) for each in declared()}
    for page in (live.worker, live.exporter):
        for name, labels in page.values:
            if not name.startswith("darkroom_") or name.endswith("_created"):
                continue
            base = name if name in tables else re.sub(r"_(bucket|count|sum)$", "", name)
            assert {key for key, _ in labels} - {"le"} == tables[base], name
    stores = {each.name for each in store_metrics.TABLE}
    works = {each.name for each in (*worker_metrics.TABLE, *worker_metrics.READ_WHEN_ASKED)}
    assert stores & works == set()


def alerts() -> list[tuple[str, str]]:
    """Give (name, expression) of every alert."""
    return re.findall(r"alert: (\w+)\n\s+expr: (.+)", RULES.read_text())


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[tuple[str, str]]:
    """Give (where, expression) of every alert and every panel."""
    return alerts() + [
        (panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", ())
    ]


def metrics_in(expression: str) -> set[str]:
    """Give the words of an expression that name metrics."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - PROMQL


def test_rules_and_dashboard_name_only_metrics_that_are_shown(live: Live) -> None:
    """Every name in every expression is on a live page, and its labels are that metric's."""
    names = live.worker.names | live.exporter.names
    found = expressions()
    assert len(found) > 30
    unknown = {where: metrics_in(text) - names for where, text in found if metrics_in(text) - names}
    assert unknown == {}
    assert all(metrics_in(text) or text.startswith("up{") for _, text in found)


def test_the_dashboard_shows_what_an_alert_is_about() -> None:
    """Whoever is called finds each metric of the alert in a panel; no panel has another's place or number."""
    shown = {
        name for panel in panels() for each in panel.get("targets", ()) for name in metrics_in(each["expr"])
    }
    unseen = {name: metrics_in(text) - shown for name, text in alerts() if metrics_in(text) - shown}
    assert unseen == {}
    spots = [
        (x, y)
        for spot in (panel["gridPos"] for panel in panels())
        for x in range(spot["x"], spot["x"] + spot["w"])
        for y in range(spot["y"], spot["y"] + spot["h"])
    ]
    assert len(spots) == len(set(spots))
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_rules_name_only_labels_that_their_metrics_have(live: Live) -> None:
    """A selector on a label that does not exist matches nothing, for ever."""
    labels: dict[str, set[str]] = {}
    for page in (live.worker, live.exporter):
        for name, pairs in page.values:
            labels.setdefault(name, set()).update(key for key, _ in pairs)
    for each in declared():
        labels.setdefault(each.name, set()).update(each.labels)
    for where, text in expressions():
        for name, selector in re.findall(r"(darkroom_\w+)\{([^}]*)\}", text):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert used <= labels[name], where


def _promtool(*args: Any) -> subprocess.CompletedProcess[str]:
    promtool = shutil.which("promtool")
    assert promtool, (
        "the tests need promtool: Debian package prometheus (`make test` installs it when it may)"
    )
    return subprocess.run([promtool, *map(str, args)], capture_output=True, text=True, check=False)


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    """Prometheus would start with both."""
    for ran in (_promtool("check", "rules", RULES), _promtool("check", "config", PROMETHEUS)):
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "rules found" in ran.stdout


def test_promtool_takes_the_pages(live: Live) -> None:
    """The linter of the exposition format has nothing to say of the names and help texts of either page."""
    promtool = shutil.which("promtool")
    assert promtool
    for page in (live.worker, live.exporter):
        ours = "".join(line + "\n" for line in page.text.splitlines() if "darkroom_" in line)
        ran = subprocess.run(
            [promtool, "check", "metrics"], input=ours, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_alerts_fire_when_they_should() -> None:
    """Promtool plays series through the rules."""
    ran = _promtool("test", "rules", ROOT / "deploy/prometheus/rules_test.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_exporter_ends_when_asked_and_refuses_a_taken_port(tmp_path: Path) -> None:
    """Its page is there without a state server; a second one on its port says so in one line, exit code 2."""
    settings = Settings(redis=RedisSettings(url=f"redis://{HOST}:{free_ports(1)[0]}/0"))
    exporter = ExporterProc(tmp_path, settings)
    with exporter:
        assert Series.of(exporter.url)("darkroom_redis_up") == 0
        port = str(httpx.URL(exporter.url).port)
        second = subprocess.run(
            [*exporter.command()[:2], "--port", port], capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stdout) == (2, "")
        assert "Choose another address or port." in second.stderr
        assert second.stderr.count("\n") == 1
        assert exporter.stop() == 0
