"""enqueue_jobs.lua: all or nothing, once per key, within the caps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import OutOfMemoryError

from shared.jobs.transition import context_json

if TYPE_CHECKING:
    from tests.integration.lua.conftest import State


def test_same_key_same_request_is_the_same_job(state: State) -> None:
    """A repeated enqueue answers with the first job's id and makes nothing."""
    (job_id,) = state.enqueue(idempotency_key="k")
    assert state.try_enqueue(idempotency_key="k")[1] == [f"1:{job_id}".encode()]
    assert state.count("acme", "queued") == 1


def test_same_key_other_request_is_a_conflict(state: State) -> None:
    """Another request under a used key is refused and names the job that has the key."""
    (job_id,) = state.enqueue(idempotency_key="k")
    assert state.try_enqueue(idempotency_key="k", fingerprint="other")[1] == [f"2:{job_id}".encode()]


def test_keys_belong_to_tenants(state: State) -> None:
    """Two tenants may use the same key."""
    state.enqueue(idempotency_key="k", tenant="a")
    state.enqueue(idempotency_key="k", tenant="b")
    assert state.count("*", "queued") == 2


def test_duplicates_inside_one_chunk(state: State) -> None:
    """The second of two equal items of one chunk finds the first."""
    ids, replies = state.try_enqueue(2, idempotency_key="k")
    assert replies == [0, f"1:{ids[0]}".encode()]


def test_chunk_sent_twice_is_accepted_once(state: State) -> None:
    """When the reply was lost, the client sends the same ids again: the answer is the same, the jobs are not reset."""
    ids = state.enqueue(2)
    state.claim_submit(1)
    assert state.try_enqueue(2, ids=ids)[1] == [0, 0]
    assert [state.job(job_id).state for job_id in ids] == ["submitting", "queued"]
    assert state.count("*", "queued") == 1


def test_backlog_caps_admit_exactly(state: State) -> None:
    """A chunk across the cap is admitted up to it, item by item; the tenant's own cap is checked first."""
    state.limits = state.limits.model_copy(update={"backlog_per_tenant": 3, "backlog": 4})
    assert state.try_enqueue(5, tenant="a")[1] == [0, 0, 0, 3, 3]
    assert state.try_enqueue(3, tenant="b")[1] == [0, 4, 4]


def test_sealed_batch_takes_duplicates_only(state: State) -> None:
    """Adding to a sealed batch is refused; asking again for what is in it is not."""
    (job_id,) = state.enqueue(batch="b", idempotency_key="k")
    state.call("close_batch", context_json(state.limits), "acme", "b", "seal")
    assert state.try_enqueue(batch="b")[1] == [5]
    assert state.try_enqueue(batch="b", idempotency_key="k")[1] == [f"1:{job_id}".encode()]
    assert state.client.hget(state.keys.batch("acme", "b"), "total") == b"1"


def test_batch_counts_its_jobs(state: State) -> None:
    """The batch knows its total, its counts by state, and its jobs in order."""
    ids = state.enqueue(3, batch="b")
    state.claim_submit(1)
    record = state.client.hgetall(state.keys.batch("acme", "b"))
    assert (record[b"total"], record[b"n:queued"], record[b"n:submitting"]) == (b"3", b"2", b"1")
    members: Any = state.client.lrange(state.keys.batch_jobs("acme", "b"), 0, -1)
    assert [member.decode() for member in members] == ids


def test_metadata_and_webhook_are_kept_as_given(state: State) -> None:
    """What the owner gave comes back untouched."""
    (job_id,) = state.enqueue(metadata={"order": [1, "ü", None]}, webhook="https://a.test/x")
    job = state.job(job_id)
    assert (job.metadata, job.webhook) == ({"order": [1, "ü", None]}, "https://a.test/x")


def test_full_server_refuses_the_chunk_whole(state: State) -> None:
    """On OOM nothing of the chunk exists, while jobs that run can still be finished (allow-oom scripts)."""
    entry = state.generating()
    before = set(state.client.scan_iter(f"{state.keys.prefix}*"))
    state.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            state.try_enqueue(3)
        assert set(state.client.scan_iter(f"{state.keys.prefix}*")) == before
        from tests.integration.lua.test_apply_transitions import completed

        assert state.apply(completed(entry["id"], int(entry["epoch"]))) == [1]
    finally:
        state.client.config_set("maxmemory", 0)
