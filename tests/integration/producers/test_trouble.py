"""A state server that cannot be used: each failure has its own sentence, soon, and leaves nothing half done."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from producers import AsyncDarkroom, ConfigurationError, Darkroom, StateUnavailable
from shared.redis.client import make_client, translated
from tests.descriptors import none_left
from tests.integration.producers.conftest import FOX
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
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
MORE_CALLS: dict[str, Callable[[Darkroom], object]] = CALLS | {
    "get_many": lambda darkroom: darkroom.get_many(["job_1"]),
    "wait": lambda darkroom: darkroom.wait("job_1", timeout_s=60),
    "wait_batch": lambda darkroom: darkroom.wait_batch("b", timeout_s=60),
    "batch": lambda darkroom: darkroom.batch("b"),
    "unknown": lambda darkroom: darkroom.unknown(),
    "release": lambda darkroom: darkroom.release("job_1"),
    "seal": lambda darkroom: darkroom.seal("b"),
    "freeze": lambda darkroom: darkroom.freeze(None),
    "now_ms": lambda darkroom: darkroom.now_ms(),
}
ASYNC_CALLS: dict[str, Callable[[AsyncDarkroom], Awaitable[object]]] = {
    "enqueue": lambda darkroom: darkroom.enqueue(FOX),
    "enqueue_many": lambda darkroom: darkroom.enqueue_many([FOX]),
    "get": lambda darkroom: darkroom.get("job_1"),
    "wait": lambda darkroom: darkroom.wait("job_1", timeout_s=60),
    "wait_batch": lambda darkroom: darkroom.wait_batch("b", timeout_s=60),
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


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_server_without_room_for_a_connection(
    state: State, server: ValkeyProc, call: Callable[[Darkroom], object]
) -> None:
    """Maxclients is reached: the server is there, and nobody is sent to start it."""
    with server.client() as client, Darkroom(settings_of(state, server.url())) as darkroom:
        client.config_set("maxclients", 1)
        with pytest.raises(StateUnavailable, match="maxclients"):
            call(darkroom)
        assert client.dbsize() == 0
        client.config_set("maxclients", 100)
        darkroom.enqueue(FOX)


def test_a_process_without_file_descriptors(state: State, server: ValkeyProc) -> None:
    """The server is not to blame for a socket that cannot be opened here."""
    client = make_client(settings_of(state, server.url()).redis)
    with closing(client):
        client.ping()
        client.connection_pool.disconnect()
        with none_left(), pytest.raises(StateUnavailable) as raised, translated(server.url()):
            client.ping()
        client.ping()
    assert "ulimit -n" in str(raised.value)
    assert "right" not in str(raised.value), "never a password"


@pytest.mark.parametrize("name", ["enqueue", "enqueue_many"])
def test_a_primary_without_its_replicas_takes_nothing(state: State, server: ValkeyProc, name: str) -> None:
    """With min-replicas-to-write and no replica in touch it is refused whole, in words; later the same call works."""
    with server.client() as client, Darkroom(settings_of(state, server.url())) as darkroom:
        darkroom.now_ms()
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(StateUnavailable, match="replica") as refused:
            CALLS[name](darkroom)
        assert "min-replicas-to-write" in str(refused.value)
        assert "Nothing was enqueued" in str(refused.value)
        assert client.dbsize() == 0
        client.config_set("min-replicas-to-write", 0)
        CALLS[name](darkroom)


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


def _caught(call: Callable[[], object]) -> tuple[str, float]:
    """Give what a call that must fail says, and how long it took."""
    started_at = time.monotonic()
    with pytest.raises(StateUnavailable) as caught:
        call()
    return str(caught.value), time.monotonic() - started_at


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=200)) as listener:
        yield f"redis://:canary@127.0.0.1:{listener.getsockname()[1]}/0"


def test_a_silent_server_costs_a_call_less_than_ten_seconds(state: State, silent_url: str) -> None:
    """With the timeouts that are the default, from any thread; it is told from a server that is not there."""
    with Darkroom(settings_of(state, silent_url)) as darkroom, ThreadPoolExecutor(len(MORE_CALLS)) as pool:
        calls = [partial(_caught, partial(call, darkroom)) for call in MORE_CALLS.values()]
        for name, (said, took_s) in zip(MORE_CALLS, pool.map(lambda call: call(), calls), strict=True):
            assert "does not answer in time. See" in said, name
            assert took_s < 10, name
            assert "canary" not in said, name


@pytest.mark.anyio
async def test_a_silent_server_costs_an_async_call_less_than_ten_seconds(
    state: State, silent_url: str
) -> None:
    """As for the blocking client; the event loop goes on meanwhile."""
    async with AsyncDarkroom(settings_of(state, silent_url)) as darkroom:
        started_at = time.monotonic()
        calls = [asyncio.ensure_future(call(darkroom)) for call in ASYNC_CALLS.values()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started_at < 10
    for name, error in zip(ASYNC_CALLS, errors, strict=True):
        assert isinstance(error, StateUnavailable), name
        assert "does not answer in time. See" in str(error), name
        assert "canary" not in str(error), name


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary@host:port/0",
        "http://:canary@host:1/0",
        "redis://host/canary",
        "redis://h/0?canary=1",
        "",
    ],
)
def test_what_is_no_url_of_a_redis_is_refused_at_once(state: State, url: str) -> None:
    """By both clients, before anything connects; nothing of it is quoted."""
    for client in (Darkroom, AsyncDarkroom):
        with pytest.raises(ConfigurationError, match="DARKROOM_REDIS__URL") as caught:
            client(settings_of(state, url))
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_another_kind_of_server_is_named(state: State) -> None:
    """What answers and is no Redis."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with closing(connection):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with Darkroom(settings_of(state, f"redis://127.0.0.1:{listener.getsockname()[1]}/0")) as darkroom:
            said, _ = _caught(darkroom.now_ms)
        thread.join()
    assert "is no Redis" in said


def test_an_address_that_swallows_packets_is_given_up(state: State) -> None:
    """Nobody refuses the connection, nobody accepts it: a firewall, or a server with no room in its queue."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # more than its queue holds
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(listener.getsockname())
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        darkroom = stack.enter_context(Darkroom(settings_of(state, url, connect_timeout_s=0.5)))
        said, took_s = _caught(darkroom.now_ms)
    assert "does not answer in time" in said
    assert took_s < 5


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error"), TimeoutError()])
def test_a_file_s_or_a_pipe_s_error_is_not_the_server_s(error: OSError) -> None:
    """Who exports the ledger into a closed pipe is not told that Redis is away."""
    with pytest.raises(type(error)), translated("redis://127.0.0.1:1/0"):
        raise error
