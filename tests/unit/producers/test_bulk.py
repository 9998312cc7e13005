"""One enqueue_many without I/O: what becomes of items, and when a chunk is full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from producers.bulk import Bulk
from producers.core import Core
from producers.receipt import BatchReceipt
from shared.errors import BacklogFull, BatchSealed
from shared.jobs.request import GenerationRequest
from shared.settings import AccountSettings, Settings

if TYPE_CHECKING:
    from producers.receipt import ItemReceipt

FOX: dict[str, Any] = {"model": "wan2.7-image", "prompt": "a red fox"}
OTHER = AccountSettings(models=("wan2.7-image-pro",), price_micros={"wan2.7-image-pro": 9}, currency="USD")


def make_bulk(*, batch: str | None = None, keep: bool = True, **more: Any) -> Bulk:
    core = Core(Settings(**more.pop("settings", {})))
    defaults, heard = more.pop("defaults", {}), more.pop("on_disposition", None)
    return Bulk(
        core, BatchReceipt(batch, core.retention), tenant=None, batch_webhook=None, defaults=defaults,
        now_ms=lambda: 1_800_000_000_000, keep=keep, on_disposition=heard,
    )  # fmt: skip


def accept(bulk: Bulk, *replies: list[int | bytes]) -> Any:
    """Take the chunk; answer for it, by default that all is accepted."""
    chunk = bulk.take()
    answers = list(replies) or [[0] * len(group.ids) for group in chunk.groups.values()]
    return bulk.record(chunk, answers)


def test_a_chunk_is_full_at_its_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected items count, too: what is kept of them must be bounded as well."""
    monkeypatch.setattr("producers.bulk.CHUNK_JOBS", 3)
    monkeypatch.setattr("producers.bulk.WAIT_S", 3600)
    bulk = make_bulk()
    assert [bulk.add(item) for item in (FOX, {}, FOX)] == [False, False, True]


def test_a_chunk_is_full_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts make small chunks."""
    monkeypatch.setattr("producers.bulk.CHUNK_BYTES", 5000)
    monkeypatch.setattr("producers.bulk.WAIT_S", 3600)
    bulk = make_bulk()
    assert [bulk.add(FOX | {"prompt": "x" * 3000}) for _ in range(2)] == [False, True]


def test_a_chunk_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from when the client began to listen, not from the chunk before."""
    now_s = 100.0
    monkeypatch.setattr("producers.bulk.time.monotonic", lambda: now_s)
    bulk = make_bulk()
    now_s += 60
    bulk.listen()
    assert not bulk.add(FOX)
    now_s += 0.3
    assert bulk.add(FOX)
    bulk.take()
    bulk.listen()
    assert not bulk.add(FOX)


def test_the_script_is_given_five_arguments_per_job() -> None:
    """Header, then id, digest, fingerprint, kind, spec; equal kinds are the same bytes."""
    bulk = make_bulk(batch="b", defaults={"priority": 2, "metadata": {"a": 1}})
    bulk.add((FOX, {"idempotency_key": "k"}))
    bulk.add(GenerationRequest(model="wan2.7-image", prompt="a blue fox"))
    ((header, *rows),) = bulk.calls(bulk.take())
    assert json.loads(header)["batch"] == "b"  # type: ignore[arg-type]
    assert len(rows) == 10
    assert (len(rows[1]), rows[6]) == (22, "")  # type: ignore[arg-type]
    assert rows[3] is rows[8]
    kind = ["wan2.7-image", -2 * 2**41, 0, 0, ["n", "1", "priority", "2"], 200_000, "CNY"]
    assert json.loads(rows[3]) == kind  # type: ignore[arg-type]
    assert json.loads(rows[4]) == {"request": FOX | {"n": 1}, "metadata": {"a": 1}}  # type: ignore[arg-type]


def test_tenants_go_apart_and_come_back_in_order() -> None:
    """One script call per tenant; dispositions are in the order of the items."""
    heard: list[ItemReceipt] = []
    bulk = make_bulk(on_disposition=heard.append)
    for tenant in ("a", "b", "a"):
        bulk.add((FOX, {"tenant": tenant}))
    accept(bulk, [0, 3], [b"1:job_012345678901234567890123456789"])
    assert [(item.index, item.disposition) for item in heard] == [
        (0, "enqueued"), (1, "duplicate"), (2, "rejected"),
    ]  # fmt: skip
    assert bulk.receipt.tenants == ("a", "b")


@pytest.mark.parametrize(
    ("code", "error", "rule"),
    [(3, BacklogFull, "backlog"), (4, BacklogFull, "backlog"), (5, BatchSealed, "sealed")],
)
def test_what_is_refused_for_its_surroundings_ends_the_enqueue(
    code: int, error: type[Exception], rule: str
) -> None:
    """The items are rejected with the reason, and the caller is told to stop."""
    bulk = make_bulk(batch="b")
    bulk.add(FOX)
    bulk.add(FOX)
    assert isinstance(accept(bulk, [0, code]), error)
    assert [item.disposition for item in bulk.receipt.items] == ["enqueued", "rejected"]
    assert bulk.receipt.items[1].issues[0].rule == rule


def test_prices_add_up_by_currency() -> None:
    """Only new jobs count, each at price x n."""
    accounts = {"one": AccountSettings(models=("wan2.7-image",)), "two": OTHER}
    bulk = make_bulk(settings={"accounts": accounts})
    for item in (FOX | {"n": 3}, FOX, FOX | {"model": "wan2.7-image-pro", "n": 2}, FOX):
        bulk.add(item)
    accept(bulk, [0, 0, 0, b"1:job_012345678901234567890123456789"])
    assert bulk.receipt.price_micros == {"CNY": 800_000, "USD": 18}
    assert bulk.lanes_to_hint(final=False) == set()
    assert bulk.lanes_to_hint(final=True) == {"one/wan2.7-image", "two/wan2.7-image-pro"}


def test_a_model_without_a_price_is_rejected() -> None:
    """As an item, not as the end of the call; also if it has parameters of its own."""
    bulk = make_bulk(settings={"accounts": {"two": OTHER}})
    bulk.add(FOX)
    bulk.add((FOX, {"priority": 1}))
    accept(bulk)
    assert [(item.issues[0].field, item.issues[0].rule) for item in bulk.receipt.items] == [
        ("model", "price")
    ] * 2


def test_counts_alone_are_kept_when_nobody_asks_for_more() -> None:
    """With keep=False the receipt stays small."""
    bulk = make_bulk(keep=False)
    for item in (FOX, {}, FOX):
        bulk.add(item)
    accept(bulk)
    assert (bulk.receipt.enqueued, bulk.receipt.rejected, len(bulk.receipt.items)) == (2, 1, 0)


def test_a_dry_run_takes_all_valid_items_as_accepted() -> None:
    """`check` answers for the server."""
    bulk = make_bulk()
    for item in (FOX, {}, (FOX, {"tenant": "b"})):
        bulk.add(item)
    bulk.check()
    assert (bulk.receipt.enqueued, bulk.receipt.rejected) == (2, 1)


@pytest.mark.parametrize("item", [None, 5, "fox", [], (), (FOX,), (FOX, FOX, FOX), (FOX, 5), (FOX, [1])])
def test_any_object_has_a_disposition(item: object) -> None:
    """What is no request is rejected like a bad one."""
    bulk = make_bulk()
    bulk.add(item)
    accept(bulk)
    assert [each.disposition for each in bulk.receipt.items] == ["rejected"]
