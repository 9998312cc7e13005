"""The exporter's reading of the store: what a scrape costs, what it leaves out, and caps beside what was used."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from producers import Darkroom, exporter
from producers.exporter import StoreCollector
from producers.store_caps import cap_rows
from shared.jobs.enqueue import JobParams, header_json, job_arguments, new_job_ids
from shared.redis.scripts import run
from shared.settings import AccountSettings, CapSettings

if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.conftest import State

MODEL = "wan2.7-image"
LANE = f"default/{MODEL}"
DAY_MS = 86_400_000
AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, day 20454


def enqueue(state: State, count: int, tenant: str = "acme", **params: Any) -> list[str]:
    ids = list(new_job_ids(count))
    request = f'{{"model":"{MODEL}","n":1,"prompt":"a"}}'.encode()
    header = header_json(tenant, None, None, state.settings.limits)
    for start in range(0, count, 1000):
        some = ids[start : start + 1000]
        rows = [job_arguments(job_id, request, "fp", MODEL, 1, False, JobParams(**params)) for job_id in some]
        run(state.client, "enqueue_jobs", state.keys.prefix, header, *(word for row in rows for word in row))
    return ids


def scrape(state: State, settings: Settings | None = None) -> dict[tuple[str, ...], float]:
    """Give each series by its name and the values of its labels, in the order of the names of the labels."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(state.client, settings or state.settings))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


@pytest.fixture(autouse=True)
def _jobs_in_mid_life(state: State) -> None:
    state.owned.append("*")


def commands(state: State) -> int:
    info: Any = state.client.info("stats")
    return int(info["total_commands_processed"])


def test_a_scrape_costs_the_same_whatever_the_number_of_jobs(state: State) -> None:
    """With 5,000 jobs it asks as many commands as with one, and no command that goes through keys."""
    enqueue(state, 1)
    scrape(state)
    before = commands(state)
    scrape(state)
    with_one = commands(state) - before
    enqueue(state, 4999)
    before = commands(state)
    seen = scrape(state)
    assert commands(state) - before == with_one
    assert seen["darkroom_queue_jobs", MODEL] == 5000
    assert with_one < 200


def test_tenants_beyond_a_bound_are_left_out_and_said(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The depth is that of the tenants looked at; jobs by state are exact."""
    monkeypatch.setattr(exporter, "MOST_TENANTS", 3)
    for number in range(5):
        enqueue(state, 2, f"tenant{number}")
    seen = scrape(state)
    assert seen["darkroom_queue_jobs", MODEL] == 6
    assert seen["darkroom_jobs", "queued"] == 10
    assert seen["darkroom_exporter_left_out", f"tenants of {MODEL}"] == 1


def test_the_age_is_that_of_the_oldest_next_job_of_any_tenant(state: State) -> None:
    """A tenant whose turn comes late is not hidden behind a busy one."""
    (old,) = enqueue(state, 1, "late")
    enqueue(state, 3, "busy")
    created: Any = state.client.hget(state.keys.job(old), "created_at")
    state.client.hset(state.keys.job(old), "created_at", int(created) - 700_000)
    assert 700 <= scrape(state)["darkroom_queue_oldest_seconds", MODEL] < 760


def test_jobs_that_wait_for_a_time_are_beside_the_queue(state: State) -> None:
    """They are queued and not claimable."""
    enqueue(state, 2, not_before_at=2**42)
    enqueue(state, 1)
    seen = scrape(state)
    assert (seen["darkroom_queue_jobs", MODEL], seen["darkroom_queue_later_jobs", MODEL]) == (1, 2)


def test_what_is_paused_is_counted_and_not_in_the_queue(state: State) -> None:
    """A paused tenant's jobs are neither claimable nor late: nobody should be woken for them."""
    (old,) = enqueue(state, 1, "acme")
    state.client.hset(state.keys.job(old), "created_at", 1)
    (single,) = enqueue(state, 1, "other")
    enqueue(state, 2, "other")
    with Darkroom(state.settings) as darkroom:
        darkroom.pause_tenant("acme")
        darkroom.pause_jobs([single])
        darkroom.enqueue({"model": MODEL, "prompt": "a red fox"}, batch="foxes")
        darkroom.pause_batch("foxes")
    seen = scrape(state)
    assert [seen["darkroom_paused", what] for what in ("tenants", "batches", "jobs")] == [1, 1, 1]
    assert (seen["darkroom_queue_jobs", MODEL], seen["darkroom_queue_parked_tenants", MODEL]) == (3, 1)
    assert seen["darkroom_queue_oldest_seconds", MODEL] < 600


def test_the_states_of_a_lane_are_those_that_stop_its_submits(state: State) -> None:
    """Blocked, closed, breaker and capped, each while it holds."""
    now: Any = state.client.time()
    now_ms = now[0] * 1000
    quiet = scrape(state)
    state.client.hset(
        state.keys.lane(LANE),
        mapping={
            "blocked": "invalid_api_key", "closed_until": now_ms + 60_000, "ambiguous": 5, "throttled": 7,
            "capped_until": now_ms + 60_000,
        },
    )  # fmt: skip
    state.client.hset(state.keys.control, "freeze", "spending")
    seen = scrape(state)
    for name in ("lane_blocked", "lane_breaker_open", "lane_capped"):
        assert (quiet[f"darkroom_{name}", LANE], seen[f"darkroom_{name}", LANE]) == (0, 1)
    assert (quiet["darkroom_frozen",], seen["darkroom_frozen",]) == (0, 1)
    assert 50 < seen["darkroom_lane_closed_seconds", LANE] <= 60
    assert seen["darkroom_lane_throttled_total", LANE] == 7


def test_a_store_that_keeps_submits_back_is_seen(state: State) -> None:
    """While it refuses, and while copies are due for longer than they may be."""
    now: Any = state.client.time()
    name = ("darkroom_storage_stops_submits",)
    assert scrape(state)[name] == 0
    noted: Any = {"store_failing": "full", "store_failing_at": 1, "store_stopped_at": 2}
    state.client.hset(state.keys.control, mapping=noted)
    assert scrape(state)[name] == 1
    state.client.hdel(state.keys.control, *noted)
    state.client.zadd(state.keys.index("store"), {"job_slow": now[0] * 1000 - 61_000})
    assert scrape(state)[name] == 1
    state.client.zadd(state.keys.index("store"), {"job_slow": now[0] * 1000 - 50_000})
    assert scrape(state)[name] == 0


def test_posts_without_an_outcome_open_the_breaker(state: State) -> None:
    """Five that are older than 10 s, as claims judge it; younger ones are on their way."""
    now: Any = state.client.time()
    since = {f"job{number}": now[0] * 1000 - 11_000 for number in range(4)}
    state.client.zadd(state.keys.index(f"intents:{LANE}"), since | {"young": now[0] * 1000})
    seen = scrape(state)
    assert (seen["darkroom_lane_stuck_posts", LANE], seen["darkroom_lane_breaker_open", LANE]) == (4, 0)
    state.client.zadd(state.keys.index(f"intents:{LANE}"), {"old": now[0] * 1000 - 60_000})
    assert scrape(state)["darkroom_lane_breaker_open", LANE] == 1


def test_lag_is_that_of_the_first_that_is_due(state: State) -> None:
    """What is leased or due later is not late."""
    now: Any = state.client.time()
    now_ms = now[0] * 1000
    state.client.zadd(
        state.keys.index("notify"), {"a": now_ms - 30_000, "b": now_ms - 10_000, "c": now_ms + 9e6}
    )
    seen = scrape(state)
    assert seen["darkroom_stage_due", "", "notify"] == 2
    assert 30 <= seen["darkroom_stage_lag_seconds", "", "notify"] < 40
    assert seen["darkroom_stage_lag_seconds", "", "store"] == 0
    assert seen["darkroom_deliveries_pending",] == 3


def test_images_that_wait_to_be_stored_are_at_risk(state: State) -> None:
    """Their number, and the longest wait."""
    (job_id,) = enqueue(state, 1)
    now: Any = state.client.time()
    state.client.hset(state.keys.job(job_id), "generated_at", now[0] * 1000 - 7_200_000)
    state.client.zadd(state.keys.index("store"), {job_id: now[0] * 1000})
    seen = scrape(state)
    assert seen["darkroom_results_at_risk_jobs",] == 1
    assert 7200 <= seen["darkroom_results_at_risk_oldest_seconds",] < 7260


def test_caps_stand_beside_what_they_limit(state: State) -> None:
    """The counters of today, of this month and of ever, as claims count them; tenants only if a cap names them."""
    caps = (
        CapSettings(scope="tenant:acme", limit=Decimal(10), window="day"),
        CapSettings(scope="tenant:*", limit=Decimal(5), window="month"),
        CapSettings(scope="account:default", limit=Decimal(100)),
    )
    settings = state.settings.model_copy(update={"caps": caps})
    now: Any = state.client.time()
    day = now[0] * 1000 // DAY_MS
    state.client.hset(state.keys.usage, f"CNY|tenant:acme|d{day}", 2_500_000)
    state.client.hset(state.keys.usage, "CNY|account:default|t", 40_000_000)
    seen = scrape(state, settings)
    assert seen["darkroom_spend_used", "CNY", "tenant:acme", "day"] == 2.5
    assert seen["darkroom_spend_cap", "CNY", "tenant:acme", "day"] == 10
    assert seen["darkroom_spend_used", "CNY", "account:default", "total"] == 40
    assert seen["darkroom_spend_cap", "CNY", "account:default", "total"] == 100
    scopes = {key[2] for key in seen if key[0] == "darkroom_spend_cap"}
    assert scopes == {"tenant:acme", "account:default"}


def test_periods_are_named_as_the_scripts_name_them(state: State) -> None:
    """UTC's day since 1970, and year and month."""
    settings = state.settings.model_copy(update={"accounts": {"main": AccountSettings()}})
    fields = [row.field for row in cap_rows(settings, AT_MS)]
    assert fields == ["CNY|account:main|d20454", "CNY|account:main|m202601", "CNY|account:main|t"]


def test_balances_of_very_many_tenants_are_left_out_and_said(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over a part would be wrong, and look right."""
    monkeypatch.setattr(exporter, "MOST_BALANCES", 2)
    for tenant in ("a", "b", "c"):
        state.client.hset(state.keys.balances, f"CNY|held:{tenant}", 1_000_000)
    seen = scrape(state)
    assert seen["darkroom_exporter_left_out", "balances"] == 3
    assert not [key for key in seen if key[0] == "darkroom_money"]
    monkeypatch.undo()
    assert scrape(state)["darkroom_money", "CNY", "held"] == 3


def test_endpoints_that_are_late_are_shown_by_host(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many wait and fail, and how old the oldest is; what is beyond the most is said."""
    now: Any = state.client.time()
    for host, waiting, failing in (("a.test", 3, 2), ("b.test", 1, 0)):
        ages = {f"evt_{at}": now[0] * 1000 - 120_000 for at in range(waiting)}
        state.client.zadd(state.keys.endpoints, {host: waiting})
        state.client.zadd(state.keys.waiting(host), ages)
        for event_id in list(ages)[:failing]:
            state.client.zadd(state.keys.failing(host), {event_id: ages[event_id]})
    seen = scrape(state)
    assert (
        seen["darkroom_endpoint_deliveries_waiting", "a.test"],
        seen["darkroom_exporter_left_out", "endpoints"],
    ) == (3, 0)
    assert seen["darkroom_endpoint_deliveries_failing", "a.test"] == 2
    assert seen["darkroom_endpoint_deliveries_failing", "b.test"] == 0
    assert 120 <= seen["darkroom_endpoint_oldest_seconds", "b.test"] < 180
    monkeypatch.setattr(exporter, "MOST_ENDPOINTS", 1)
    seen = scrape(state)
    assert seen["darkroom_exporter_left_out", "endpoints"] == 1
    assert ("darkroom_endpoint_deliveries_waiting", "b.test") not in seen
