"""A state server that cannot be used: each failure has its own sentence, soon, and leaves nothing half done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from producers import AsyncDarkroom, ConfigurationError, Darkroom, StateUnavailable
from tests.integration.producers.conftest import FOX
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from producers import Settings
    from tests.conftest import State

CALLS: dict[str, Callable[[Darkroom], object]] = {
    "enqueue": lambda darkroom: darkroom.enqueue(FOX),
    "enqueue_many": lambda darkroom: darkroom.enqueue_many([FOX]),
    "get": lambda darkroom: darkroom.get("job_1"),
    "cancel": lambda darkroom: darkroom.cancel("job_1"),
    "overview": lambda darkroom: darkroom.overview(),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProc]:
    """A server to hurt."""
    with ValkeyProc(tmp_path, password="right") as proc:
        yield proc


def settings_of(state: State, url: str, **redis: Any) -> Settings:
    changed = state.settings.redis.model_copy(update={"url": url, **redis})
    return state.settings.model_copy(update={"redis": changed})


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_server_that_is_down(state: State, server: ValkeyProc, call: Callable[[Darkroom], object]) -> None:
    """Also for a client that was connected: the error says where, and what to do."""
    with Darkroom(settings_of(state, server.url())) as darkroom:
        darkroom.now_ms()
        server.kill()
        started_at = time.monotonic()
        with pytest.raises(StateUnavailable, match="no Redis at 127") as caught:
            call(darkroom)
        assert time.monotonic() - started_at < 10
        assert "right" not in str(caught.value)


def test_a_client_works_again_when_the_server_does(state: State, server: ValkeyProc) -> None:
    """An outage costs the calls made in it, not the client."""
    with Darkroom(settings_of(state, server.url())) as darkroom:
        first = darkroom.enqueue(FOX, idempotency_key="k")
        server.restart()
        again = darkroom.enqueue(FOX, idempotency_key="k")
        assert (again.job_id, again.disposition) == (first.job_id, "duplicate")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_wrong_password(state: State, server: ValkeyProc, call: Callable[[Darkroom], object]) -> None:
    """The error names the setting to correct, and shows no password."""
    darkroom = Darkroom(settings_of(state, server.url().replace("right", "wrong")))
    with darkroom, pytest.raises(StateUnavailable, match="refuses the credentials") as caught:
        call(darkroom)
    assert "DARKROOM_REDIS__URL" in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_evicting_server_is_refused(
    state: State, server: ValkeyProc, call: Callable[[Darkroom], object]
) -> None:
    """A server that evicts keys loses jobs: nothing is done with it."""
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with Darkroom(settings_of(state, server.url())) as darkroom:
            with pytest.raises(ConfigurationError, match="noeviction"):
                call(darkroom)
            assert client.dbsize() == 0
            client.config_set("maxmemory-policy", "noeviction")
            darkroom.enqueue(FOX)


def test_strict_durability_is_demanded(state: State, server: ValkeyProc) -> None:
    """Strict durability wants every write on disk before it is answered."""
    settings = settings_of(state, server.url(), durability="strict")
    with Darkroom(settings) as darkroom:
        with pytest.raises(ConfigurationError, match="appendfsync"):
            darkroom.enqueue(FOX)
        with server.client() as client:
            client.config_set("appendfsync", "always")
        darkroom.enqueue(FOX)


@pytest.mark.parametrize("name", ["enqueue", "enqueue_many"])
def test_a_full_server_takes_nothing(state: State, server: ValkeyProc, name: str) -> None:
    """Refused whole, in words; when there is room again, the same call works."""
    with server.client() as client, Darkroom(settings_of(state, server.url())) as darkroom:
        darkroom.now_ms()
        client.config_set("maxmemory", 1)
        with pytest.raises(StateUnavailable, match="is full"):
            CALLS[name](darkroom)
        assert client.dbsize() == 0
        client.config_set("maxmemory", 0)
        CALLS[name](darkroom)


def test_a_read_only_replica_is_named(state: State, server: ValkeyProc) -> None:
    """After a failover the old primary refuses writes."""
    with server.client() as client, Darkroom(settings_of(state, server.url())) as darkroom:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StateUnavailable, match="read-only replica"):
            darkroom.enqueue(FOX)


def test_a_hanging_server_is_given_up(state: State, server: ValkeyProc) -> None:
    """Sockets stay open and nothing answers: the call ends after the socket timeout, and is not repeated."""
    with Darkroom(settings_of(state, server.url(), socket_timeout_s=0.5)) as darkroom:
        darkroom.now_ms()
        server.pause()
        started_at = time.monotonic()
        with pytest.raises(StateUnavailable):
            darkroom.enqueue_many([FOX])
        assert time.monotonic() - started_at < 5
        server.resume()


@pytest.mark.anyio
async def test_the_async_client_says_the_same(state: State, server: ValkeyProc) -> None:
    """Down, wrong password, evicting: one sentence each."""
    async with AsyncDarkroom(settings_of(state, server.url().replace("right", "wrong"))) as darkroom:
        with pytest.raises(StateUnavailable, match="refuses the credentials"):
            await darkroom.enqueue(FOX)
    async with AsyncDarkroom(settings_of(state, server.url())) as darkroom:
        with server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(ConfigurationError, match="noeviction"):
                await darkroom.enqueue_many([FOX])
            client.config_set("maxmemory-policy", "noeviction")
        await darkroom.enqueue(FOX)
        server.kill()
        with pytest.raises(StateUnavailable, match="no Redis at"):
            await darkroom.enqueue(FOX)
        with pytest.raises(StateUnavailable, match="no Redis at") as caught:
            await darkroom.enqueue_many([FOX])
    assert caught.value.receipt.total == 0
