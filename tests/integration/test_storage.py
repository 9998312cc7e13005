"""The object store: one behaviour on every backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

import obstore
import pytest

from shared.errors import StorageConflict, StorageError
from shared.storage import ObjectStore, input_key, open_store
from tests.integration.storage_content import KEY, PNG, Contents, forbid_links_from_outside, settings_of

if TYPE_CHECKING:
    from pathlib import Path

BIG_BYTES = 20 * 1024 * 1024


@pytest.fixture
def content(tmp_path: Path) -> Contents:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Contents(folder)


@pytest.fixture(params=["s3", "file", "file from elsewhere", "memory"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Every backend; `file from elsewhere` as if downloads lay on another filesystem than the folder."""
    if request.param == "file from elsewhere":
        forbid_links_from_outside(monkeypatch)
    return open_store(settings_of(request.param, request))


def keys_in(store: ObjectStore) -> set[str]:
    """What is in the store, by obstore's own listing."""
    return {each["path"] for chunk in obstore.list(store._objects) for each in chunk}


@pytest.mark.parametrize("size_bytes", [0, 1, 10_000, BIG_BYTES])
async def test_what_is_put_is_there(store: ObjectStore, content: Contents, size_bytes: int) -> None:
    """Content, size and hash come back, whole or piece by piece, and nothing else lies about."""
    image = content(os.urandom(size_bytes))
    assert await store.put_file(KEY, image.path, **image.facts) == "created"
    assert await store.head(KEY) == size_bytes
    assert await store.read(KEY) == image.body
    assert b"".join([chunk async for chunk in store.read_stream(KEY)]) == image.body
    assert await store.sha256_of(KEY) == image.facts["sha256"]
    assert keys_in(store) == {KEY}


async def test_the_object_outlives_the_file(store: ObjectStore, content: Contents) -> None:
    """The caller removes its temporary file."""
    image = content()
    await store.put_file(KEY, image.path, **image.facts)
    image.path.unlink()
    assert await store.read(KEY) == image.body


async def test_the_same_again_is_success(store: ObjectStore, content: Contents) -> None:
    """A worker that died between put and record puts again, from another file."""
    first, again = content(), content()
    assert await store.put_file(KEY, first.path, **first.facts) == "created"
    assert await store.put_file(KEY, again.path, **again.facts) == "identical"
    assert await store.read(KEY) == first.body


@pytest.mark.parametrize("other", [b"\x89PNG other", b"\x89PNG of another length"])
async def test_other_content_is_a_conflict_and_changes_nothing(
    store: ObjectStore, content: Contents, other: bytes
) -> None:
    """Whether it differs in length or only in bytes, what is there stays."""
    first, second = content(), content(other)
    await store.put_file(KEY, first.path, **first.facts)
    with pytest.raises(StorageConflict) as caught:
        await store.put_file(KEY, second.path, **second.facts)
    assert (caught.value.kind, caught.value.key) == ("conflict", KEY)
    assert await store.read(KEY) == first.body


async def test_of_many_at_once_one_creates(store: ObjectStore, content: Contents) -> None:
    """Workers that race with the same image all succeed, and one of them made it."""
    images = [content() for _ in range(12)]
    outcomes = await asyncio.gather(*(store.put_file(KEY, image.path, **image.facts) for image in images))
    assert sorted(outcomes) == ["created"] + ["identical"] * 11


async def test_of_many_different_at_once_one_wins(store: ObjectStore, content: Contents) -> None:
    """What is stored is the content of the one that was told so; the others hear of the conflict."""
    images = [content(bytes([at]) * 70_000) for at in range(12)]
    outcomes = await asyncio.gather(
        *(store.put_file(KEY, image.path, **image.facts) for image in images), return_exceptions=True
    )
    (winner,) = (at for at, outcome in enumerate(outcomes) if outcome == "created")
    assert all(isinstance(each, StorageConflict) for at, each in enumerate(outcomes) if at != winner)
    assert await store.read(KEY) == images[winner].body


async def test_nobody_sees_part_of_an_object(store: ObjectStore, content: Contents) -> None:
    """Whoever looks while a large image is put sees nothing, and then all of it."""
    image, seen = content(os.urandom(BIG_BYTES)), set[int | None]()
    putting = asyncio.create_task(store.put_file(KEY, image.path, **image.facts))
    while not putting.done():
        seen.add(await store.head(KEY))
    assert await putting == "created"
    assert seen <= {None, BIG_BYTES}


@pytest.mark.parametrize("found", [b"", b"\x89PNG", b"\x89PNG image, and more"])
async def test_a_file_of_another_size_leaves_nothing(
    store: ObjectStore, content: Contents, found: bytes
) -> None:
    """A file that was cut after it was checked must not become an object, nor block its key."""
    image, cut = content(), content(found)
    with pytest.raises(StorageError, match="bytes") as caught:
        await store.put_file(KEY, cut.path, **image.facts)
    assert caught.value.kind == "unavailable"
    assert keys_in(store) == set()
    assert await store.put_file(KEY, image.path, **image.facts) == "created"


async def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    """Reading raises, looking says so."""
    assert await store.head(KEY) is None
    for reading in (store.read(KEY), store.sha256_of(KEY)):
        with pytest.raises(StorageError) as caught:
            await reading
        assert (caught.value.kind, caught.value.key) == ("missing", KEY)


async def test_an_input_is_one_object_however_often_it_is_put(store: ObjectStore) -> None:
    """Content names it; both edges do the same."""
    payload = os.urandom(100_000)
    expected = input_key("acme", hashlib.sha256(payload).hexdigest(), "png")
    assert await store.put_input_async("acme", payload, PNG, "png") == expected
    assert store.put_input("acme", payload, PNG, "png") == expected
    assert store.put_input("acme", b"other", PNG, "png") != expected
    assert await store.read(expected) == payload
    assert len(keys_in(store)) == 2


def test_producers_without_a_loop_put_inputs(store: ObjectStore) -> None:
    """The sync edge needs no event loop, also for the first of all."""
    key = store.put_input("acme", b"payload", PNG, "png")
    assert asyncio.run(store.read(key)) == b"payload"
    assert store.put_input("acme", b"payload", PNG, "png") == key


async def test_an_input_that_was_damaged_is_a_conflict(store: ObjectStore) -> None:
    """Bytes of another length under the hash's name are not taken for the input."""
    key = await store.put_input_async("acme", b"payload", PNG, "png")
    await obstore.put_async(store._objects, key, b"pay")
    with pytest.raises(StorageConflict):
        await store.put_input_async("acme", b"payload", PNG, "png")
    with pytest.raises(StorageConflict):
        store.put_input("acme", b"payload", PNG, "png")


async def test_a_probe_leaves_nothing(store: ObjectStore) -> None:
    """It may run at every start."""
    await store.probe()
    assert keys_in(store) == set()
