"""The same machine with people who pause and resume: what is paused is not claimed, and what is not goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.integration.lua.conftest import MODEL
from tests.integration.lua.machine.broken import Break, assert_caught
from tests.integration.lua.machine.model import Model, ModelJob
from tests.integration.lua.machine.test_state_machine import (
    BATCHES,
    EXAMPLES,
    STEPS,
    TENANTS,
    Machine,
    server,
)
from tests.integration.lua.machine.world import World, read
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["server"]  # the fixture is used by name

ON = st.booleans()
BREAKS = {  # those that random steps find soon; test_pauses.py has the rarer ones by name
    "a paused batch is claimed": Break("queue_admit", "batch_paused(tenant, batch) and", "false and"),
    "a job that joins a paused tenant": Break(
        "queue", "if tenant_paused(tenant) then return queue_hold(model, tenant) end"
    ),
}


@dataclass(slots=True)
class PausingModel(Model):
    """The model, and what people paused."""

    tenants: set[str] = field(default_factory=set)
    batches: set[tuple[str, str]] = field(default_factory=set)
    single: set[str] = field(default_factory=set)

    def holds(self, job: ModelJob) -> bool:
        return job.id in self.single or job.tenant in self.tenants or (job.tenant, job.batch) in self.batches

    def claimed(self, job_id: str, epoch: int, now: int) -> None:
        assert not self.holds(self.jobs[job_id]), f"{job_id} was claimed while it is paused"
        Model.claimed(self, job_id, epoch, now)

    def cancel(self, job_id: str) -> str:
        self.single.discard(job_id)
        return Model.cancel(self, job_id)

    def queued(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state == "queued"]


class PausingWorld(World):
    """The store with what is aside."""

    def queues(self) -> Counter[str]:
        return Counter(member for tenant in TENANTS for member in self.scores(self.keys.queue(MODEL, tenant)))

    def aside(self, tenant: str, batch: str) -> set[str]:
        return set(self.scores(self.keys.aside(MODEL, tenant, batch)))

    def _check_queues(self, model: Model) -> None:
        """A queued job waits in one place; a paused one also in the list of those, and that only until its resume."""
        assert isinstance(model, PausingModel)
        places = self.queues() + Counter(self.index(f"later:{MODEL}").keys())
        for tenant in TENANTS:
            for batch in BATCHES[1:]:
                found = self.aside(tenant, str(batch))
                assert not found or (tenant, batch) in model.batches, f"jobs of {batch} are aside for ever"
                places.update(found)
        queued = {job.id for job in model.queued()}
        assert set(self.index("paused")) == model.single
        assert max(places.values(), default=1) == 1
        assert queued - model.single <= set(places) <= queued
        self._check_turns(model)

    def _check_turns(self, model: PausingModel) -> None:
        """Whoever has a queue has turns, unless paused."""
        filled = {tenant for tenant in TENANTS if self.client.exists(self.keys.queue(MODEL, tenant))}
        assert set(self.scores(self.keys.ready(MODEL))) == filled - model.tenants
        fields: Any = self.client.hkeys(self.keys.paused)
        left = {each for each in model.batches if not model.complete(*each)}
        assert {read(name) for name in fields} == {f"t|{each}" for each in model.tenants} | {
            f"b|{tenant}|{batch}" for tenant, batch in left
        }


class PausingMachine(Machine):
    """The machine, and an operator who pauses and resumes."""

    def __init__(self) -> None:
        super().__init__()
        self.world: PausingWorld = PausingWorld(self.client, self.world.keys)
        self.model: PausingModel = PausingModel()

    def _eligible(self) -> int:
        waiting = {job.id for job in self.model.queued() if not self.model.holds(job)}
        later = self.world.index(f"later:{MODEL}").items()
        self._in_queues = self.world.queues().total()
        return len(waiting - {job_id for job_id, due in later if due > self.now})

    def _may_be_idle(self, eligible: int) -> bool:
        """Only if what could not be taken was put out of the way: the next claim has less to look at."""
        free = [job for job in self.model.queued() if not self.model.holds(job)]
        shorter = self.world.queues().total() < self._in_queues
        return not eligible or all(job.suspect for job in free) or shorter

    @rule(tenant=st.sampled_from(TENANTS), on=ON)
    def pause_a_tenant(self, tenant: str, on: bool) -> None:
        """Twice is once."""
        changes = (tenant in self.model.tenants) != on
        waiting = sum(job.tenant == tenant for job in self.model.queued())
        got = self.world.call("pause_tenant", tenant, int(on), "ops", "", 0, "queued", MODEL)
        assert got == [int(changes), waiting]
        (self.model.tenants.add if on else self.model.tenants.discard)(tenant)

    @rule(tenant=st.sampled_from(TENANTS), batch=st.sampled_from(BATCHES[1:]), on=ON)
    def pause_a_batch(self, tenant: str, batch: str, on: bool) -> None:
        """A batch that is complete has nothing to pause."""
        who = (tenant, batch)
        complete = self.model.complete(*who)
        if complete:
            self.model.batches.discard(who)
        got = self.world.call("pause_batch", tenant, batch, int(on), "ops", "", 0, "queued")
        if not self.model.members(*who):
            assert got == [-1]
            return
        if on and complete:
            assert got == [-2]
            return
        assert got[0] == int((who in self.model.batches) != on)
        (self.model.batches.add if on else self.model.batches.discard)(who)

    @rule(data=st.data(), on=ON)
    def pause_a_job(self, data: st.DataObject, on: bool) -> None:
        """Only one that is queued."""
        if (job_id := self._some_job(data)) is None:
            return
        (got,) = self.world.call("pause_jobs", int(on), "ops", "", 0, "queued", "one", job_id)
        if self.model.jobs[job_id].state != "queued":
            assert got == -2
            return
        assert got == int((job_id in self.model.single) != on)
        (self.model.single.add if on else self.model.single.discard)(job_id)


@pytest.mark.timeout(180 + 5 * EXAMPLES)
def test_pauses_hold_what_they_name_and_nothing_else(server: ValkeyProc) -> None:
    """In any order of steps, also after a power loss."""
    PausingMachine.server = server
    run_state_machine_as_test(
        PausingMachine,
        settings=settings(
            max_examples=EXAMPLES or 20, derandomize=not EXAMPLES, stateful_step_count=STEPS, deadline=None,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
            phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
        ),
    )  # fmt: skip


@pytest.fixture
def one_server(tmp_path: Path) -> Iterator[ValkeyProc]:
    with ValkeyProc(tmp_path, appendfsync="no") as proc:
        yield proc


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_pause_is_caught(one_server: ValkeyProc, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says otherwise in some order of steps."""
    PausingMachine.server = one_server
    assert_caught(PausingMachine, BREAKS[name], monkeypatch)
