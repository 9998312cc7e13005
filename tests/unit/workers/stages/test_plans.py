"""Every plan encodes for every state it can meet, and keeps the promises of the table: slot, hold, lease, retention."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from shared.errors import IllegalTransition, TransitionRefused
from shared.jobs import commands
from shared.jobs.job import Job
from shared.jobs.lifecycle import TERMINAL, DeliveryState, JobState, check
from shared.jobs.transition import LEASE_FIELDS, Change, DeliveryTransition, Transition
from shared.settings import AccountSettings, WorkerSettings
from workers.claims import Entry
from workers.lanes import Lane
from workers.providers.gateway import GatewayProvider
from workers.providers.outcomes import ResultImage
from workers.stages import poll_plans, submit_plans

if TYPE_CHECKING:
    from collections.abc import Iterable

LANE = "main/wan2.7-image"
PRICE = 200_000
RETAIN_MS = 1000
NOW_MS = 1_800_000_000_000
ACCOUNT = AccountSettings()
WORKER = WorkerSettings()
MOVING_ON = (JobState.GENERATING, JobState.CANCELLED, JobState.FAILED)  # states of what is in the poll index


def make_lane() -> Lane:
    provider = GatewayProvider("https://provider.test/v1", SecretStr("key"))
    return Lane(LANE, "main", "wan2.7-image", ACCOUNT, provider, PRICE)


PLACE = make_lane()


def entry(**fields: str) -> Entry:
    record = {"epoch": "3", "state": "submitting", "tenant": "acme", "n": "2", "model": "wan2.7-image"}
    return Entry("job_1", f"submit:{LANE}", "j", 3, record | fields, now_ms=NOW_MS)


def polled(state: JobState, **fields: str) -> Entry:
    record = {"epoch": "3", "state": state.value, "tenant": "acme", "n": "2", "generation_id": "task_1"}
    return Entry("job_1", f"poll:{LANE}", "j", 3, record | fields, now_ms=NOW_MS)


small = st.integers(0, 5)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
intents = st.none() | st.text("0123456789abcdef", min_size=32, max_size=32)
submits = st.builds(
    lambda policy, resubmits, deaths, suspect: entry(
        on_unknown=policy, resubmits=str(resubmits), deaths=str(deaths), suspect=str(suspect)
    ),
    st.sampled_from(["hold", "resubmit_once", "fail"]), small, small, st.integers(0, 1),
)  # fmt: skip
polls = st.builds(
    lambda state, n, hold: polled(state, n=str(n), hold=str(hold * n)),
    st.sampled_from(MOVING_ON), st.integers(1, 12), st.sampled_from([0, 1, PRICE, 3 * PRICE]),
)  # fmt: skip
images = st.lists(
    st.builds(ResultImage, st.just("https://r.test/a.png"), st.none() | st.integers(1, NOW_MS)),
    min_size=1, max_size=12,
)  # fmt: skip


def encoded(plan: Transition) -> list[dict[str, Any]]:
    """Give the changes as the script gets them; that they can be written as JSON is part of the promise."""
    whole: dict[str, Any] = from_json(to_json(plan.encode(RETAIN_MS)))
    changes: list[dict[str, Any]] = whole["v"]
    assert [each["f"] for each in changes] == [[change.before.value] for change in plan.changes]
    return changes


def ends(change: Change) -> bool:
    return change.after in TERMINAL and change.before is not change.after


def assert_sound(plan: Transition) -> None:
    """What holds for every plan of a worker."""
    states = [change.before for change in plan.changes]
    assert len(states) == len(set(states)), "two changes for one state: the second would never be used"
    for change, raw in zip(plan.changes, encoded(plan), strict=True):
        check(change.before, change.after)
        assert change.settle_micros is None or not change.release
        closes = (ends(change) and not change.keep) or change.close_accounting
        opens_again = change.keep and change.before is change.after
        assert raw.get("ttl") == (RETAIN_MS if closes else 0 if opens_again else None)
        assert ("fin" in raw) == ends(change)


# --- submit


def submit_plans_of(each: Entry, intent: str | None, cause: str, delay_ms: int) -> Iterable[Transition]:
    """Give every plan after a POST, and of a recovery."""
    yield submit_plans.plan_requeue(each, PLACE, intent, note=cause, delay_ms=delay_ms)
    yield submit_plans.plan_requeue(each, PLACE, intent, note=cause, counted=True, lane_note=(LANE, "ok"))
    yield submit_plans.plan_failed(each, PLACE, intent, "refused:400", cause)
    yield submit_plans.plan_unknown(each, PLACE, WORKER, cause=cause, intent_id=intent)
    yield submit_plans.plan_unknown(
        each, PLACE, WORKER, cause=cause, intent_id=intent, generation_id="task_1"
    )
    yield submit_plans.plan_orphaned(each, PLACE, poison_deaths=3, wait_ms=1000)


@given(submits, intents, texts, small)
def test_submit_plans_encode_and_give_the_post_place_back(
    each: Entry, intent: str | None, cause: str, delay_ms: int
) -> None:
    """Each leaves the index of leases, says what becomes of the slot, and names the money of the job."""
    for plan in submit_plans_of(each, intent, cause, delay_ms):
        assert_sound(plan)
        assert plan.changes[0].before is JobState.SUBMITTING
        for change in plan.changes:
            assert f"submit:{LANE}" in change.leave
            assert bool(change.free_slot) != bool(change.keep_slot)
            assert change.release == bool(change.free_slot), "a slot is given back only with its money"
            assert {"leased"} <= set(change.clear)


@given(submits, intents)
def test_guards_are_never_missing(each: Entry, intent: str | None) -> None:
    """A plan of a worker is guarded by its intent, or else by the epoch of its claim."""
    for plan in submit_plans_of(each, intent, "cause", 0):
        raw = plan.encode(RETAIN_MS)
        assert ("i" in raw) != ("e" in raw)
        if intent is not None and "i" in raw:
            assert raw["i"] == intent


@given(submits)
def test_the_intent_is_written_in_place(each: Entry) -> None:
    """The note before the POST changes no state, keeps the lease, and is guarded by the epoch."""
    plan = submit_plans.plan_intent(each, PLACE, "i1")
    assert_sound(plan)
    (change,) = plan.changes
    assert (change.before, change.after, plan.epoch) == (JobState.SUBMITTING, JobState.SUBMITTING, 3)
    assert (change.leave, change.clear, change.fields) == ((), (), {"intent_id": "i1"})


@given(submits, small)
def test_an_accepted_post_is_attached_whatever_became_of_the_job(each: Entry, first_poll_ms: int) -> None:
    """In time or late: the money stays as it is, a poll is due, and an ended job keeps its state."""
    on_time = submit_plans.plan_accepted(each, PLACE, "i1", "task_1", first_poll_ms=first_poll_ms)
    late = submit_plans.plan_accepted_late(each.id, PLACE.name, "i1", "task_1")
    met = set()
    for plan in (on_time, late):
        assert_sound(plan)
        assert (plan.intent_id, plan.epoch) == ("i1", None)
        for change in plan.changes:
            met.add(change.before)
            live = change.before in (JobState.SUBMITTING, JobState.UNKNOWN)
            assert change.after is (JobState.GENERATING if live else change.before)
            assert [index for index, _ in change.due_in] == [f"poll:{LANE}"]
            assert (change.settle_micros, change.release, change.generation_id) == (None, False, "task_1")
    assert met == {JobState.SUBMITTING, JobState.UNKNOWN, JobState.CANCELLED, JobState.FAILED}


@given(submits, intents)
def test_unknown_keeps_the_hold_and_is_never_queued(each: Entry, intent: str | None) -> None:
    """No money moves, the slot is kept for a while, and nothing but the policy may send it again, after the wait."""
    plan = submit_plans.plan_unknown(each, PLACE, WORKER, cause="timeout", intent_id=intent)
    first = plan.changes[0]
    assert first.after is JobState.UNKNOWN
    for change in plan.changes:
        assert (change.settle_micros, change.release, change.queue) == (None, False, False)
        assert change.keep_slot == (LANE, int(1000 * WORKER.generation_max_s))
    may_resubmit = each.fields["on_unknown"] == "resubmit_once" and not each.number("resubmits")
    assert ("resubmit" in dict(first.due_in)) == may_resubmit
    if may_resubmit:
        assert dict(first.due_in)["resubmit"] == submit_plans.resubmit_wait_ms(WORKER)
    assert "resubmit" not in dict(plan.changes[1].due_in), "who cancelled it wants no second POST"
    assert bool(plan.lane_note) == (intent is not None), "a worker's death says nothing of the provider"


@given(submits)
def test_a_queued_job_waits_in_one_place(each: Entry) -> None:
    """With a delay it waits for its time, without one in its queue: never in both, never in none."""
    for delay_ms in (0, 1, 60_000):
        plan = submit_plans.plan_requeue(each, PLACE, "i1", note="n", delay_ms=delay_ms)
        for change in plan.changes:
            if change.after is JobState.QUEUED:
                assert change.queue != bool(change.due_in)
                assert change.due_in == (((f"later:{PLACE.model}", delay_ms),) if delay_ms else ())
                assert {"intent_id", "intent_at", "lane"} <= set(change.clear)


def test_a_job_given_up_is_found_out() -> None:
    """Answers that prove that nothing was executed also take an unknown job out of the list of unknowns."""
    for plan in (
        submit_plans.plan_requeue(entry(), PLACE, "i1", note="n"),
        submit_plans.plan_failed(entry(), PLACE, "i1", "refused:400", "m"),
    ):
        (found_out,) = [change for change in plan.changes if change.before is JobState.UNKNOWN]
        assert {"unknown", "resubmit"} <= set(found_out.leave)
        assert "unknown_cause" in found_out.clear


@pytest.mark.parametrize(
    ("suspect", "deaths", "after"),
    [
        (0, 0, JobState.QUEUED),
        (1, 0, JobState.QUEUED),
        (0, 2, JobState.QUEUED),
        (1, 1, JobState.QUEUED),
        (1, 2, JobState.FAILED),
        (1, 7, JobState.FAILED),
    ],
)
def test_only_deaths_while_alone_count(suspect: int, deaths: int, after: JobState) -> None:
    """The first death makes a suspect; the third while it ran alone is the end."""
    each = entry(suspect=str(suspect), deaths=str(deaths))
    plan = submit_plans.plan_orphaned(each, PLACE, poison_deaths=3, wait_ms=1000)
    assert plan.changes[0].after is after
    if after is JobState.QUEUED:
        assert plan.without_intent
        assert plan.changes[0].fields == {"suspect": 1, "deaths": deaths + suspect}
        alone = deaths + suspect  # those who only shared its first claim go before it
        assert plan.changes[0].queue is (alone == 0)
        assert [delay_ms for _, delay_ms in plan.changes[0].due_in] == [1000 * alone] * bool(alone)
    else:
        assert plan.changes[0].fields == {"error_code": "poison"}


@given(submits)
def test_the_policy_fail_ends_the_job_and_not_its_accounting(each: Entry) -> None:
    """Failed for its owner; hold, listing and retention wait for the truth."""
    plan = submit_plans.plan_give_up_unknown(each.id)
    assert_sound(plan)
    (raw,) = encoded(plan)
    assert (raw["f"], raw["t"], raw["ev"]) == (["unknown"], "failed", "image.failed")
    assert not {"m", "ttl", "slot"} & set(raw)
    assert "unknown" not in raw["o"]


def test_whoever_answers_may_say_so_of_the_lane() -> None:
    """A refusal shows that the provider answers; a failure without an answer must not close a breaker."""
    assert submit_plans.plan_failed(entry(), PLACE, "i1", "refused:400", "m").lane_note == (LANE, "ok")
    unsent = submit_plans.plan_failed(entry(), PLACE, "i1", "refused:unsendable", "m", answered=False)
    assert unsent.lane_note == ()
    assert submit_plans.plan_failed(entry(), PLACE, None, "input_missing", "m").lane_note == ()


# --- poll


@given(polls, images, st.booleans(), st.none() | texts)
def test_a_delivery_is_settled_at_what_came(
    each: Entry, came: list[ResultImage], store: bool, evidence: str | None
) -> None:
    """Settled at the price of the hold times what came, n at most, slot free; only a living job goes on."""
    plan = poll_plans.plan_delivered(each, PLACE, came, evidence, store=store)
    assert_sound(plan)
    (change,) = plan.changes
    n, held = each.number("n"), each.number("hold")
    price = held // n if held else PRICE
    assert change.settle_micros == min(len(came), n) * price
    assert change.fields["partial"] == int(len(came) < n)
    assert len(from_json(change.detail["urls"])) == len(came)
    assert all(url["expires_at"] > 0 for url in from_json(change.detail["urls"]))
    assert (change.free_slot, f"poll:{LANE}" in change.leave) == (LANE, True)
    assert set(LEASE_FIELDS) <= set(change.clear)
    live = each.fields["state"] == "generating"
    after = JobState.STORING if store else JobState.COMPLETED
    assert change.after == (after if live else each.fields["state"])
    assert ("artifacts" in change.detail) == (live and not store)
    assert change.images == (len(came) if live and not store else 0)


@given(polls, st.sampled_from([0, PRICE, 3 * PRICE]), st.sampled_from(["", "lost"]))
def test_a_failure_is_settled_or_released(each: Entry, settle: int, flag: str) -> None:
    """Never both, never neither: a generation that is done leaves nothing held."""
    plan = poll_plans.plan_failed(each, PLACE, "lost", "m", settle_micros=settle, flag=flag)
    assert_sound(plan)
    (change,) = plan.changes
    assert (change.settle_micros, change.release) == (settle or None, not settle)
    assert (change.free_slot, change.leave[0]) == (LANE, f"poll:{LANE}")
    live = each.fields["state"] == "generating"
    assert change.after == (JobState.FAILED if live else each.fields["state"])
    assert change.close_accounting is not live
    assert ("flag" in change.fields) == bool(live and flag)


@given(polls, small, texts, st.none() | small, st.booleans())
def test_a_snooze_moves_no_money(
    each: Entry, delay_ms: int, note: str, slot_ms: int | None, empty: bool
) -> None:
    """It stays where it is, is due again, and is no attempt."""
    plan = poll_plans.plan_snooze(each, PLACE, delay_ms, note=note, slot_ms=slot_ms, empty=empty)
    assert_sound(plan)
    (change,) = plan.changes
    assert change.before is change.after is JobState(each.fields["state"])
    assert (change.settle_micros, change.release, change.free_slot) == (None, False, "")
    assert change.due_in == ((f"poll:{LANE}", delay_ms),)
    assert change.bump == {"polls": 1} | ({"empty_polls": 1} if empty else {})
    assert (plan.epoch, plan.held) == (3, f"poll:{LANE}")


@given(polls)
def test_the_full_price_covers_the_hold(each: Entry) -> None:
    """The most that a lost generation can have cost is what was held for it, or the lane's price."""
    n, held = each.number("n"), each.number("hold")
    assert poll_plans.full_price_micros(each, PLACE) == (held // n * n if held else n * PRICE)


# --- commands


def job(state: JobState, **more: Any) -> Job:
    plain = Job("job_1", state, "acme", "wan2.7-image", 1, NOW_MS, lane=LANE, intent_at=NOW_MS)
    return replace(plain, **more)


jobs = st.builds(
    lambda state, intent, error, cause, generation: job(
        state, intent_id=intent, error_code=error, unknown_cause=cause, generation_id=generation
    ),
    st.sampled_from(JobState), st.sampled_from([None, "i1"]), st.sampled_from([None, "released", "unknown_outcome"]),
    st.sampled_from([None, "timeout"]), st.sampled_from([None, "task_0", "task_1"]),
)  # fmt: skip


def commanded(each: Job) -> Iterable[Transition | None]:
    """Give what each command makes of a job; a command that is refused gives nothing."""
    for command in (
        commands.plan_cancel,
        commands.plan_expire,
        partial(commands.plan_resolve, generation_id="task_1", by="ops"),
        partial(commands.plan_resubmit, by="ops", now_ms=NOW_MS + 120_000, wait_ms=120_000),
        partial(commands.plan_release, by="ops"),
    ):
        with suppress(TransitionRefused):
            yield command(each)


@given(jobs)
def test_commands_encode_for_every_state(each: Job) -> None:
    """A command does nothing, is refused, or gives a plan for the state it saw."""
    for plan in commanded(each):
        if plan is not None:
            assert_sound(plan)
            assert {change.before for change in plan.changes} == {each.state}


@given(jobs)
def test_commands_never_revive_what_has_ended(each: Job) -> None:
    """State is final: of an ended job only the accounting can change."""
    if each.ended:
        for plan in commanded(each):
            assert plan is None or all(change.after is each.state for change in plan.changes)


@pytest.mark.parametrize("state", JobState)
def test_cancel_is_free_only_before_the_intent(state: JobState) -> None:
    """Release and closed accounting without an intent; an open accounting with one; billed while storing."""
    for intent in (None, "i1"):
        try:
            plan = commands.plan_cancel(job(state, intent_id=intent))
        except TransitionRefused:
            assert state is JobState.UNKNOWN
            continue
        if plan is None:
            assert state in TERMINAL
            continue
        (change,) = plan.changes
        paid = state is JobState.GENERATING or (state is JobState.SUBMITTING and intent is not None)
        assert change.keep == paid == (change.fields.get("accounting") == "open")
        assert plan.without_intent == (state is JobState.SUBMITTING and intent is None)
        assert change.release == plan.without_intent
        if paid:
            assert "epoch" not in change.bump, "what its holder learns still belongs to the accounting"


def test_a_resubmit_waits_for_the_first_post() -> None:
    """Refused, with the seconds left, until the first POST cannot be in flight any more."""
    each = job(JobState.UNKNOWN)
    with pytest.raises(TransitionRefused, match="in 1 s"):
        commands.plan_resubmit(each, by="ops", now_ms=NOW_MS + 119_001, wait_ms=120_000)
    plan = commands.plan_resubmit(each, by="ops", now_ms=NOW_MS + 120_000, wait_ms=120_000)
    (change,) = plan.changes
    assert (change.after, change.doubt, change.queue) == (JobState.QUEUED, True, True)
    assert change.fields == {"possible_double_charge": 1}


def test_a_resubmitted_job_keeps_its_deadline() -> None:
    """Once queued again it can expire again: the sweep must find it."""
    each = job(JobState.UNKNOWN, deadline_at=NOW_MS + 500_000)
    plan = commands.plan_resubmit(each, by="ops", now_ms=NOW_MS + 120_000, wait_ms=120_000)
    assert plan.changes[0].due_at == (("expiring", NOW_MS + 500_000),)
    (raw,) = encoded(plan)
    assert raw["n"] == [["expiring", "at", NOW_MS + 500_000]]


# --- deliveries, and what is not legal


@given(st.sampled_from(DeliveryState), small, texts, st.booleans())
def test_deliveries_encode(after: DeliveryState, retry_in_ms: int, status: str, counted: bool) -> None:
    """Pending stays due; every end leaves the index and is kept for the retention time."""
    plan = DeliveryTransition(
        event_id="evt_1", epoch=1, after=after, retry_in_ms=retry_in_ms, counted=counted, status=status
    )
    (change,) = from_json(to_json(plan.encode(RETAIN_MS)))["v"]
    pending = after is DeliveryState.PENDING
    assert (("n" in change), ("ttl" in change), ("t" in change)) == (pending, not pending, not pending)
    assert ("b" in change) == counted
    assert set(LEASE_FIELDS) <= set(change["u"])


@given(st.sampled_from(JobState), st.sampled_from(JobState))
def test_what_the_table_lacks_does_not_encode(before: JobState, after: JobState) -> None:
    """An illegal change raises before anything is sent."""
    plan = Transition(job_id="job_1", epoch=1, changes=(Change(before=before, after=after),))
    try:
        check(before, after)
    except IllegalTransition:
        with pytest.raises(IllegalTransition):
            plan.encode(RETAIN_MS)
    else:
        assert_sound(plan)
