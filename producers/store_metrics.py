"""The table of what the exporter shows. Each is one fact of the store, so nothing is counted twice."""

from __future__ import annotations

from typing import Final

from shared.telemetry import Metric


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"darkroom_{name}", "gauge", meaning, labels)


UP: Final = _gauge(
    "redis_up", "1 if the state server answered all of this scrape; if 0, nothing else is shown."
)
SCRAPE: Final = _gauge("exporter_scrape_seconds", "How long this scrape took.")
LEFT_OUT: Final = _gauge(
    "exporter_left_out",
    "Above 0 if what grows with the number of tenants was left out: balances, tenants of a model beyond 200, or "
    "endpoints beyond 20.",
    "what",
)
JOBS: Final = _gauge(
    "jobs", "Jobs by state; of ended states all that ever ended so, not only those still on record.", "state"
)
DEPTH: Final = _gauge(
    "queue_jobs",
    "Jobs that may be claimed as soon as a lane of the model allows: not those of paused tenants.",
    "model",
)
LATER: Final = _gauge(
    "queue_later_jobs", "Queued jobs that wait for a time: not_before, or a backoff.", "model"
)
OLDEST: Final = _gauge(
    "queue_oldest_seconds", "Age of the oldest of the jobs that are next, one per tenant.", "model"
)
PARKED: Final = _gauge(
    "queue_parked_tenants", "Tenants whose queue waits, for a cap or because they are paused.", "model"
)
PAUSED_BY_HAND: Final = _gauge(
    "paused", "What somebody has paused beside lanes: tenants, batches, and jobs one by one.", "what"
)
IN_FLIGHT: Final = _gauge("lane_in_flight", "Slots in use: generations, and submits on their way.", "lane")
SLOTS_LIMIT: Final = _gauge(
    "lane_in_flight_limit", "Slots of the lane (accounts.NAME.max_in_flight).", "lane"
)
SUBMITTING: Final = _gauge("lane_submitting", "Jobs that a worker is submitting.", "lane")
POSTS_LIMIT: Final = _gauge(
    "lane_submitting_limit", "Most at once (accounts.NAME.max_outstanding_posts).", "lane"
)
POLLING: Final = _gauge("lane_polling", "Generations that are asked for.", "lane")
THROTTLED: Final = Metric(
    "darkroom_lane_throttled_total",
    "counter",
    "Submits answered 429, over all workers and for ever.",
    ("lane",),
)
AMBIGUOUS: Final = _gauge("lane_ambiguous", "Submits in a row whose outcome is unknown.", "lane")
STUCK: Final = _gauge("lane_stuck_posts", "Submits without an outcome for over 10 s.", "lane")
BREAKER: Final = _gauge(
    "lane_breaker_open", "1 while so many are ambiguous or stuck that one probe goes out at a time.", "lane"
)
BLOCKED: Final = _gauge(
    "lane_blocked",
    "1 while the provider's answer keeps submits back, such as for a wrong key or an empty account.",
    "lane",
)
PAUSED: Final = _gauge(
    "lane_paused", "1 while somebody has paused the lane's submits (`darkroom pause`).", "lane"
)
CLOSED: Final = _gauge("lane_closed_seconds", "Time until a 429's closure ends; 0 when open.", "lane")
CAPPED: Final = _gauge("lane_capped", "1 while a cap of the account stops submits.", "lane")
FROZEN: Final = _gauge("frozen", "1 while a freeze stops submits everywhere.")
STORE_STOPS: Final = _gauge(
    "storage_stops_submits",
    "1 while no image is made because copies to the object store fail, or are overdue.",
)
LOST: Final = _gauge(
    "state_lost",
    "Above 0 while workers found the store emptied or replaced, and nobody has said `darkroom freeze off` yet.",
)
NEWER: Final = _gauge(
    "newer_records", "Records of a later version that workers left alone in the last minute."
)
DUE: Final = _gauge(
    "stage_due",
    "Entries whose time has come and that no worker has taken. `lane` of sweep is its index.",
    "stage",
    "lane",
)
LAG: Final = _gauge("stage_lag_seconds", "How long the first of them has been due.", "stage", "lane")
UNKNOWN: Final = _gauge(
    "unknown_jobs", "Jobs whose submit has an unknown outcome; a person may have to decide."
)
ORPHANS: Final = _gauge("orphan_generations", "Generations that no job claims: paid for, and nobody's.")
STORING: Final = _gauge("results_at_risk_jobs", "Jobs whose images are paid for and not stored yet.")
STORING_AGE: Final = _gauge(
    "results_at_risk_oldest_seconds",
    "Longest wait among the 100 of them that are due first. The provider deletes images after 24 h.",
)
DELIVERIES: Final = _gauge("deliveries_pending", "Webhook events that are not delivered and not given up.")
ENDPOINT_WAITING: Final = _gauge(
    "endpoint_deliveries_waiting",
    "Deliveries that wait for another try, of the 20 endpoints with the most; a first success is never here.",
    "host",
)
ENDPOINT_FAILING: Final = _gauge(
    "endpoint_deliveries_failing", "Those of them that were tried and failed.", "host"
)
ENDPOINT_OLDEST: Final = _gauge("endpoint_oldest_seconds", "Age of the oldest of them.", "host")
OPEN_BATCHES: Final = _gauge("open_batches", "Batches that are not sealed.")
MONEY: Final = _gauge("money", "Running sums of the ledger: spent, held, doubt.", "kind", "currency")
ENTRIES: Final = _gauge(
    "ledger_entries", "Entries of the ledger in the state server; closed days have left it."
)
LEDGER_AGE: Final = _gauge(
    "ledger_oldest_seconds",
    "Age of the oldest of them. Beyond 35 days nobody runs `darkroom ledger close`, and the server fills.",
)
USED: Final = _gauge(
    "spend_used",
    "Spent and held of accounts, and of tenants that a cap names, in this day, month or ever (UTC).",
    "scope",
    "window",
    "currency",
)
CAP: Final = _gauge("spend_cap", "The cap on the same.", "scope", "window", "currency")
WORKERS: Final = _gauge("workers", "Worker processes that showed a sign of life within a lease.")
MEMORY: Final = _gauge("redis_memory_bytes", "Memory in use by the state server.")
MEMORY_LIMIT: Final = _gauge("redis_memory_limit_bytes", "Its maxmemory; 0 if there is none.")

TABLE: Final = (
    UP, SCRAPE, LEFT_OUT, JOBS, DEPTH, LATER, OLDEST, PARKED, PAUSED_BY_HAND, IN_FLIGHT, SLOTS_LIMIT, SUBMITTING, POSTS_LIMIT,
    POLLING, THROTTLED, AMBIGUOUS, STUCK, BREAKER, BLOCKED, PAUSED, CLOSED, CAPPED, FROZEN, STORE_STOPS, LOST, NEWER, DUE, LAG, UNKNOWN, ORPHANS, STORING,
    STORING_AGE, DELIVERIES, ENDPOINT_WAITING, ENDPOINT_FAILING, ENDPOINT_OLDEST, OPEN_BATCHES, MONEY, ENTRIES, LEDGER_AGE, USED, CAP, WORKERS, MEMORY, MEMORY_LIMIT,
)  # fmt: skip
