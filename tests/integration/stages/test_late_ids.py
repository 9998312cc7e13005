"""Ids that come late, from the disk or from a worker that slept: attached whatever became of the job, and paid once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.jobs.commands import plan_cancel, plan_release, plan_resolve, plan_resubmit
from shared.jobs.store import JobStore
from shared.jobs.transition import Applied
from tests.integration.stages.conftest import LANE, Works, accepted, json_answer, raising
from workers.spool import LateId, Spool
from workers.stages.late_ids import LateIds
from workers.stages.submit_plans import plan_intent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.jobs.job import Job
    from shared.jobs.transition import Transition

pytestmark = pytest.mark.anyio

PRICE = 200_000
DONE = {"id": "task_1", "status": "completed", "result": {"images": [{"url": ["https://r.test/a.png"]}]}}


class Desk:
    """A process that finds ids in the spool of one that is gone."""

    def __init__(self, works: Works, folder: Path) -> None:
        self.works, self.spool = works, Spool(folder)
        self.folder = folder
        self.late_ids = LateIds(self.spool, works.submit_stage._shop, 600_000)

    async def leave(self, job_id: str, intent_id: str, generation_id: str = "task_1") -> None:
        """Let a process die that had this id."""
        late = LateId(intent_id=intent_id, job_id=job_id, lane=LANE, generation_id=generation_id)
        dying = Spool(self.folder)
        with pytest.raises(ZeroDivisionError):
            async with dying.keeping(late):
                raise ZeroDivisionError
        dying.close()

    async def attach(self) -> None:
        """Have the one leftover decided: no file is left of it."""
        assert await self.late_ids.attach_leftovers() == 1
        assert list(self.folder.iterdir()) == []
        assert await self.late_ids.attach_leftovers() == 0

    def change(self, job_id: str, plan: Callable[[Job], Transition | None]) -> None:
        store = JobStore(self.works.state.client, self.works.state.keys, self.works.settings.limits)
        assert store.change(job_id, plan)[1] is Applied.FIRST

    def orphans(self) -> list[str]:
        found: Any = self.works.state.client.hkeys(self.works.state.keys.orphans)
        return [each.decode() for each in found]

    def balances(self) -> dict[str, int]:
        found: Any = self.works.state.client.hgetall(self.works.state.keys.balances)
        return {key.decode(): int(value) for key, value in found.items() if int(value)}


@pytest.fixture
async def desk(works: Works, tmp_path: Path) -> Desk:
    return Desk(works, tmp_path / "spool")


async def unknown(works: Works, **params: Any) -> tuple[str, str]:
    """Submit one job whose POST has no answer; give it and its intent."""
    job_id = works.enqueue(**params)
    await works.submit(raising(TimeoutError("no answer")))
    return job_id, works.job(job_id).intent_id or ""


async def settled(works: Works) -> None:
    """Let the provider be done; twice, since money must settle once."""
    for _ in range(2):
        await works.poll(json_answer(200, {"code": 200, "data": DONE}))


async def test_an_unknown_job_goes_on(works: Works, desk: Desk) -> None:
    """No answer was recorded, but it is on disk: the job completes, charged once."""
    job_id, intent = await unknown(works)
    await desk.leave(job_id, intent)
    await desk.attach()
    assert works.job(job_id).state == "generating"
    assert ("poll", LANE, 0) in works.armed
    await settled(works)
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros) == ("completed", PRICE, 0)
    assert desk.balances() == {"CNY|budget:acme": -PRICE, "CNY|spent:acme": PRICE}
    assert works.slots() == 0


async def test_a_job_that_still_seems_to_be_submitted_goes_on(works: Works, desk: Desk) -> None:
    """Back before the dead worker's lease is over: it need not become unknown first."""
    job_id = works.enqueue()
    works.answer = accepted()
    (entry,) = (await works.submit_stage.claim(LANE, 1, suspects=True)).entries
    intent = "ab" * 16
    await works.recorder.apply(plan_intent(entry, works.lane, intent))
    await desk.leave(job_id, intent)
    await desk.attach()
    assert works.job(job_id).state == "generating"
    assert works.state.client.zcard(works.state.keys.index(f"submit:{LANE}")) == 0
    assert works.state.client.zcard(works.state.keys.index(f"intents:{LANE}")) == 0
    await settled(works)
    assert (works.job(job_id).state, works.slots()) == ("completed", 0)


async def test_a_job_failed_by_policy_is_still_billed(works: Works, desk: Desk) -> None:
    """on_unknown = fail: it stays failed for its owner, and the bill is settled out of its hold."""
    job_id, intent = await unknown(works, on_unknown="fail")
    await desk.leave(job_id, intent)
    await desk.attach()
    await settled(works)
    job = works.job(job_id)
    assert (job.state, job.error_code) == ("failed", "unknown_outcome")
    assert (job.cost_micros, job.hold_micros, job.accounting_open) == (PRICE, 0, False)
    assert desk.balances() == {"CNY|budget:acme": -PRICE, "CNY|spent:acme": PRICE}


async def test_a_job_that_was_given_up_is_charged_after_all(works: Works, desk: Desk) -> None:
    """Released by an operator, so its hold is gone: the late bill comes out of the budget."""
    job_id, intent = await unknown(works)
    desk.change(job_id, lambda job: plan_release(job, by="me"))
    assert desk.balances() == {}
    await desk.leave(job_id, intent)
    await desk.attach()
    await settled(works)
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.accounting_open) == ("failed", PRICE, 0, False)
    assert desk.balances() == {"CNY|budget:acme": -PRICE, "CNY|spent:acme": PRICE}
    assert works.slots() == 0


async def test_a_cancelled_job_is_billed(works: Works, desk: Desk) -> None:
    """Cancelled during the POST, whose answer only the disk has: cancelled it stays, and its money settles once."""
    job_id = works.enqueue()
    intents: list[str] = []

    def cancel_and_say_nothing(request: Any) -> Any:
        desk.change(job_id, plan_cancel)
        intents.append(works.job(job_id).intent_id or "")
        return raising(TimeoutError("no answer"))(request)

    await works.submit(cancel_and_say_nothing)
    await desk.leave(job_id, intents[0])
    await desk.attach()
    await settled(works)
    job = works.job(job_id)
    assert (job.state, job.cost_micros, job.hold_micros, job.accounting_open) == (
        "cancelled",
        PRICE,
        0,
        False,
    )
    assert desk.balances() == {"CNY|budget:acme": -PRICE, "CNY|spent:acme": PRICE}


async def test_an_id_that_comes_twice_is_billed_once(works: Works, desk: Desk) -> None:
    """Decided before the file could go: the second time nothing happens, also after the bill is settled."""
    job_id, intent = await unknown(works, on_unknown="fail")
    for _ in range(2):
        await desk.leave(job_id, intent)
        await desk.attach()
        await settled(works)
    assert (works.job(job_id).cost_micros, works.job(job_id).accounting_open) == (PRICE, False)
    assert desk.balances() == {"CNY|budget:acme": -PRICE, "CNY|spent:acme": PRICE}
    assert desk.orphans() == []


async def test_an_id_of_a_job_that_is_gone_is_an_orphan(works: Works, desk: Desk) -> None:
    """The record's time was over: the generation is paid for, so it is listed."""
    await desk.leave("job_gone", "ab" * 16, "task_gone")
    await desk.attach()
    assert desk.orphans() == ["task_gone"]
    assert works.armed == []


async def test_an_id_of_an_older_intent_is_an_orphan(works: Works, desk: Desk) -> None:
    """The job was sent again in the meantime: the first generation is nobody's, and listed."""
    job_id, intent = await unknown(works)
    at_ms = (works.job(job_id).intent_at or 0) + 200_000
    desk.change(job_id, lambda job: plan_resubmit(job, by="me", now_ms=at_ms, wait_ms=120_000))
    await desk.leave(job_id, intent, "task_first")
    await desk.attach()
    assert desk.orphans() == ["task_first"]


async def test_an_id_beside_one_found_by_hand_is_an_orphan(works: Works, desk: Desk) -> None:
    """An operator resolved the job with another id: the one that turns up is listed, and changes nothing."""
    job_id, intent = await unknown(works)
    desk.change(job_id, lambda job: plan_resolve(job, "task_by_hand", by="me"))
    await desk.leave(job_id, intent, "task_late")
    await desk.attach()
    assert desk.orphans() == ["task_late"]
    assert works.job(job_id).generation_id == "task_by_hand"


async def test_two_jobs_never_share_a_late_id(works: Works, desk: Desk) -> None:
    """The id belongs to another job: the second stays unknown, says why, and its file goes."""
    owner = works.enqueue()
    await works.submit(accepted("task_1"))
    job_id, intent = await unknown(works)
    await desk.leave(job_id, intent, "task_1")
    await desk.attach()
    job = works.job(job_id)
    assert (job.state, job.generation_id) == ("unknown", None)
    assert job.unknown_cause == "generation id belongs to another job"
    assert works.job(owner).generation_id == "task_1"


async def test_a_live_submit_keeps_its_id_while_the_server_is_away(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage itself: a record that cannot be written leaves a file, and the file has no prompt in it."""
    works.submit_stage._spool = spool = Spool(tmp_path / "spool")
    job_id = works.enqueue()

    class Gone(Exception):
        pass

    record = works.recorder.apply

    async def refuse_the_answer(transition: Any) -> Applied:
        if any(change.generation_id for change in transition.changes):
            raise Gone
        return await record(transition)

    monkeypatch.setattr(works.recorder, "apply", refuse_the_answer)
    with pytest.raises(Gone):
        await works.submit(accepted())
    (kept,) = await spool.leftovers()
    assert (kept.late.job_id, kept.late.generation_id) == (job_id, "task_1")
    assert set(kept.late.model_dump()) == {"v", "intent_id", "job_id", "lane", "generation_id", "at"}
    kept.let_go()
    spool.close()
