"""`enqueue_many`: a stream of any length, a disposition per item, accepted once whatever is lost."""

from __future__ import annotations

import base64
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import redis
from PIL import Image

from producers import BacklogFull, BatchSealed, Darkroom, InvalidRequest, StateUnavailable, StorageError
from producers.link import Link
from shared.jobs.enqueue import CHUNK_JOBS as REAL_CHUNK_JOBS
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_enqueue import with_limits
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers import ItemReceipt
    from tests.conftest import State


CHUNK_JOBS = 20  # in this module: chunks are many, jobs are few


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks small."""
    monkeypatch.setattr("producers.bulk.CHUNK_JOBS", CHUNK_JOBS)


def foxes(count: int, start: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Requests with a key each."""
    for nr in range(start, start + count):
        yield FOX | {"seed": nr}, {"idempotency_key": f"fox-{nr}"}


def data_uri(color: str = "red") -> str:
    image = BytesIO()
    Image.new("RGB", (300, 300), color).save(image, "PNG")
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()


def test_streams_more_than_a_chunk(darkroom: Darkroom, state: State) -> None:
    """Every item of a generator becomes a job of the batch, in order, and the batch is sealed at the end."""
    count = 2 * CHUNK_JOBS + 7
    receipt = darkroom.enqueue_many(foxes(count), tenant="acme", batch="b")
    assert (receipt.enqueued, receipt.duplicates, receipt.rejected) == (count, 0, 0)
    assert (receipt.price_micros, receipt.tenants, receipt.sealed) == (
        {"CNY": count * 200_000},
        ("acme",),
        True,
    )
    in_batch: Any = state.client.lrange(state.keys.batch_jobs("acme", "b"), 0, -1)
    assert [job_id.decode() for job_id in in_batch] == receipt.job_ids
    seeds = [job.request["seed"] for job in darkroom.get_many(receipt.job_ids) if job]
    assert seeds == list(range(count))


def test_a_chunk_of_full_size_fits_the_script(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lua's stack holds what a full chunk unpacks, each job of another kind, in a batch and with a key."""
    monkeypatch.setattr("producers.bulk.CHUNK_JOBS", REAL_CHUNK_JOBS)
    items = (
        (item, {**key, "deadline": f"{nr}h"}) for nr, (item, key) in enumerate(foxes(REAL_CHUNK_JOBS), 1)
    )
    assert darkroom.enqueue_many(items, batch="b").enqueued == REAL_CHUNK_JOBS
    assert darkroom.batch("b").total == REAL_CHUNK_JOBS


def test_jobs_run_in_the_order_of_the_items(darkroom: Darkroom, state: State) -> None:
    """The queue keeps the order over chunks; a higher priority goes first."""
    receipt = darkroom.enqueue_many([*foxes(CHUNK_JOBS + 5), (FOX, {"priority": 1})])
    queue: Any = state.client.zrange(state.keys.queue("wan2.7-image", "default"), 0, -1)
    assert [job_id.decode() for job_id in queue] == [receipt.job_ids[-1], *receipt.job_ids[:-1]]


def test_takes_from_the_iterable_no_more_than_two_chunks_ahead(darkroom: Darkroom) -> None:
    """The iterable is never read far beyond what the server has acknowledged."""
    taken, acknowledged, ahead = 0, 0, 0

    def items() -> Iterator[Any]:
        nonlocal taken, ahead
        for item in foxes(6 * CHUNK_JOBS):
            taken += 1
            ahead = max(ahead, taken - acknowledged)
            yield item

    def count(_: ItemReceipt) -> None:
        nonlocal acknowledged
        acknowledged += 1

    darkroom.enqueue_many(items(), on_disposition=count, keep=False)
    assert acknowledged == 6 * CHUNK_JOBS
    assert ahead <= 2 * CHUNK_JOBS


def test_items_of_a_slow_iterable_do_not_wait_for_a_full_chunk(darkroom: Darkroom) -> None:
    """What a slow source gave is enqueued while it is still thinking of more."""
    seen: list[int] = []

    def items() -> Iterator[Any]:
        yield FOX
        time.sleep(0.3)
        yield FOX
        seen.append(darkroom.overview().counts["queued"])
        yield FOX

    darkroom.enqueue_many(items())
    assert seen == [2]


def test_bad_items_are_rejected_and_never_stop_the_rest(darkroom: Darkroom) -> None:
    """Each item has its disposition; a rejected one has field, rule and value."""
    darkroom.enqueue(FOX, idempotency_key="used")
    items: list[Any] = [
        FOX,
        FOX | {"n": 9},
        (FOX, {"idempotency_key": "used"}),
        (FOX | {"n": 2}, {"idempotency_key": "used"}),
        (FOX, {"priority": 500}),
        (FOX, {"tenant": "a b"}),
        (FOX, {"colour": 1}),
        (FOX, 5),
        "a fox",
        FOX | {"size": "2K"},
    ]
    receipt = darkroom.enqueue_many(items)
    assert [item.disposition for item in receipt.items] == [
        "enqueued", "rejected", "duplicate", *["rejected"] * 6, "enqueued",
    ]  # fmt: skip
    issues = {item.index: item.issues[0] for item in receipt.rejections}
    assert [(issue.field, issue.rule) for issue in issues.values()] == [
        ("n", "maximum"), ("idempotency_key", "conflict"), ("priority", "range"), ("tenant", "name"),
        ("colour", "unknown_field"), ("", "type"), ("", "type"),
    ]  # fmt: skip
    assert issues[1].value == "9"
    assert (receipt.enqueued, receipt.duplicates, receipt.rejected, receipt.total) == (2, 1, 7, 10)


def test_warnings_are_on_the_item(darkroom: Darkroom) -> None:
    """A request that the API partly ignores is enqueued, with a remark."""
    ignored = FOX | {"enable_sequential": True, "thinking_mode": True}
    receipt = darkroom.enqueue_many([FOX, ignored])
    assert [item.warnings for item in receipt.items] == [(), ("thinking_mode: ignored in sequential mode",)]


def test_duplicates_inside_one_call(darkroom: Darkroom) -> None:
    """Items that repeat a key of the same call find the first one's job."""
    receipt = darkroom.enqueue_many([*foxes(3), *foxes(3)])
    assert (receipt.enqueued, receipt.duplicates) == (3, 3)
    assert receipt.job_ids[:3] == receipt.job_ids[3:]


def test_a_second_run_adds_nothing(darkroom: Darkroom) -> None:
    """With keys, the same call again gives duplicates of the same jobs, although the batch is sealed now."""
    first = darkroom.enqueue_many(foxes(CHUNK_JOBS + 3), batch="b")
    second = darkroom.enqueue_many(foxes(CHUNK_JOBS + 3), batch="b")
    assert (second.enqueued, second.duplicates) == (0, CHUNK_JOBS + 3)
    assert second.job_ids == first.job_ids
    assert darkroom.batch("b").total == CHUNK_JOBS + 3


def test_without_keep_only_counts_remain(darkroom: Darkroom) -> None:
    """The callback hears of every item in order; the receipt holds none."""
    heard: list[int] = []
    receipt = darkroom.enqueue_many(
        [*foxes(CHUNK_JOBS), {}, *foxes(1)], keep=False, on_disposition=lambda item: heard.append(item.index)
    )
    assert heard == list(range(CHUNK_JOBS + 2))
    assert (receipt.enqueued, receipt.duplicates, receipt.rejected, len(receipt.items)) == (
        CHUNK_JOBS,
        1,
        1,
        0,
    )


def test_items_may_name_their_tenant(darkroom: Darkroom) -> None:
    """A batch belongs to a tenant: one of the name for each, all sealed."""
    items: list[Any] = [(FOX, {"tenant": tenant}) for tenant in ("a", "b", "a")]
    receipt = darkroom.enqueue_many(items, batch="b")
    assert receipt.tenants == ("a", "b")
    assert [darkroom.batch("b", tenant).total for tenant in receipt.tenants] == [2, 1]
    assert all(darkroom.batch("b", tenant).sealed for tenant in receipt.tenants)
    assert [job and job.tenant for job in darkroom.get_many(receipt.job_ids)] == ["a", "b", "a"]


def test_defaults_and_options_of_an_item(darkroom: Darkroom) -> None:
    """An item's own options win over the call's."""
    items: list[Any] = [FOX, (FOX, {"priority": 9}), (FOX, {"metadata": "mine", "priority": None})]
    receipt = darkroom.enqueue_many(items, priority=3, metadata="ours", on_unknown="fail")
    jobs = [job for job in darkroom.get_many(receipt.job_ids) if job]
    assert [job.metadata for job in jobs] == ["ours", "ours", "mine"]
    assert {job.on_unknown for job in jobs} == {"fail"}


def test_one_key_for_many_jobs_is_an_error(darkroom: Darkroom) -> None:
    """A key is one job's; as a default it would make all others duplicates."""
    options: dict[str, Any] = {"idempotency_key": "k"}
    with pytest.raises(InvalidRequest, match="belongs to one job"):
        darkroom.enqueue_many([FOX], **options)


def test_an_iterable_that_raises_leaves_the_batch_open(darkroom: Darkroom) -> None:
    """Its error comes through; what was sent stays, and a second run can go on."""

    def items() -> Iterator[Any]:
        yield from foxes(CHUNK_JOBS)
        raise LookupError("out of foxes")

    with pytest.raises(LookupError, match="out of foxes"):
        darkroom.enqueue_many(items(), batch="b")
    assert (darkroom.batch("b").total, darkroom.batch("b").sealed) == (CHUNK_JOBS, False)
    assert darkroom.enqueue_many(foxes(CHUNK_JOBS + 1), batch="b").enqueued == 1


def test_an_empty_iterable_makes_nothing(darkroom: Darkroom) -> None:
    """No batch appears for no jobs."""
    receipt = darkroom.enqueue_many([], batch="b")
    assert (receipt.total, receipt.sealed, receipt.tenants) == (0, False, ())


def test_may_leave_the_batch_open(darkroom: Darkroom) -> None:
    """With seal=False more can follow; `seal` closes it."""
    darkroom.enqueue_many(foxes(1), batch="b", seal=False)
    assert darkroom.enqueue_many(foxes(1, 1), batch="b").sealed
    assert darkroom.batch("b").total == 2


def test_a_sealed_batch_ends_the_call(darkroom: Darkroom) -> None:
    """The error carries what was acknowledged: here the duplicate, and that the new one was refused."""
    darkroom.enqueue_many(foxes(1), batch="b")
    with pytest.raises(BatchSealed) as caught:
        darkroom.enqueue_many(foxes(2), batch="b")
    assert [item.disposition for item in caught.value.receipt.items] == ["duplicate", "rejected"]


def test_a_full_backlog_ends_the_call(state: State) -> None:
    """Exactly the cap is admitted; the receipt tells which items are in."""
    with Darkroom(with_limits(state, backlog_per_tenant=CHUNK_JOBS + 10)) as darkroom:
        with pytest.raises(BacklogFull) as caught:
            darkroom.enqueue_many(foxes(5 * CHUNK_JOBS), batch="b")
        receipt = caught.value.receipt
        assert receipt.enqueued == darkroom.batch("b").total == CHUNK_JOBS + 10
        assert next(receipt.rejections).index == CHUNK_JOBS + 10
        assert not darkroom.batch("b").sealed


def test_the_batch_webhook_is_that_of_the_jobs_unless_given(state: State) -> None:
    """The completion event goes to the batch's own webhook, else to the jobs'."""
    webhooks = state.settings.webhooks.model_copy(
        update={"endpoints": {"jobs": {"url": "https://a.test/"}, "batches": {"url": "https://b.test/"}}}
    )
    with Darkroom(state.settings.model_copy(update={"webhooks": webhooks})) as darkroom:
        darkroom.enqueue_many([FOX], batch="one", webhook="jobs")
        receipt = darkroom.enqueue_many([FOX], batch="two", webhook="jobs", batch_webhook="batches")
        assert darkroom.get(receipt.job_ids[0]).webhook == "jobs"
    of = [state.client.hget(state.keys.batch("default", name), "webhook") for name in ("one", "two")]
    assert of == [b"jobs", b"batches"]


# --- inputs ---


def storing(state: State, folder: Path) -> Any:
    storage = state.settings.storage.model_copy(update={"url": f"file://{folder}"})
    return state.settings.model_copy(update={"storage": storage})


def test_data_uris_go_to_the_object_store(state: State, tmp_path: Path) -> None:
    """Redis gets a reference; the bytes are in the store once, and the fingerprint is that of the content."""
    request = FOX | {"image_urls": [data_uri(), "https://a.test/b.png"]}
    with Darkroom(storing(state, tmp_path)) as darkroom:
        receipt = darkroom.enqueue_many([(request, {"idempotency_key": "k"})])
        again = darkroom.enqueue(request, idempotency_key="k")
        urls = darkroom.get(receipt.job_ids[0]).request["image_urls"]
    assert again.job_id == receipt.job_ids[0]
    assert urls[1] == "https://a.test/b.png"
    (stored,) = (tmp_path / "inputs" / "default").iterdir()
    assert urls[0] == f"darkroom-input:inputs/default/{stored.name}"
    with Image.open(stored) as image:
        assert image.size == (300, 300)


def test_data_uris_need_a_store(state: State) -> None:
    """With storage off the item is rejected, with what to do."""
    storage = state.settings.storage.model_copy(update={"url": "off"})
    with Darkroom(state.settings.model_copy(update={"storage": storage})) as darkroom:
        receipt = darkroom.enqueue_many([FOX | {"image_urls": [data_uri()]}, FOX])
    assert [item.disposition for item in receipt.items] == ["rejected", "enqueued"]
    assert receipt.items[0].issues[0].rule == "storage"


def test_a_store_that_cannot_take_inputs_ends_the_call(state: State, tmp_path: Path) -> None:
    """Nothing is enqueued whose input is not kept; what was before it is on the receipt."""
    (tmp_path / "inputs").write_text("in the way")
    items: list[Any] = [*foxes(CHUNK_JOBS), FOX | {"image_urls": [data_uri()]}]
    with Darkroom(storing(state, tmp_path)) as darkroom:
        with pytest.raises(StorageError) as caught:
            darkroom.enqueue_many(items)
        assert caught.value.receipt.enqueued == darkroom.overview().counts["queued"] == CHUNK_JOBS


# --- trouble on the way ---


def test_a_lost_reply_does_not_enqueue_twice(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reply is lost once, after the server has accepted the chunk: it is sent again, and accepted once."""
    read, reads = Link._read, 0

    def lose_every_other(link: Link) -> Any:
        nonlocal reads
        reads += 1
        replies = read(link)
        if reads % 2:
            raise redis.ConnectionError("cut")
        return replies

    monkeypatch.setattr(Link, "_read", lose_every_other)
    receipt = darkroom.enqueue_many([FOX] * (5 * CHUNK_JOBS), batch="b")
    assert reads == 2 * 6  # five full chunks, and the empty rest
    status = darkroom.batch("b")
    assert receipt.enqueued == status.total == status.counts["queued"] == 5 * CHUNK_JOBS
    assert len(set(receipt.job_ids)) == 5 * CHUNK_JOBS


def test_a_flushed_script_cache_is_filled_again(darkroom: Darkroom, state: State) -> None:
    """SCRIPT FLUSH (or a restart) in the middle costs one more round trip, nothing else."""

    def items() -> Iterator[Any]:
        for nr, item in enumerate(foxes(4 * CHUNK_JOBS)):
            if nr % CHUNK_JOBS == 10:
                state.client.script_flush()
            yield item

    assert darkroom.enqueue_many(items()).enqueued == 4 * CHUNK_JOBS


def test_a_server_that_dies_midway(state: State, tmp_path: Path) -> None:
    """The error says what was acknowledged; when the server is back, a second run adds only what is missing."""
    with ValkeyProc(tmp_path, appendfsync="always") as server:
        redis = state.settings.redis.model_copy(update={"url": server.url()})
        settings = state.settings.model_copy(update={"redis": redis})

        def items() -> Iterator[Any]:
            yield from foxes(2 * CHUNK_JOBS)
            server.kill()
            yield from foxes(2 * CHUNK_JOBS, 2 * CHUNK_JOBS)

        with Darkroom(settings) as darkroom:
            started_at = time.monotonic()
            with pytest.raises(StateUnavailable, match="no Redis at") as caught:
                darkroom.enqueue_many(items(), batch="b")
            assert time.monotonic() - started_at < 10
            acknowledged = caught.value.receipt
            assert CHUNK_JOBS <= acknowledged.enqueued <= 2 * CHUNK_JOBS
            assert len(acknowledged.job_ids) == acknowledged.enqueued
            server.start()
            again = darkroom.enqueue_many(foxes(4 * CHUNK_JOBS), batch="b")
            assert darkroom.batch("b").total == 4 * CHUNK_JOBS
        assert again.duplicates >= acknowledged.enqueued
        assert again.enqueued + again.duplicates == 4 * CHUNK_JOBS
        assert set(acknowledged.job_ids) <= set(again.job_ids)
