"""The pacemaker: when it looks, and what a look leads to. The clock is a variable; threads appear only where meant."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import redis
from structlog.testing import capture_logs

from shared.redis.looks import Look, Seen
from workers.pacemaker import CONFIRM_S, GAP_S, HUNG_AFTER_S, Pacemaker, Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBMIT = Look("submit", "default/m", "m")
POLL = Look("poll", "default/m", "m")
STORE = Look("store", "", "")
LOOKS = (SUBMIT, POLL, STORE)


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class State:
    """A state server that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Look], bool]] = []
        self.waiting: dict[Look, tuple[int, int, int]] = {}
        self.sweep = False
        self.error: Exception | None = None
        self.looked = threading.Event()

    def __call__(self, looks: Sequence[Look], *, sweep: bool) -> tuple[int, bool, list[Seen]]:
        self.asked.append((list(looks), sweep))
        self.looked.set()
        if self.error is not None:
            raise self.error
        return 1, self.sweep, [Seen(look, *self.waiting.get(look, (0, 0, -1))) for look in looks]


class Broker:
    """A broker that takes hints, or does not."""

    def __init__(self) -> None:
        self.up = True
        self.hints: list[tuple[str, str, int]] = []

    def __call__(self, stage: str, lane: str, count: int) -> bool:
        self.hints.append((stage, lane, count))
        return self.up


class Stages:
    """A runtime that remembers what it was told to run."""

    looks = LOOKS

    def __init__(self) -> None:
        self.spawned: list[tuple[str, str]] = []

    def spawn_stage(self, stage: str, lane: str) -> None:
        self.spawned.append((stage, lane))

    def run_stage(self, stage: str, lane: str) -> None:
        raise AssertionError(f"the pacemaker must never block on a stage: {stage} {lane}")

    def stop_claims(self) -> None: ...

    def close(self) -> None: ...

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        return job_ids


class Rig:
    """A pacemaker with everything around it under the test's hand."""

    def __init__(self) -> None:
        self.clock, self.state, self.broker, self.stages = Clock(), State(), Broker(), Stages()
        self.pacemaker = Pacemaker(self.state, self.broker, tick_s=1.0, clock=self.clock)
        self.pacemaker.attach(self.stages)

    def beat(self, after_s: float = 0.0) -> list[tuple[list[Look], bool]]:
        """Let time pass, let it beat, and give the looks of that beat."""
        self.clock.now += after_s
        before = len(self.state.asked)
        self.pacemaker.beat()
        return self.state.asked[before:]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_first_beat_and_every_tick_look_everywhere_and_ask_to_sweep(rig: Rig) -> None:
    """Nothing armed, nothing found: still every look is made once a second."""
    assert rig.beat() == [(list(LOOKS), True)]
    assert rig.beat(0.5) == []
    assert rig.beat(0.5) == [(list(LOOKS), True)]


def test_an_armed_time_looks_there_alone_just_after_it(rig: Rig) -> None:
    """A look before the due millisecond would see nothing due and cost a second one."""
    rig.beat()
    rig.pacemaker.arm("poll", "default/m", 200)
    assert rig.beat(0.2) == []
    assert rig.beat(0.0011) == [([POLL], False)]
    assert rig.beat(0.05) == []


def test_times_armed_close_together_share_one_look(rig: Rig) -> None:
    """A burst of arms within the gap costs one script call, and none is forgotten."""
    rig.beat()
    rig.pacemaker.arm("poll", "default/m", 100)
    rig.pacemaker.arm("poll", "default/m", 105)
    rig.pacemaker.arm("submit", "default/m", 106)
    assert rig.beat(0.102) == [([POLL], False)]
    assert rig.beat(GAP_S / 2) == []
    assert rig.beat(GAP_S) == [([SUBMIT], False)]


def test_the_earliest_of_several_times_for_one_place_counts() -> None:
    """A later arm never moves an earlier one back."""
    schedule = Schedule(tick_s=1.0, now_s=0.0)
    schedule.take_due(0.0)
    assert schedule.arm(("poll", "l"), 0.5) is True
    assert schedule.arm(("poll", "l"), 0.7) is False
    assert schedule.arm(("poll", "l"), 0.3) is True
    assert schedule.next_at() == 0.3


def test_only_a_time_before_all_others_wakes_the_thread() -> None:
    """Arming is on the hot path of the event loop: no needless wake-ups."""
    schedule = Schedule(tick_s=1.0, now_s=0.0)
    schedule.take_due(0.0)
    schedule.arm(("poll", "a"), 0.2)
    assert schedule.arm(("poll", "b"), 0.4) is False
    assert schedule.arm(("poll", "c"), 0.1) is True


def test_times_beyond_the_tick_are_left_to_the_tick() -> None:
    """A job due tomorrow takes no place here: every tick sees it anew."""
    schedule = Schedule(tick_s=1.0, now_s=0.0)
    schedule.take_due(0.0)
    assert schedule.arm(("poll", "a"), 3600.0) is False
    assert schedule.next_at() == 1.0


def test_what_is_due_is_hinted_as_often_as_the_look_says(rig: Rig) -> None:
    """The look counts what may be outstanding; the pacemaker publishes exactly that."""
    rig.state.waiting[STORE] = (3, 250, 0)
    rig.beat()
    assert rig.broker.hints == [("store", "", 3)]
    assert rig.stages.spawned == []


def test_what_is_due_soon_is_looked_at_then(rig: Rig) -> None:
    """next_in_ms of a look arms the next one."""
    rig.state.waiting[POLL] = (0, 0, 400)
    rig.beat()
    assert rig.beat(0.4) == []
    assert rig.beat(0.002) == [([POLL], False)]


def test_without_a_broker_the_stage_runs_here(rig: Rig) -> None:
    """A dead broker costs nothing but the sharing among workers."""
    rig.broker.up = False
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    rig.beat()
    assert rig.stages.spawned == [("submit", "default/m")]


def test_a_lost_hint_costs_one_flag_time(rig: Rig) -> None:
    """The broker took the message and lost it: the work is looked at again and runs here as well."""
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    rig.beat()
    assert rig.beat(CONFIRM_S + 0.001) == [([SUBMIT], False)]
    assert rig.stages.spawned == [("submit", "default/m")]


def test_a_hint_that_arrived_leads_to_nothing_more(rig: Rig) -> None:
    """Confirmed work is not run a second time."""
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    rig.beat()
    rig.state.waiting[SUBMIT] = (0, 0, -1)
    rig.beat(CONFIRM_S + 0.001)
    assert rig.stages.spawned == []
    assert len(rig.broker.hints) == 1


def test_new_work_just_after_a_hint_does_not_count_as_lost(rig: Rig) -> None:
    """Within the flag's time a second hint means that the first was received."""
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    rig.beat()
    rig.pacemaker.arm("submit", "default/m", 50)
    assert rig.beat(0.06) == [([SUBMIT], False)]
    assert rig.stages.spawned == []
    assert len(rig.broker.hints) == 2


def test_work_that_nobody_can_take_is_looked_at_about_twice_a_second(rig: Rig) -> None:
    """A paused lane stays due for hours: neither the broker nor this process may be flooded with it."""
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    for _ in range(1000):
        rig.beat(0.01)
    assert 15 <= len(rig.broker.hints) <= 25
    assert 7 <= len(rig.stages.spawned) <= 12


def test_an_elected_sweep_is_started_here(rig: Rig) -> None:
    """The look elects one worker; it sweeps on its own loop."""
    rig.state.sweep = True
    rig.beat()
    assert rig.stages.spawned == [("sweep", "")]


def test_a_sweep_comes_now_and_then_though_nothing_waits_for_one(rig: Rig) -> None:
    """Counters of past days and endpoints of old workers are tidied by sweeps alone: every ten minutes then."""
    rig.beat()
    for _ in range(1200):
        rig.beat(1.0)
    assert rig.stages.spawned == [("sweep", "")] * 2


def test_an_outage_of_the_state_server_is_survived_and_logged_once(rig: Rig) -> None:
    """Every tick tries again; the log says when it began and when it ended."""
    rig.state.error = redis.ConnectionError("down")
    with capture_logs() as logged:
        for _ in range(4):
            assert rig.beat(1.0) == [(list(LOOKS), True)]
        rig.state.error = None
        rig.state.waiting[STORE] = (1, 1, 0)
        rig.beat(1.0)
    told = [entry["event"] for entry in logged if entry["event"].startswith("state_")]
    assert told == ["state_unreachable", "state_reached_again"]
    assert rig.broker.hints == [("store", "", 1)]


def test_places_that_this_worker_does_not_serve_are_not_looked_at(rig: Rig) -> None:
    """A stage may arm whatever it likes."""
    rig.beat()
    rig.pacemaker.arm("poll", "other/lane", 10)
    assert rig.beat(0.1) == []


def test_after_halt_nothing_is_looked_at_or_started(rig: Rig) -> None:
    """SIGTERM: no new work, at once."""
    rig.state.waiting[SUBMIT] = (1, 5, 0)
    rig.pacemaker.halt()
    assert rig.beat(5.0) == []
    assert rig.stages.spawned == []
    assert rig.pacemaker.watch() is False


def test_the_watch_replaces_a_thread_that_died(rig: Rig) -> None:
    """The pacemaker is load-bearing: without looks a generation is never polled."""
    assert rig.pacemaker.watch() is True
    try:
        assert rig.state.looked.wait(20)
        assert rig.pacemaker.watch() is False
        assert rig.pacemaker.restarts == 1
    finally:
        rig.pacemaker.stop()


def test_the_watch_replaces_a_thread_that_hangs(rig: Rig) -> None:
    """A look that never returns is given up; the new thread goes on looking."""
    hang, looks = threading.Event(), threading.Semaphore(0)
    turns = iter([True, *[False] * 100])

    def look(_looks: Sequence[Look], *, sweep: bool) -> tuple[int, bool, list[Seen]]:
        looks.release()
        if next(turns):
            hang.wait(60)
        return 1, sweep, []

    pacemaker = Pacemaker(look, rig.broker, tick_s=1.0, clock=rig.clock)
    pacemaker.attach(rig.stages)
    pacemaker.watch()
    try:
        assert looks.acquire(timeout=20)
        assert pacemaker.watch() is False
        rig.clock.now += HUNG_AFTER_S + 1
        assert pacemaker.watch() is True
        assert looks.acquire(timeout=20)
    finally:
        hang.set()
        pacemaker.stop()


def test_a_fault_in_a_beat_is_counted_and_the_thread_goes_on() -> None:
    """A bug in one look must not stop all later ones."""
    beats = threading.Semaphore(0)

    def look(_looks: Sequence[Look], *, sweep: bool) -> tuple[int, bool, list[Seen]]:
        beats.release()
        raise ValueError(f"a bug, sweep={sweep}")

    pacemaker = Pacemaker(look, Broker(), tick_s=0.01)
    pacemaker.start(Stages())
    try:
        for _ in range(3):
            assert beats.acquire(timeout=20)
        assert pacemaker.faults >= 2
        assert pacemaker.restarts == 0
    finally:
        pacemaker.stop()


def test_arming_wakes_a_thread_that_sleeps_until_its_tick() -> None:
    """The real thread, with a tick so far off that only the arm can have woken it."""
    state = State()
    pacemaker = Pacemaker(state, Broker(), tick_s=3600)
    pacemaker.start(Stages())
    try:
        assert state.looked.wait(20)
        state.looked.clear()
        pacemaker.arm("poll", "default/m", 5)
        assert state.looked.wait(20)
        assert state.asked[1] == ([POLL], False)
    finally:
        pacemaker.stop()
