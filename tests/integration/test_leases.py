"""Leases on a real server: one call renews all that a process holds, what is lost is dropped, a stuck loop stops."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from shared.redis.client import make_client
from shared.settings import RedisSettings, Settings, WorkerSettings
from tests.conftest import State
from tests.servers import ValkeyProc
from workers.claims import Entry
from workers.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LANE = "main/wan2.7-image"
POLL, NOTIFY = f"poll:{LANE}", "notify"
LEASE_MS = 12_000
PATIENCE_S = 30


def never_stuck(_threshold_s: float) -> bool:
    return False


class Desk:
    """Leases of one process on a namespace, and what the server knows of them."""

    def __init__(self, state: State, *, stuck: Callable[[float], bool] = never_stuck) -> None:
        state.owned.append("*")
        self.state = state
        self.client = make_client(state.settings.redis)
        self.settings = WorkerSettings(lease_s=LEASE_MS / 1000, renew_s=0.02)
        self.leases = Leases(self.client, state.keys, self.settings, stuck=stuck)

    def claimed(self, entry_id: str, *, index: str = POLL, epoch: int = 3, due_in_ms: int = 0) -> Entry:
        """Give an entry that this process has claimed; its lease is about to end."""
        kind = "d" if index == NOTIFY else "j"
        keys = self.state.keys
        key = keys.delivery(entry_id) if kind == "d" else keys.job(entry_id)
        self.state.client.hset(key, mapping={"epoch": epoch, "state": "any", "leased": "w1"})
        self.state.client.zadd(keys.index(index), {entry_id: self.now_ms() + due_in_ms})
        return Entry(entry_id, index, kind, epoch, {"epoch": str(epoch)})

    def taken_over(self, entry: Entry) -> None:
        """Let another process have claimed it."""
        self.state.client.hincrby(self.state.keys.job(entry.id), "epoch", 1)

    def now_ms(self) -> int:
        seconds, micros = self.state.client.time()
        return seconds * 1000 + micros // 1000

    def left_ms(self, entry: Entry) -> float:
        """How long the lease still lasts, by the server's clock."""
        score = self.state.client.zscore(self.state.keys.index(entry.index), entry.id)
        assert score is not None
        return float(score) - self.now_ms()

    def is_renewed(self, entry: Entry) -> bool:
        return self.left_ms(entry) > LEASE_MS / 2


@pytest.fixture
def desk(state: State) -> Iterator[Desk]:
    made = Desk(state)
    yield made
    made.leases.stop()
    made.client.close()


def until(true: Callable[[], object], what: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up_at, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.005)


def script_calls(state: State) -> int:
    stats: Any = state.client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


def test_all_are_renewed_in_one_call(desk: Desk) -> None:
    """Jobs and deliveries of several indexes last a whole lease again, counted by the server's clock."""
    entries = [desk.claimed(f"job_{at}") for at in range(50)]
    entries += [desk.claimed("evt_1", index=NOTIFY), desk.claimed("job_s", index="store")]
    for entry in entries:
        desk.leases.hold(entry)
    desk.leases.renew()  # the server learns the script
    before = script_calls(desk.state)
    assert desk.leases.renew() == []
    assert script_calls(desk.state) - before == 1
    assert len(desk.leases) == len(entries)
    assert [entry.id for entry in entries if not LEASE_MS / 2 < desk.left_ms(entry) <= LEASE_MS] == []


def test_holding_nothing_costs_nothing(desk: Desk) -> None:
    """An idle process does not ask the server."""
    before = script_calls(desk.state)
    assert desk.leases.renew() == []
    assert script_calls(desk.state) == before


def test_a_lost_lease_is_dropped(desk: Desk) -> None:
    """What another process claimed is given back to the caller by id, forgotten, and left alone in its index."""
    lost, kept = desk.claimed("job_lost"), desk.claimed("job_kept")
    for entry in (lost, kept):
        desk.leases.hold(entry)
    desk.taken_over(lost)
    with capture_logs() as logs:
        assert desk.leases.renew() == ["job_lost"]
    assert (len(desk.leases), desk.is_renewed(kept), desk.is_renewed(lost)) == (1, True, False)
    assert [(line["event"], line["count"]) for line in logs] == [("leases_lost", 1)]
    assert desk.leases.renew() == []


def test_a_job_that_goes_on_in_the_same_process_keeps_its_new_lease(desk: Desk) -> None:
    """Its next stage was claimed here before the last one let go: only the older lease of the two is lost."""
    before = desk.claimed("job_1")
    desk.leases.hold(before)
    desk.taken_over(before)
    after = replace(before, index="store", epoch=before.epoch + 1)
    desk.state.client.zadd(desk.state.keys.index("store"), {"job_1": desk.now_ms() + 1000})
    desk.leases.hold(after)
    assert desk.leases.renew() == ["job_1"]
    assert desk.leases.indexes() == ["store"]
    assert desk.leases.renew() == []
    assert desk.is_renewed(after)


def test_a_job_that_is_gone_is_lost(desk: Desk) -> None:
    """A record that was removed has no epoch: its lease is dropped, and nothing is made of it anew."""
    entry = desk.claimed("job_gone")
    desk.leases.hold(entry)
    desk.state.client.delete(desk.state.keys.job("job_gone"))
    assert desk.leases.renew() == ["job_gone"]
    assert not desk.state.client.exists(desk.state.keys.job("job_gone"))


def test_what_left_its_index_is_not_put_back(desk: Desk) -> None:
    """A transition took the job out while the lease was still held: renewing must not make it due there again."""
    entry = desk.claimed("job_done")
    desk.leases.hold(entry)
    desk.state.client.zrem(desk.state.keys.index(POLL), "job_done")
    assert desk.leases.renew() == []
    assert desk.state.client.zscore(desk.state.keys.index(POLL), "job_done") is None


@pytest.mark.parametrize(("entry_id", "index"), [("job_1", POLL), ("evt_1", NOTIFY)])
def test_a_renewal_after_the_outcome_delays_nothing(desk: Desk, entry_id: str, index: str) -> None:
    """The outcome made it due again in the same index, under the same epoch: a renewal on its way changes no time."""
    entry = desk.claimed(entry_id, index=index, due_in_ms=1000)
    key = desk.state.keys.delivery(entry_id) if index == NOTIFY else desk.state.keys.job(entry_id)
    desk.leases.hold(entry)
    desk.state.client.hdel(key, "leased")
    assert desk.leases.renew() == []
    assert desk.left_ms(entry) <= 1000


def test_a_dropped_lease_is_not_renewed(desk: Desk) -> None:
    """Once its work has ended the lease runs out by itself, or by the transition that ended it."""
    entry = desk.claimed("job_1")
    desk.leases.hold(entry)
    desk.leases.drop(entry)
    desk.leases.renew()
    assert (len(desk.leases), desk.is_renewed(entry)) == (0, False)


def test_the_end_of_an_old_claim_leaves_the_new_one(desk: Desk) -> None:
    """The same process claimed the job again: dropping the lease of the first claim keeps that of the second."""
    first = desk.claimed("job_1", epoch=3)
    desk.leases.hold(first)
    second = desk.claimed("job_1", epoch=4)
    desk.leases.hold(second)
    desk.leases.drop(first)
    assert desk.leases.renew() == []
    assert (len(desk.leases), desk.is_renewed(second)) == (1, True)
    desk.leases.drop(second)
    desk.leases.drop(second)
    assert len(desk.leases) == 0


def test_the_thread_renews_until_it_is_stopped(desk: Desk) -> None:
    """A lease that would end is extended again and again; after stop the thread is gone."""
    entry = desk.claimed("job_1")
    desk.leases.hold(entry)
    desk.leases.start()
    for _ in range(3):
        desk.state.client.zadd(desk.state.keys.index(POLL), {"job_1": 1})
        until(lambda: desk.is_renewed(entry), "renewed")
    desk.leases.stop()
    assert "darkroom-leases" not in {thread.name for thread in threading.enumerate()}


def test_a_stuck_loop_stops_renewing(state: State) -> None:
    """A process whose event loop hangs cannot act: its leases run out, and are renewed again once it turns."""
    stuck, asked = threading.Event(), []

    def is_stuck(threshold_s: float) -> bool:
        asked.append(threshold_s)
        return stuck.is_set()

    desk = Desk(state, stuck=is_stuck)
    entry = desk.claimed("job_1")
    stuck.set()
    desk.leases.hold(entry)
    with capture_logs() as logs:
        desk.leases.start()
        until(lambda: len(asked) > 3, "asked whether the loop is stuck")
        assert not desk.is_renewed(entry)
        assert {(line["event"], line.get("reason")) for line in logs} == {
            ("leases_not_renewed", "event loop is stuck")
        }
        stuck.clear()
        until(lambda: desk.is_renewed(entry), "renewed once the loop turns")
    desk.leases.stop()
    desk.client.close()
    assert set(asked) == {desk.settings.renew_s}


def test_a_server_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    """The thread outlives the state server: what is held is renewed as soon as it answers."""
    with ValkeyProc(tmp_path, appendfsync="always") as server, server.client() as client:
        settings = Settings(redis=RedisSettings(url=server.url(), namespace="leases"))
        desk = Desk(State(server, client, settings))
        entry = desk.claimed("job_1")
        desk.leases.hold(entry)
        server.kill()
        with capture_logs() as logs:
            desk.leases.start()
            until(lambda: len(logs) > 1, "failed")
            server.start()
            until(lambda: desk.is_renewed(entry), "renewed")
        desk.leases.stop()
        desk.client.close()
    assert {line["reason"] for line in logs} <= {"ConnectionError", "TimeoutError", "BusyLoadingError"}


def test_no_fault_ends_the_thread(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it every job of this process would be given to others: a fault is logged, and the next turn renews."""
    entry = desk.claimed("job_1")
    desk.leases.hold(entry)
    renew, faults = desk.leases.renew, [KeyError("once"), RuntimeError("twice")]

    def faulty() -> list[str]:
        if faults:
            raise faults.pop()
        return renew()

    monkeypatch.setattr(desk.leases, "renew", faulty)
    with capture_logs() as logs:
        desk.leases.start()
        until(lambda: desk.is_renewed(entry), "renewed after two faults")
    assert [line["reason"] for line in logs[:2]] == ["RuntimeError", "KeyError"]


def test_holding_and_dropping_while_others_are_lost(desk: Desk) -> None:
    """The loop drops leases while the thread finds them lost: neither trips over the other."""
    entries = [desk.claimed(f"job_{at}") for at in range(200)]
    for entry in entries:
        desk.taken_over(entry)
    faults: list[BaseException] = []
    ready = threading.Barrier(2)

    def drop_all() -> None:
        ready.wait()
        try:
            for entry in entries:
                desk.leases.drop(entry)
        except BaseException as error:  # noqa: BLE001 - told by the test, whatever it is
            faults.append(error)

    for _ in range(5):
        for entry in entries:
            desk.leases.hold(entry)
        dropping = threading.Thread(target=drop_all)
        dropping.start()
        ready.wait()
        desk.leases.renew()
        dropping.join()
    assert (faults, len(desk.leases)) == ([], 0)
