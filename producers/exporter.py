"""What `darkroom exporter` shows: the store, once for the whole system, read when Prometheus asks.

A scrape is three pipelines of a few commands per lane and model, whatever the number of jobs: sizes of indexes, heads
of queues, and samples of at most SAMPLE entries. What would grow with the number of tenants is bounded, and what was
left out for that is itself a metric (`darkroom_exporter_left_out`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from producers import store_metrics as m
from producers.parties import MOST_ENDPOINTS
from producers.store_caps import CapRow, cap_rows
from producers.store_trouble import FIELDS as STORE_FIELDS
from producers.store_trouble import parse_store_trouble
from shared.jobs.commands import PAUSED
from shared.jobs.lifecycle import JobState
from shared.money.entry import entry_order
from shared.redis.keys import Keys
from shared.telemetry import family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis

    from shared.settings import AccountSettings, Settings
    from shared.telemetry import Family, Metric

SAMPLE: Final = 100  # entries of an index whose age is looked at
MOST_TENANTS: Final = 200  # per model; the heads of their queues are looked at
MOST_BALANCES: Final = 5000  # fields of the hash of balances, about 3 per tenant
STUCK_MS: Final = 10_000  # as claims of workers have it
_SWEPT: Final = ("expiring", "resubmit", "batches", "stalling", "stopping", "told")
_MONEY: Final = ("spent", "held", "doubt")


@dataclass(slots=True)
class Asked:
    """A pipeline whose replies go to who asked for them."""

    pipe: Any
    takers: list[Callable[[Any], None]] = field(default_factory=list)

    def ask(self, command: str, *args: Any, then: Callable[[Any], None], **options: Any) -> None:
        getattr(self.pipe, command)(*args, **options)
        self.takers.append(then)

    def run(self) -> None:
        """Send it. Raises RedisError or OSError."""
        for take, reply in zip(self.takers, self.pipe.execute(), strict=True):
            take(reply)


class Shown:
    """The families of one scrape."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {metric.name: family(metric) for metric in m.TABLE}

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self.families[metric.name].add_metric(labels, value)


class StoreCollector(Collector):
    """Reads the store at every scrape. A store that does not answer is `darkroom_redis_up` 0, and nothing else."""

    def __init__(self, client: Redis, settings: Settings) -> None:
        self._client, self._settings = client, settings
        self._keys = Keys.of(settings.redis.namespace)

    def describe(self) -> Iterator[Family]:
        yield from Shown().families.values()

    def collect(self) -> Iterator[Family]:
        started, shown = time.perf_counter(), Shown()
        try:
            Scrape(self._client, self._keys, self._settings, shown).run()
        except (RedisError, OSError):
            shown = Shown()
            shown.set(m.UP, 0)
        else:
            shown.set(m.UP, 1)
        shown.set(m.SCRAPE, time.perf_counter() - started)
        yield from shown.families.values()


class Scrape:
    """One reading of the store."""

    def __init__(self, client: Redis, keys: Keys, settings: Settings, shown: Shown) -> None:
        self._client, self._keys, self._settings = client, keys, settings
        self._set = shown.set
        self._now_ms = 0
        self._tenants: dict[str, list[str]] = {model: [] for model in sorted(settings.models)}
        self._heads: dict[str, list[str]] = {}
        self._storing: list[str] = []
        self._hosts: list[str] = []
        self._ambiguous: dict[str, float] = {}
        self._balances = 0

    def run(self) -> None:
        """Read it all: what is there, what that refers to, and how old that is."""
        self._trip(
            self._ask_clock,
            self._ask_counts,
            self._ask_lanes,
            self._ask_models,
            self._ask_server,
            self._ask_hosts,
        )
        self._trip(
            self._ask_stages,
            self._ask_queues,
            self._ask_ledger,
            self._ask_money,
            self._ask_caps,
            self._ask_endpoints,
        )
        self._trip(self._ask_ages)

    def _trip(self, *parts: Callable[[Asked], None]) -> None:
        asked = Asked(self._client.pipeline(transaction=False))
        for part in parts:
            part(asked)
        asked.run()

    # --- the first trip ---

    def _ask_clock(self, asked: Asked) -> None:
        def take(reply: Sequence[int]) -> None:
            self._now_ms = reply[0] * 1000 + reply[1] // 1000

        asked.ask("time", then=take)

    def _ask_counts(self, asked: Asked) -> None:
        keys = self._keys

        def counts(reply: Sequence[bytes | None]) -> None:
            for state, found in zip(JobState, reply, strict=True):
                self._set(m.JOBS, max(0, int(found or 0)), state)

        def workers(reply: Sequence[tuple[bytes, float]]) -> None:
            since = self._now_ms - 1000 * self._settings.worker.lease_s
            self._set(m.WORKERS, sum(seen_at >= since for _, seen_at in reply))

        def storing(reply: Sequence[bytes]) -> None:
            self._storing = [job_id.decode() for job_id in reply]

        def balances(reply: int) -> None:
            self._balances = reply
            self._set(m.LEFT_OUT, reply if reply > MOST_BALANCES else 0, "balances")

        def paused(reply: Sequence[bytes]) -> None:
            self._set(m.PAUSED_BY_HAND, sum(name.startswith(b"t|") for name in reply), "tenants")
            self._set(m.PAUSED_BY_HAND, sum(name.startswith(b"b|") for name in reply), "batches")

        asked.ask("hmget", keys.counts, [f"*|{state}" for state in JobState], then=counts)
        asked.ask("hkeys", keys.paused, then=paused)
        jobs = keys.index(PAUSED)
        asked.ask("zcard", jobs, then=lambda reply: self._set(m.PAUSED_BY_HAND, reply, "jobs"))
        asked.ask("zrange", keys.workers, 0, -1, withscores=True, then=workers)
        asked.ask("zcard", keys.index("unknown"), then=lambda reply: self._set(m.UNKNOWN, reply))
        asked.ask("hlen", keys.orphans, then=lambda reply: self._set(m.ORPHANS, reply))
        asked.ask("zcard", keys.index("batches"), then=lambda reply: self._set(m.OPEN_BATCHES, reply))
        asked.ask("zcard", keys.index("notify"), then=lambda reply: self._set(m.DELIVERIES, reply))
        asked.ask("hget", keys.control, "freeze", then=lambda reply: self._set(m.FROZEN, reply is not None))
        asked.ask("hvals", keys.losses, then=lambda reply: self._set(m.LOST, reply.count(b"open")))
        asked.ask("zcard", keys.index("newer"), then=lambda reply: self._set(m.NEWER, reply))
        asked.ask("zcard", keys.index("store"), then=lambda reply: self._set(m.STORING, reply))
        asked.ask("zrange", keys.index("store"), 0, SAMPLE - 1, then=storing)
        self._ask_store_trouble(asked)
        asked.ask("hlen", keys.balances, then=balances)

    def _ask_store_trouble(self, asked: Asked) -> None:
        """Ask whether the object store keeps submits back."""
        noted: list[bytes | None] = []
        lag_ms = int(self._settings.worker.store_trouble_s * 1000)

        def first(reply: Sequence[tuple[bytes, float]]) -> None:
            trouble = parse_store_trouble(noted, reply, self._now_ms, lag_ms)
            self._set(m.STORE_STOPS, trouble is not None)

        asked.ask("hmget", self._keys.control, STORE_FIELDS, then=noted.extend)
        asked.ask("zrange", self._keys.index("store"), 0, 0, withscores=True, then=first)

    def _ask_lanes(self, asked: Asked) -> None:
        for name, account in self._settings.accounts.items():
            for model in account.models:
                self._ask_lane(asked, f"{name}/{model}", account)

    def _ask_lane(self, asked: Asked, lane: str, account: AccountSettings) -> None:
        keys = self._keys

        def record(reply: dict[bytes, bytes]) -> None:
            self._set_lane(lane, {name.decode(): value.decode() for name, value in reply.items()})

        self._set(m.SLOTS_LIMIT, account.max_in_flight, lane)
        self._set(m.POSTS_LIMIT, account.max_outstanding_posts, lane)
        asked.ask("zcard", keys.slots(lane), then=lambda reply: self._set(m.IN_FLIGHT, reply, lane))
        held = keys.index(f"submit:{lane}")
        asked.ask("zcard", held, then=lambda reply: self._set(m.SUBMITTING, reply, lane))
        polled = keys.index(f"poll:{lane}")
        asked.ask("zcard", polled, then=lambda reply: self._set(m.POLLING, reply, lane))
        asked.ask("hgetall", keys.lane(lane), then=record)

    def _set_lane(self, lane: str, record: dict[str, str]) -> None:
        def at(name: str) -> float:
            return float(record.get(name) or 0)

        ambiguous = at("ambiguous")
        self._set(m.THROTTLED, at("throttled"), lane)
        self._set(m.AMBIGUOUS, ambiguous, lane)
        self._ambiguous[lane] = ambiguous
        self._set(m.BLOCKED, "blocked" in record, lane)
        self._set(m.PAUSED, "paused_at" in record, lane)
        self._set(m.CLOSED, max(0.0, at("closed_until") - self._now_ms) / 1000, lane)
        self._set(m.CAPPED, at("capped_until") > self._now_ms, lane)

    def _ask_models(self, asked: Asked) -> None:
        for model in self._tenants:
            self._ask_model(asked, model)

    def _ask_model(self, asked: Asked, model: str) -> None:
        keys = self._keys

        def tenants(reply: Sequence[bytes]) -> None:
            room = MOST_TENANTS - len(self._tenants[model])
            self._tenants[model] += [tenant.decode() for tenant in reply[:room]]

        asked.ask("zrange", keys.ready(model), 0, MOST_TENANTS - 1, then=tenants)

        def parked_tenants(reply: Sequence[tuple[bytes, float]]) -> None:
            tenants(
                [tenant for tenant, until_ms in reply if until_ms != math.inf]
            )  # paused: until somebody resumes

        parked = keys.index(f"parked:{model}")
        asked.ask("zrange", parked, 0, MOST_TENANTS - 1, withscores=True, then=parked_tenants)
        asked.ask("zcard", parked, then=lambda reply: self._set(m.PARKED, reply, model))

    def _ask_server(self, asked: Asked) -> None:
        def memory(reply: dict[str, Any]) -> None:
            self._set(m.MEMORY, float(reply.get("used_memory", 0)))
            self._set(m.MEMORY_LIMIT, float(reply.get("maxmemory", 0)))

        asked.ask("info", "memory", then=memory)

    def _ask_hosts(self, asked: Asked) -> None:
        def hosts(reply: Sequence[bytes]) -> None:
            self._hosts = [host.decode() for host in reply]

        def count(reply: int) -> None:
            self._set(m.LEFT_OUT, max(0, reply - MOST_ENDPOINTS), "endpoints")

        asked.ask("zrevrange", self._keys.endpoints, 0, MOST_ENDPOINTS - 1, then=hosts)
        asked.ask("zcard", self._keys.endpoints, then=count)

    # --- the second trip ---

    def _ask_stages(self, asked: Asked) -> None:
        """Ask what is overdue: what is leased is not due, since its score is the end of the lease."""
        lanes = [f"{name}/{model}" for name, each in self._settings.accounts.items() for model in each.models]
        for lane in lanes:
            self._ask_stage(asked, "poll", lane, f"poll:{lane}")
            self._ask_breaker(asked, lane)
        for stage in ("store", "notify"):
            self._ask_stage(asked, stage, "", stage)
        for index in _SWEPT:
            self._ask_stage(asked, "sweep", index, index)

    def _ask_breaker(self, asked: Asked, lane: str) -> None:
        """Ask for POSTs without an answer. As in `lane_gate.lua`, either kind of doubt opens the breaker."""

        def take(stuck: int) -> None:
            opens_at = self._settings.worker.breaker_ambiguous
            self._set(m.STUCK, stuck, lane)
            self._set(m.BREAKER, max(stuck, self._ambiguous[lane]) >= opens_at, lane)

        asked.ask("zcount", self._keys.index(f"intents:{lane}"), "-inf", self._now_ms - STUCK_MS, then=take)

    def _ask_stage(self, asked: Asked, stage: str, lane: str, index: str) -> None:
        def first(reply: Sequence[tuple[bytes, float]]) -> None:
            lag_s = max(0.0, self._now_ms - reply[0][1]) / 1000 if reply else 0.0
            self._set(m.LAG, lag_s, stage, lane)

        key = self._keys.index(index)
        asked.ask("zrange", key, 0, 0, withscores=True, then=first)
        asked.ask("zcount", key, "-inf", self._now_ms, then=lambda due: self._set(m.DUE, due, stage, lane))

    def _ask_endpoints(self, asked: Asked) -> None:
        for host in self._hosts:
            self._ask_endpoint(asked, host)

    def _ask_endpoint(self, asked: Asked, host: str) -> None:
        def oldest(reply: Sequence[tuple[bytes, float]]) -> None:
            age_s = max(0.0, self._now_ms - reply[0][1]) / 1000 if reply else 0.0
            self._set(m.ENDPOINT_OLDEST, age_s, host)

        waiting, failing = self._keys.waiting(host), self._keys.failing(host)
        asked.ask("zcard", waiting, then=lambda reply: self._set(m.ENDPOINT_WAITING, reply, host))
        asked.ask("zcard", failing, then=lambda reply: self._set(m.ENDPOINT_FAILING, reply, host))
        asked.ask("zrange", waiting, 0, 0, withscores=True, then=oldest)

    def _ask_queues(self, asked: Asked) -> None:
        """Ask how long each queue is, and which job is next in it."""
        keys = self._keys

        def head(heads: list[str]) -> Callable[[Sequence[bytes]], None]:
            return lambda reply: heads.extend(job_id.decode() for job_id in reply)

        for model, tenants in self._tenants.items():
            depths: list[int] = [0]
            heads = self._heads[model] = []
            for tenant in tenants:
                asked.ask("zcard", keys.queue(model, tenant), then=depths.append)
                asked.ask("zrange", keys.queue(model, tenant), 0, 0, then=head(heads))
            later = keys.index(f"later:{model}")
            asked.ask("zcard", later, then=self._sum_up(model, depths))

    def _sum_up(self, model: str, depths: list[int]) -> Callable[[int], None]:
        def take(later: int) -> None:
            self._set(m.DEPTH, sum(depths), model)
            self._set(m.LATER, later, model)
            self._set(m.LEFT_OUT, len(depths) - 1 >= MOST_TENANTS, f"tenants of {model}")

        return take

    def _ask_ledger(self, asked: Asked) -> None:
        def oldest(reply: Sequence[tuple[bytes, Any]]) -> None:
            since_ms = entry_order(reply[0][0].decode())[0] if reply else self._now_ms
            self._set(m.LEDGER_AGE, max(0, self._now_ms - since_ms) / 1000)

        asked.ask("xlen", self._keys.ledger, then=lambda reply: self._set(m.ENTRIES, reply))
        asked.ask("xrange", self._keys.ledger, count=1, then=oldest)

    def _ask_money(self, asked: Asked) -> None:
        if self._balances > MOST_BALANCES:
            return

        def take(reply: dict[bytes, bytes]) -> None:
            sums: dict[tuple[str, str], int] = {}
            for name, amount in reply.items():
                currency, _, account = name.decode().partition("|")
                where = (account.partition(":")[0], currency)
                sums[where] = sums.get(where, 0) + int(amount)
            for (kind, currency), micros in sorted(sums.items()):
                if kind in _MONEY:
                    self._set(m.MONEY, micros / 1e6, kind, currency)

        asked.ask("hgetall", self._keys.balances, then=take)

    def _ask_caps(self, asked: Asked) -> None:
        rows = cap_rows(self._settings, self._now_ms)
        if not rows:
            return

        def take(reply: Sequence[bytes | None]) -> None:
            for row, used in zip(rows, reply, strict=True):
                self._set_cap(row, int(used or 0))

        asked.ask("hmget", self._keys.usage, [row.field for row in rows], then=take)

    def _set_cap(self, row: CapRow, used_micros: int) -> None:
        self._set(m.USED, used_micros / 1e6, row.scope, row.window, row.currency)
        if row.limit_micros is not None:
            self._set(m.CAP, row.limit_micros / 1e6, row.scope, row.window, row.currency)

    # --- the third trip ---

    def _ask_ages(self, asked: Asked) -> None:
        """Ask how old the jobs are that are next, and how long images of a sample wait to be stored."""
        for model, heads in self._heads.items():
            self._ask_oldest(asked, heads, "created_at", m.OLDEST, model)
        self._ask_oldest(asked, self._storing, "generated_at", m.STORING_AGE)

    def _ask_oldest(
        self, asked: Asked, job_ids: Sequence[str], since: str, metric: Metric, *labels: str
    ) -> None:
        ages = [0.0]

        def take(at_ms: bytes | None) -> None:
            if at_ms is not None:
                ages.append(max(0.0, self._now_ms - float(at_ms)) / 1000)

        for job_id in job_ids:
            asked.ask("hget", self._keys.job(job_id), since, then=take)
        asked.ask("echo", "", then=lambda _reply: self._set(metric, max(ages), *labels))
