"""The store as the machine finds it: what is read of it after every step, and how it is hurt."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.integration.lua.conftest import LANE, MODEL, State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.lua.machine.model import Model, ModelJob
    from tests.servers import ValkeyProc

BOOKS: Final = ("budget", "held", "spent", "doubt")


def read(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class World(State):
    """A state server of its own, with one namespace."""

    def scores(self, key: str) -> dict[str, float]:
        found: Any = self.client.zrange(key, 0, -1, withscores=True)
        return {read(member): score for member, score in found}

    def index(self, name: str) -> dict[str, float]:
        return self.scores(self.keys.index(name))

    def record(self, job_id: str) -> dict[str, str]:
        found: Any = self.client.hgetall(self.keys.job(job_id))
        return {read(key): read(value) for key, value in found.items()}

    def events(self) -> list[dict[str, str]]:
        keys: Any = self.client.scan_iter(match=self.keys.delivery("*"), count=1000)
        rows: list[Any] = [self.client.hgetall(key) for key in keys]
        return [{read(key): read(value) for key, value in row.items()} for row in rows]

    def entries(self) -> list[dict[str, str]]:
        found: Any = self.client.xrange(self.keys.ledger)
        return [{read(key): read(value) for key, value in fields.items()} for _, fields in found]

    def check(self, model: Model) -> None:
        """Compare everything with the model."""
        self._check_places(model)
        self._check_money(model)
        self._check_counts(model)
        self._check_events(model)

    def _check_places(self, model: Model) -> None:
        """Every job is where its state says, once, at its time; nothing else is anywhere."""
        self._check_queues(model)
        for index in ("submit", "poll", "store"):
            name = index if index == "store" else f"{index}:{LANE}"
            expected = {job.id: float(job.due) for job in model.jobs.values() if job.index == index}
            assert self.index(name) == expected, name
        assert set(self.index("unknown")) == {job.id for job in model.jobs.values() if job.unknown}
        posting = {job.id for job in model.jobs.values() if job.index == "submit" and job.intent}
        assert set(self.index(f"intents:{LANE}")) == posting
        slots = {
            job.id: job.slot_until
            for job in model.jobs.values()
            if job.slot_until and job.slot_until > self.now_ms
        }
        held = self.scores(self.keys.slots(LANE))
        assert {job_id: until for job_id, until in held.items() if until > self.now_ms} == slots

    def _check_queues(self, model: Model) -> None:
        waiting = Counter(
            member for tenant in _tenants(model) for member in self.scores(self.keys.queue(MODEL, tenant))
        )
        waiting.update(self.index(f"later:{MODEL}").keys())
        assert waiting == Counter({job.id: 1 for job in model.jobs.values() if job.state == "queued"})

    def _check_money(self, model: Model) -> None:
        """Balances are the model's and the sum of the ledger; a record stays while its bill is open."""
        balances = Counter({name: micros for name, micros in self.balances().items() if micros})
        assert balances == model.balances()
        assert sum(balances.values()) == 0
        moved: Counter[str] = Counter()
        for entry in self.entries():
            moved[f"{entry['currency']}|{entry['debit']}"] -= int(entry["micros"])
            moved[f"{entry['currency']}|{entry['credit']}"] += int(entry["micros"])
        assert {name: micros for name, micros in moved.items() if micros} == balances
        for job in model.jobs.values():
            assert int(self.record(job.id).get("hold", "0")) == job.hold, job
            going = self.client.pttl(self.keys.job(job.id)) > 0  # by the server's own clock, in a week
            assert going == (job.ended and not job.accounting), (
                f"{job}: its record {'goes' if going else 'stays'}"
            )

    def _check_counts(self, model: Model) -> None:
        raw: Any = self.client.hgetall(self.keys.counts)
        counts = {read(key): int(value) for key, value in raw.items() if int(value)}
        every = {f"*|{state}": count for state, count in model.states().items()}
        queued = Counter(f"{job.tenant}|queued" for job in model.jobs.values() if job.state == "queued")
        assert counts == every | queued
        for tenant, batch in {(job.tenant, job.batch) for job in model.jobs.values() if job.batch}:
            self._check_batch(tenant, str(batch), model.members(tenant, str(batch)))

    def _check_batch(self, tenant: str, name: str, jobs: list[ModelJob]) -> None:
        raw: Any = self.client.hgetall(self.keys.batch(tenant, name))
        batch = {read(key): read(value) for key, value in raw.items()}
        states = Counter(job.state for job in jobs)
        shown = {key[2:]: int(value) for key, value in batch.items() if key.startswith("n:") and int(value)}
        assert shown == states
        assert int(batch["total"]) == len(jobs)
        assert int(batch.get("done", 0)) == sum(job.ended for job in jobs)
        assert int(batch.get("parked", 0)) == states["unknown"]
        assert int(batch.get("held_micros", 0)) == sum(job.hold for job in jobs)
        assert int(batch.get("doubt_micros", 0)) == sum(job.doubt for job in jobs)
        assert int(batch.get("cost_micros", 0)) == sum(job.spent for job in jobs)
        assert int(batch.get("images", 0)) == sum(job.images for job in jobs)

    def _check_events(self, model: Model) -> None:
        """Each end and each unknown outcome is one event; a batch completes once, and not before."""
        told: Counter[str] = Counter()
        completed: Counter[tuple[str, str]] = Counter()
        for event in self.events():
            if "job" in event:
                told[event["job"]] += 1
            elif event["event"] == "batch.completed":
                completed[event["tenant"], event["batch"]] += 1
        hooked = {job.id: job.events for job in model.jobs.values() if job.batch and job.events}
        assert told == Counter(hooked)
        batches = {(job.tenant, job.batch) for job in model.jobs.values() if job.batch}
        assert completed == Counter({(t, str(b)): 1 for t, b in batches if model.complete(t, str(b))})


def _tenants(model: Model) -> set[str]:
    return {job.tenant for job in model.jobs.values()}


class AofFile:
    """The append-only file of a server that writes before it answers (`appendfsync no` never postpones a write)."""

    def __init__(self, server: ValkeyProc) -> None:
        self._server, self._folder = server, server.folder / "appendonlydir"

    def _path(self) -> Path:
        (path,) = self._folder.glob("*.incr.aof")
        return path

    @property
    def size(self) -> int:
        return self._path().stat().st_size

    def lose_power(self, size: int) -> None:
        """End the server without a word, cut its file, and start it again."""
        self._server.kill()
        path = self._path()
        with path.open("r+b") as file:
            file.truncate(min(size, path.stat().st_size))
        self._server.start()
