"""The real scripts against a model in plain Python, under any order of claims, answers, deaths, clocks and outages.

Hypothesis chooses the steps; after each one the whole store is compared with the model: places, leases, slots, money,
counts, batches, events. What a step's script answers (applied, fenced, orphan) is compared, too. A failure prints the
steps, and `print_blob` the line that replays them.
"""

from __future__ import annotations

import copy
import os
import shutil
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import OutOfMemoryError

from shared.errors import TransitionRefused
from shared.jobs import commands
from shared.jobs.transition import Transition, context_json
from shared.redis.keys import Keys
from shared.settings import LimitSettings
from tests.integration.lua.conftest import LANE
from tests.integration.lua.machine import plans
from tests.integration.lua.machine.model import LEASE_MS, PRICE, RESUBMIT_MS, Model
from tests.integration.lua.machine.world import AofFile, World, read
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workers.claims import Entry

TENANTS, BATCHES = ("acme", "zoo"), (None, "b1", "b2")
HOOK = "default"
NEVER = 1_000_000  # a breaker that does not open: it has tests of its own
# A number explores, in another order each time; without one the same orders are run every time.
EXAMPLES, STEPS = int(os.environ.get("MACHINE_EXAMPLES", "0")), 60

RARELY = st.sampled_from([False] * 4 + [True])
Apply = tuple[Transition, "Callable[[], int]"]


class Machine(RuleBasedStateMachine):
    """Producers, workers that hold claims and may be late, an operator, a clock, and a server that is hurt."""

    server: ClassVar[ValkeyProc]

    held = Bundle("held")  # claims of the submit stage, in the hands of some worker
    posts = Bundle("posts")  # (entry, intent id): a POST is under way
    polls = Bundle("polls")
    stores = Bundle("stores")
    sent = Bundle("sent")  # transitions, and what the model says of each: they may come again

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client()
        self.world = World(self.client, Keys.of("machine"))
        self.model = Model()
        self.aof = AofFile(self.server)
        self.full = False
        self.serial = 0
        self.power_losses = 0
        self.snapshots: list[tuple[int, Model, int]] = []
        self.claims: list[Entry] = []  # all that were ever handed over: some holders renew late

    @initialize()
    def empty(self) -> None:
        self.client.flushall()
        self.client.config_set("maxmemory", 0)

    def teardown(self) -> None:
        self.client.config_set("maxmemory", 0)
        self.client.close()

    def _next(self, kind: str) -> str:
        self.serial += 1
        return f"{kind}{self.serial}"

    def _apply(self, transition: Transition, expected: Callable[[], int]) -> Apply:
        got = int(self.world.apply(transition)[0])
        assert got == (said := expected()), f"{transition}: the script says {got}, the model {said}"
        return transition, expected

    @property
    def now(self) -> int:
        return self.world.now_ms

    # --- producers ---

    @rule(
        tenant=st.sampled_from(TENANTS),
        batch=st.sampled_from(BATCHES),
        count=st.integers(1, 3),
        n=st.integers(1, 2),
    )
    def enqueue(self, tenant: str, batch: str | None, count: int, n: int) -> None:
        """A chunk is accepted whole, or refused whole."""
        hook = HOOK if batch else None
        ids = [f"job_{self._next(''):0>26}" for _ in range(count)]  # a replay has the same
        if self.full:
            with pytest.raises(OutOfMemoryError):
                self.world.try_enqueue(count, tenant=tenant, batch=batch, n=n, webhook=hook, ids=ids)
            return
        _, replies = self.world.try_enqueue(count, tenant=tenant, batch=batch, n=n, webhook=hook, ids=ids)
        sealed = (tenant, batch) in self.model.sealed
        assert replies == [5 if sealed else 0] * count
        for job_id in ids if not sealed else ():
            self.model.enqueue(job_id, tenant, batch, n)

    @rule(tenant=st.sampled_from(TENANTS), batch=st.sampled_from(BATCHES[1:]))
    def seal(self, tenant: str, batch: str) -> None:
        exists = bool(self.model.members(tenant, batch))
        once = exists and (tenant, batch) not in self.model.sealed
        got = self.world.call("close_batch", context_json(LimitSettings()), tenant, batch, "seal")
        assert got == (int(once) if exists else -1)
        if exists:
            self.model.sealed.add((tenant, batch))

    # --- submit ---

    @rule(target=held, k=st.integers(1, 4))
    def claim_submit(self, k: int) -> Any:
        return multiple(*self._claim_submit(k))

    def _claim_submit(self, k: int) -> list[Entry]:
        """What is handed over was queued, or had a lease that ended; while something waits, something comes."""
        eligible = self._eligible()
        ended = [job for job in self.model.jobs.values() if job.index == "submit" and job.due <= self.now]
        _, _, rows = self.world.claim_submit(k, breaker=NEVER)
        self.model.slots_end(self.now)
        for row in rows:
            took = self.model.taken_over if row["expired"] else self.model.claimed
            took(row["id"], int(row["epoch"]), self.now)
        assert sum(bool(row["expired"]) for row in rows) == min(k, len(ended))
        fresh = sum(not row["expired"] for row in rows)
        assert fresh <= min(k, eligible)
        assert fresh > 0 or self._may_be_idle(eligible), "jobs wait, and none was handed over"
        return self._taken(rows, f"submit:{LANE}")

    def _taken(self, rows: list[dict[str, Any]], index: str) -> list[Entry]:
        entries = [plans.entry_of(row, index, self.now) for row in rows]
        self.claims += entries
        return entries

    def _eligible(self) -> int:
        waiting = sum(job.state == "queued" for job in self.model.jobs.values())
        return waiting - sum(due > self.now for due in self.world.index("later:wan2.7-image").values())

    def _may_be_idle(self, eligible: int) -> bool:
        suspects = (job.suspect for job in self.model.jobs.values() if job.state == "queued")
        return not eligible or all(suspects)

    @rule(target=posts, entry=consumes(held), dies=RARELY)
    def intend(self, entry: Entry, dies: bool) -> Any:
        """Whoever holds the claim writes the intent and POSTs; or, taking over from a dead one, decides; or dies."""
        return multiple() if dies else self._intend(entry)

    @rule(target=posts, k=st.integers(1, 4))
    def claim_and_intend(self, k: int) -> Any:
        """As a worker does when nothing comes between."""
        return self._intend_all(self._claim_submit(k))

    @rule(target=posts, entry=consumes(held), k=st.integers(1, 2))
    def a_late_holder_wakes(self, entry: Entry, k: int) -> Any:
        """It slept past its lease, others went on, and it writes an intent as if nothing had happened."""
        self.world.now_ms += LEASE_MS
        return self._intend_all([*self._claim_submit(k), entry])

    def _intend_all(self, entries: list[Entry]) -> Any:
        return multiple(*(post for each in entries if isinstance(post := self._intend(each), tuple)))

    def _intend(self, entry: Entry) -> Any:
        if entry.expired:
            self._recover(entry)
            return multiple()
        intent = self._next("i")
        self._apply(
            plans.intent(entry, intent), lambda: self.model.intend(entry.id, entry.epoch, intent, self.now)
        )
        return (entry, intent) if self.model.jobs[entry.id].intent == intent else multiple()

    def _recover(self, entry: Entry) -> None:
        if entry.fields.get("intent_id"):
            self._apply(
                plans.lost(entry, None), lambda: self.model.lose(entry.id, self.now, epoch=entry.epoch)
            )
            return
        self._apply(plans.orphaned(entry), lambda: self.model.orphaned(entry.id, entry.epoch, self.now))

    @rule(
        target=sent,
        post=consumes(posts),
        how=st.sampled_from(plans.ANSWERS),
        delay_ms=st.sampled_from([0, 1000]),
    )
    def answered(self, post: tuple[Entry, str], how: str, delay_ms: int) -> Any:
        """What the POST came to, recorded by the intent, whatever became of lease and job meanwhile."""
        entry, intent = post
        job = entry.id
        match how:
            case "accepted":
                return self._accepted(entry, intent)
            case "lost":
                return self._apply(
                    plans.lost(entry, intent), lambda: self.model.lose(job, self.now, intent=intent)
                )
            case "not sent":
                return self._apply(
                    plans.not_sent(entry, intent, delay_ms), lambda: self.model.requeue(job, intent)
                )
            case "refused":
                return self._apply(plans.refused(entry, intent), lambda: self.model.refuse(job, intent))
            case _:  # the worker dies: the lease will end, with an intent on record
                return multiple()

    @rule(post=consumes(posts), k=st.integers(1, 4))
    def a_retry_comes_after_the_next_claim(self, post: tuple[Entry, str], k: int) -> None:
        """The reply to "not sent" is lost; the job is claimed and sent again before the call is repeated."""
        entry, intent = post
        again = self._apply(plans.not_sent(entry, intent, 0), lambda: self.model.requeue(entry.id, intent))
        self._intend_all(self._claim_submit(k))
        self._apply(*again)

    def _accepted(self, entry: Entry, intent: str) -> Apply:
        generation = self._next("g")
        plan, late = plans.accepted(entry, intent, generation)
        done = self._apply(plan, lambda: self.model.accept(entry.id, intent, generation, self.now))
        if self.model.jobs[entry.id].generation == generation or generation in self.model.orphans:
            return done
        return self._apply(late, lambda: self.model.accept_late(entry.id, intent, generation, self.now))

    # --- poll and store ---

    def _claim_due(self, index: str, name: str) -> Any:
        rows = self.world.claim_due(name, 1)[1]
        due = [job for job in self.model.jobs.values() if job.index == index and job.due <= self.now]
        assert bool(rows) == bool(due), f"{len(due)} due, {len(rows)} handed over"
        for row in rows:
            self.model.due_claimed(row["id"], index, int(row["epoch"]), self.now)
        return multiple(*self._taken(rows, name))

    @rule(target=polls)
    def claim_poll(self) -> Any:
        return self._claim_due("poll", f"poll:{LANE}")

    @rule(target=stores)
    def claim_store(self) -> Any:
        return self._claim_due("store", "store")

    @rule(target=sent, entry=consumes(polls), how=st.sampled_from(plans.POLLED), count=st.integers(1, 2))
    def polled(self, entry: Entry, how: str, count: int) -> Any:
        """What the provider says of a generation; or the worker dies."""
        full = entry.number("n") * PRICE
        match how:
            case "delivered":
                came = min(count, entry.number("n"))
                return self._polled(entry, plans.delivered(entry, came), "delivered", came * PRICE)
            case "failed":
                return self._polled(entry, plans.failed(entry, 0), "failed", 0)
            case "lost":
                return self._polled(entry, plans.failed(entry, full), "failed", full)
            case "generating":
                return self._polled(entry, plans.snoozed(entry, 3000), "snooze", 0, 3000)
            case _:
                return multiple()

    def _polled(self, entry: Entry, plan: Transition, verb: str, micros: int, wait_ms: int = 0) -> Apply:
        seen = entry.fields["state"]

        def expected() -> int:
            job, epoch = entry.id, entry.epoch
            return self.model.polled(job, epoch, seen, self.now, verb=verb, micros=micros, wait_ms=wait_ms)

        return self._apply(plan, expected)

    @rule(target=sent, entry=consumes(stores), images=st.integers(0, 2))
    def stored(self, entry: Entry, images: int) -> Apply:
        plan = plans.stored(entry, images)
        return self._apply(plan, lambda: self.model.stored(entry.id, entry.epoch, self.now, images=images))

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """A holder renews, perhaps when another has the job."""
        if self.claims:
            self._renew(data.draw(st.sampled_from(self.claims[-6:])))

    @rule(target=sent, entry=consumes(polls), wait_ms=st.sampled_from([1000, 3000]))
    def a_renewal_comes_after_the_outcome(self, entry: Entry, wait_ms: int) -> Apply:
        """It was on its way when the poll was recorded: the job is due when that says, not a lease later."""
        done = self._polled(entry, plans.snoozed(entry, wait_ms), "snooze", 0, wait_ms)
        self._renew(entry)
        return done

    def _renew(self, entry: Entry) -> None:
        lost = self.world.call("renew_leases", LEASE_MS, entry.index, entry.kind, entry.id, entry.epoch)
        place = entry.index.partition(":")[0]
        holds = self.model.renewed(entry.id, place, entry.epoch, self.now)
        assert [read(each) for each in lost] == ([] if holds else [entry.id])

    @rule(again=sent)
    def said_twice(self, again: Apply) -> None:
        """The reply was lost and the call is made again, perhaps much later."""
        self._apply(*again)

    # --- owners and operators ---

    def _some_job(self, data: st.DataObject, *states: str) -> str | None:
        ids = sorted(job.id for job in self.model.jobs.values() if not states or job.state in states)
        return data.draw(st.sampled_from(ids)) if ids else None

    def _cancel(self, data: st.DataObject) -> None:
        if (job_id := self._some_job(data)) is None:
            return
        outcome = self.model.cancel(job_id)
        job = self.world.job(job_id)
        if outcome == "refused":
            with pytest.raises(TransitionRefused):
                commands.plan_cancel(job, tell=False)
            return
        plan = commands.plan_cancel(job, tell=False)
        assert (plan is None) == (outcome == "ended")
        assert plan is None or self.world.apply(plan) == [1]

    @rule(data=st.data(), verb=st.sampled_from(["cancel", "resolve", "resubmit", "release"]))
    def decide(self, data: st.DataObject, verb: str) -> None:
        """An owner cancels any job, or an operator decides on an unknown outcome."""
        if verb == "cancel":
            self._cancel(data)
            return
        if (job_id := self._one_unknown(data, ended=verb != "resubmit")) is None:
            return
        job = self.world.job(job_id)
        match verb:
            case "resolve":
                generation = self._next("g")
                plan = commands.plan_resolve(job, generation, by="ops")
                self.model.resolve(job_id, generation, self.now)
            case "release":
                plan = commands.plan_release(job, by="ops")
                self.model.release(job_id)
            case _:
                if self.now < self.model.jobs[job_id].intent_at + RESUBMIT_MS:
                    with pytest.raises(TransitionRefused):
                        commands.plan_resubmit(job, by="ops", now_ms=self.now, wait_ms=RESUBMIT_MS)
                    return
                plan = commands.plan_resubmit(job, by="ops", now_ms=self.now, wait_ms=RESUBMIT_MS)
                self.model.resubmit(job_id)
        assert plan is not None
        assert self.world.apply(plan) == [1]

    def _one_unknown(self, data: st.DataObject, *, ended: bool) -> str | None:
        """One that is listed as unknown: it may have ended for its owner."""
        ids = sorted(job.id for job in self.model.jobs.values() if job.unknown and (ended or not job.ended))
        return data.draw(st.sampled_from(ids)) if ids else None

    @rule(target=sent, data=st.data())
    def the_policy_gives_up(self, data: st.DataObject) -> Any:
        """By its worker or by the sweep, at once or much later."""
        if (job_id := self._some_job(data, "unknown")) is None:
            return multiple()
        return self._apply(plans.given_up(job_id), lambda: self.model.give_up(job_id))

    # --- time and trouble ---

    @rule(ms=st.sampled_from([1, 200, 1000, 5000, 12_000, 600_000, 86_400_000, -1000, -13_000, -3_600_000]))
    def the_clock_moves(self, ms: int) -> None:
        """On, mostly; or back, as after a failover to a server whose clock is behind."""
        self.world.now_ms += ms

    @rule(what=st.sampled_from(["flushed", "full", "room", "killed"]))
    def the_server_is_hurt(self, what: str) -> None:
        """Scripts are gone; no memory for new work, or some again; killed, with all it answered in its file."""
        if what == "flushed":
            self.client.script_flush()
        elif what == "killed":
            self.server.kill()
            self.server.start()
            self.full = False
        else:
            self.full = what == "full"
            self.client.config_set("maxmemory", int(self.full))

    @precondition(lambda self: len(self.snapshots) > 20 and not self.power_losses)
    @rule(data=st.data(), torn=st.integers(0, 20))
    def the_power_fails(self, data: st.DataObject, torn: int) -> None:
        """The last writes are gone, the last of them torn: what is left is a moment that was. No worker survives."""
        size, model, now_ms = data.draw(st.sampled_from(self.snapshots[-6:]))
        self.aof.lose_power(size + torn)
        self.power_losses += 1
        self.full = False
        self.model = copy.deepcopy(model)
        self.world.now_ms = max(now_ms, self.now)
        self._forget_claims()
        self.snapshots.clear()

    def _forget_claims(self) -> None:
        for bundle in ("held", "posts", "polls", "stores", "sent"):
            self.bundles.pop(bundle, None)
        self.claims.clear()

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        self.world.check(self.model)
        self.snapshots.append((self.aof.size, copy.deepcopy(self.model), self.now))


@pytest.fixture(params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValkeyProc]:
    """A server of the test's own, which writes to its file before it answers."""
    binary = shutil.which("redis-server") if request.param == "redis7" else None
    with ValkeyProc(tmp_path, binary=binary, appendfsync="no") as proc:
        yield proc


@pytest.mark.timeout(120 + 5 * EXAMPLES)
def test_the_scripts_do_what_the_model_says(server: ValkeyProc) -> None:
    """Any sequence of steps leaves the store as the model has it."""
    Machine.server = server
    checks = (HealthCheck.too_slow, HealthCheck.filter_too_much)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or 30,
            derandomize=not EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=checks,
            phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
        ),
    )
