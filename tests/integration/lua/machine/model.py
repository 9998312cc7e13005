"""What the scripts promise, in plain Python: one job at a time, no indexes, no batching of calls. Pure.

The model knows the verbs of a job's life (claimed, intent, answered, polled, cancelled, ...) and says of each whether
it counts and what becomes of the job and its money. It shares no code with the scripts it judges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

PRICE: Final = 200_000
LEASE_MS: Final = 12_000
SLOT_MS: Final = 600_000
LATE_SLOT_MS: Final = 25 * 3600 * 1000
RESUBMIT_MS: Final = 120_000
FENCED, FIRST, SECOND, THIRD, FOURTH, ORPHAN = 0, 1, 2, 3, 4, -2
FOREVER: Final = float("inf")

LIVE: Final = frozenset({"queued", "submitting", "generating", "storing", "unknown"})
ENDED: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(slots=True)
class ModelJob:
    """One job as it should be. Money in micros; instants in ms; `due` is its score in the index it waits in."""

    id: str
    tenant: str
    batch: str | None
    n: int
    state: str = "queued"
    epoch: int = 0
    leased: bool = False
    intent: str | None = None
    intent_at: int = 0
    unknown: bool = False  # its cause is on record
    hold: int = 0
    spent: int = 0
    doubt: int = 0
    settled: bool = False
    generation: str | None = None
    accounting: bool = False
    slot_until: float | None = None
    index: str | None = None  # submit | poll | store
    due: int = 0
    suspect: bool = False
    deaths: int = 0
    resubmits: int = 0
    images: int = 0
    events: int = 0  # told to its webhook

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def move(self, state: str) -> None:
        """Change the state; its owner is told of an end, and of an unknown outcome."""
        assert not self.ended or state == self.state, f"{self.id} left {self.state} for {state}"
        self.events += int(state != self.state and (state in ENDED or state == "unknown"))
        self.state = state


@dataclass(slots=True)
class Model:
    """Every job, and every batch's seal. Verbs give what the script must answer."""

    jobs: dict[str, ModelJob] = field(default_factory=dict)
    sealed: set[tuple[str, str]] = field(default_factory=set)
    orphans: set[str] = field(default_factory=set)

    # --- the submit stage ---

    def enqueue(self, job_id: str, tenant: str, batch: str | None, n: int) -> None:
        self.jobs[job_id] = ModelJob(job_id, tenant, batch, n)

    def slots_end(self, now: int) -> None:
        """A claim gives back the slots whose time is over; they stay so if the clock is set back."""
        for job in self.jobs.values():
            if job.slot_until is not None and job.slot_until <= now:
                job.slot_until = None

    def claimed(self, job_id: str, epoch: int, now: int) -> None:
        """A queued job is taken: hold, slot and lease are one."""
        job = self.jobs[job_id]
        assert job.state == "queued", f"{job_id} was claimed while {job.state}"
        assert epoch > job.epoch
        job.move("submitting")
        job.epoch, job.leased, job.hold = epoch, True, job.n * PRICE
        job.slot_until, job.index, job.due = FOREVER, "submit", now + LEASE_MS

    def taken_over(self, job_id: str, epoch: int, now: int) -> None:
        """A lease of the submit stage has ended, and another process holds the job now."""
        job = self.jobs[job_id]
        assert job.index == "submit", f"{job_id} was handed over from {job.index}"
        assert job.due <= now, f"{job_id} was handed over before its lease ended"
        assert epoch > job.epoch
        job.epoch, job.leased, job.due = epoch, True, now + LEASE_MS

    def intend(self, job_id: str, epoch: int, intent: str, now: int) -> int:
        job = self.jobs[job_id]
        if job.epoch != epoch or job.state != "submitting":
            self._give_back(job, epoch, held=None, now=now)
            return FENCED
        job.intent, job.intent_at = intent, now
        return FIRST

    def accept(self, job_id: str, intent: str, generation: str, now: int) -> int:
        """The provider's 2xx, recorded by the intent while the job is still submitting."""
        job = self.jobs[job_id]
        if (refused := self._unattached(job, intent, generation)) is not None:
            return refused
        if job.state != "submitting":
            return FENCED
        self._attach(job, generation, now, "generating")
        return FIRST

    def _unattached(self, job: ModelJob, intent: str, generation: str) -> int | None:
        """Say why the id changes nothing: it is of another intent, is there already, or came beside another."""
        if job.intent == intent and job.generation in (None, generation):
            return FENCED if job.generation == generation else None
        self.orphans.add(generation)
        return ORPHAN

    def accept_late(self, job_id: str, intent: str, generation: str, now: int) -> int:
        """The same after the job moved on: its state may be final, its accounting is not."""
        job = self.jobs[job_id]
        if (refused := self._unattached(job, intent, generation)) is not None:
            return refused
        places = {"unknown": FIRST, "cancelled": SECOND, "failed": THIRD, "submitting": FOURTH}
        if job.state not in places:
            return FENCED
        place = places[job.state]
        self._attach(job, generation, now, "generating" if place in (FIRST, FOURTH) else job.state)
        if place != FOURTH:
            job.slot_until = now + LATE_SLOT_MS
        return place

    def _attach(self, job: ModelJob, generation: str, now: int, state: str) -> None:
        job.accounting = job.accounting or state not in LIVE
        job.move(state)
        job.generation, job.unknown = generation, False
        job.index, job.due = "poll", now
        self._drop_lease(job)

    def lose(self, job_id: str, now: int, *, intent: str | None = None, epoch: int | None = None) -> int:
        """An ambiguous answer (by intent), or a holder's death after the intent (by epoch of who took over)."""
        job = self.jobs[job_id]
        if not self._guard(job, intent, epoch):
            return FENCED
        if job.state not in ("submitting", "cancelled"):
            self._give_back(job, epoch, held=None, now=now)
            return FENCED
        place = FIRST if job.state == "submitting" else SECOND
        job.move("unknown" if place == FIRST else job.state)
        job.unknown, job.slot_until = True, now + SLOT_MS
        self._leave(job, "submit")
        self._drop_lease(job)
        return place

    def give_up(self, job_id: str) -> int:
        """The policy `fail`: an end for its owner, while listing, hold and slot wait for the truth."""
        job = self.jobs[job_id]
        if job.state != "unknown":
            return FENCED
        job.move("failed")
        job.accounting = True
        return FIRST

    def requeue(self, job_id: str, intent: str) -> int:
        return self._came_to_nothing(job_id, intent, "queued")

    def refuse(self, job_id: str, intent: str) -> int:
        return self._came_to_nothing(job_id, intent, "failed")

    def _came_to_nothing(self, job_id: str, intent: str, after: str) -> int:
        job = self.jobs[job_id]
        places = {"submitting": FIRST, "cancelled": SECOND, "failed": THIRD, "unknown": FOURTH}
        is_over = job.state == "failed" and not job.accounting
        if job.intent != intent or job.state not in places or is_over:
            return FENCED
        place = places[job.state]
        self._release(job)
        job.unknown = False
        if place in (SECOND, THIRD):
            job.intent, job.accounting, job.generation = None, False, None
            job.epoch += 1  # fences who polls what was attached by mistake
            self._leave(job, "poll")
        else:
            job.move(after)
            job.intent = None if after == "queued" else job.intent
        self._leave(job, "submit")
        self._drop_lease(job)
        return place

    def orphaned(self, job_id: str, epoch: int, now: int) -> int:
        """Whoever took over found no intent: nothing was sent."""
        job = self.jobs[job_id]
        if job.epoch != epoch or job.intent:
            return FENCED
        if job.state not in ("submitting", "cancelled"):
            self._give_back(job, epoch, held=None, now=now)
            return FENCED
        place = FIRST if job.state == "submitting" else SECOND
        if place == FIRST:
            job.deaths += int(job.suspect)
            poisoned = job.deaths >= 3
            job.move("failed" if poisoned else "queued")
            job.suspect, job.deaths = not poisoned, 0 if poisoned else job.deaths
        else:
            job.accounting, job.suspect, job.deaths, job.epoch = False, False, 0, job.epoch + 1
        job.leased = False
        self._leave(job, "submit")
        self._release(job)
        return place

    # --- poll and store ---

    def due_claimed(self, job_id: str, index: str, epoch: int, now: int) -> None:
        job = self.jobs[job_id]
        assert job.index == index, f"{job_id} was claimed from {index}, and waits in {job.index}"
        assert job.due <= now, f"{job_id} was claimed {job.due - now} ms too early"
        assert epoch > job.epoch
        if job.leased:  # its holder died
            job.deaths += int(job.suspect)
            job.suspect = True
        job.epoch, job.leased, job.due = epoch, True, now + LEASE_MS

    def renewed(self, job_id: str, index: str, epoch: int, now: int) -> bool:
        """Say whether the lease is still this holder's to renew, or was ended by an outcome of its own."""
        job = self.jobs[job_id]
        if job.epoch == epoch and job.leased and job.index == index:
            job.due = now + LEASE_MS
        return job.epoch == epoch

    def polled(
        self, job_id: str, epoch: int, seen: str, now: int, *, verb: str, micros: int, wait_ms: int = 0
    ) -> int:
        """verb: snooze | delivered | failed. `seen` is the state that the claim read."""
        job = self.jobs[job_id]
        if job.epoch != epoch:
            return FENCED
        if job.state != seen:
            self._give_back(job, epoch, held="poll", now=now)
            return FENCED
        self._drop_lease(job)
        if verb == "snooze":
            job.due, job.index = now + wait_ms, "poll"
            return FIRST
        self._settle(job, micros) if micros else self._release(job)
        self._leave(job, "poll")
        if job.state != "generating":
            job.accounting, job.unknown = False, False
        elif verb == "delivered":
            job.move("storing")
            job.index, job.due = "store", now
        else:
            job.move("failed")
        return FIRST

    def stored(self, job_id: str, epoch: int, now: int, *, images: int) -> int:
        """Images 0: they could not be copied."""
        job = self.jobs[job_id]
        if job.epoch != epoch:
            return FENCED
        if job.state != "storing":
            self._give_back(job, epoch, held="store", now=now)
            return FENCED
        job.move("completed" if images else "failed")
        job.images = images
        job.index = None
        self._drop_lease(job)
        return FIRST

    # --- owners and operators ---

    def cancel(self, job_id: str) -> str:
        """Gives what it means: free | open | billed | refused | ended."""
        job = self.jobs[job_id]
        if job.ended or job.state == "unknown":
            return "ended" if job.ended else "refused"
        before = job.state
        job.move("cancelled")
        if before == "queued":
            return "free"
        if before == "submitting" and job.intent is None:
            self._release(job)
            self._leave(job, "submit")
            job.epoch += 1
            self._drop_lease(job)
            return "free"
        if before == "storing":
            job.index = None
            job.epoch += 1
            return "billed"
        job.accounting = True
        return "open"

    def resolve(self, job_id: str, generation: str, now: int) -> None:
        job = self.jobs[job_id]
        assert job.unknown
        slot = job.slot_until
        self._attach(job, generation, now, "generating" if job.state == "unknown" else job.state)
        job.slot_until = slot

    def resubmit(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.doubt, job.hold = job.doubt + job.hold, 0
        job.move("queued")
        job.unknown, job.intent, job.slot_until = False, None, None
        job.resubmits += 1

    def release(self, job_id: str) -> None:
        job = self.jobs[job_id]
        self._release(job)
        job.move("failed" if job.state == "unknown" else job.state)
        job.unknown, job.accounting = False, False

    # --- what all share ---

    @staticmethod
    def _guard(job: ModelJob, intent: str | None, epoch: int | None) -> bool:
        return job.intent == intent if intent is not None else job.epoch == epoch

    @staticmethod
    def _give_back(job: ModelJob, epoch: int | None, *, held: str | None, now: int) -> None:
        """The holder's plan no longer fits: the entry is due at once for whoever reads afresh."""
        if epoch is None or job.epoch != epoch:
            return
        job.leased = False
        if held and job.index == held:
            job.due = now

    @staticmethod
    def _drop_lease(job: ModelJob) -> None:
        job.leased, job.suspect, job.deaths = False, False, 0

    @staticmethod
    def _leave(job: ModelJob, index: str) -> None:
        if job.index == index:
            job.index = None

    @staticmethod
    def _release(job: ModelJob) -> None:
        job.hold, job.slot_until = 0, None

    @staticmethod
    def _settle(job: ModelJob, micros: int) -> None:
        job.slot_until = None
        if not job.settled:
            job.spent, job.hold, job.settled = job.spent + micros, 0, True

    # --- sums ---

    def states(self) -> Counter[str]:
        return Counter(job.state for job in self.jobs.values())

    def balances(self) -> Counter[str]:
        """Micros by account, without those that are 0."""
        found: Counter[str] = Counter()
        for job in self.jobs.values():
            found[f"CNY|held:{job.tenant}"] += job.hold
            found[f"CNY|spent:{job.tenant}"] += job.spent
            found[f"CNY|doubt:{job.tenant}"] += job.doubt
            found[f"CNY|budget:{job.tenant}"] -= job.hold + job.spent + job.doubt
        return Counter({name: micros for name, micros in found.items() if micros})

    def members(self, tenant: str, batch: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if (job.tenant, job.batch) == (tenant, batch)]

    def complete(self, tenant: str, batch: str) -> bool:
        jobs = self.members(tenant, batch)
        return (tenant, batch) in self.sealed and all(job.ended for job in jobs)
