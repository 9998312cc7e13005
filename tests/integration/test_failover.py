"""An address that moves to another server: connections that still lead to the old one, a replica now, are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from shared.redis.client import make_async_client, make_client
from shared.redis.keys import Keys
from shared.redis.scripts import run, run_async
from shared.settings import RedisSettings
from tests.faults.proxy import Proxy
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = Keys.of("moved")
FREEZE = ("freeze", KEYS.prefix, "spending", "tests", "", "")


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[tuple[Proxy, ValkeyProc, ValkeyProc]]:
    """A proxy before the first of two servers."""
    with (
        ValkeyProc(tmp_path / "old", name="old") as old,
        ValkeyProc(tmp_path / "new", name="new", shutdown_timeout="0") as new,
        Proxy(f"127.0.0.1:{old.port}") as proxy,
    ):
        yield proxy, old, new


def _move(moved: tuple[Proxy, ValkeyProc, ValkeyProc]) -> ValkeyProc:
    """The old server becomes a replica of the new one and lives on, and so do connections to it."""
    proxy, old, new = moved
    with old.client() as client:
        client.replicaof("127.0.0.1", str(new.port))
    proxy.lead_to(f"127.0.0.1:{new.port}")
    return new


def test_a_blocking_client_follows(moved: tuple[Proxy, ValkeyProc, ValkeyProc]) -> None:
    """It is told READONLY once; the next call is made at the address again."""
    client = make_client(RedisSettings(url=f"redis://{moved[0].address}"))
    client.ping()
    new = _move(moved)
    with pytest.raises(ReadOnlyError):
        run(client, *FREEZE)
    assert run(client, *FREEZE) == b""
    assert new.client().hget(KEYS.control, "freeze") == b"spending"
    client.close()


async def test_an_asyncio_client_follows(moved: tuple[Proxy, ValkeyProc, ValkeyProc]) -> None:
    """Each of its connections is told once, and no call suffers from what another one was told."""
    client = make_async_client(RedisSettings(url=f"redis://{moved[0].address}"))
    await asyncio.gather(*(client.get("any") for _ in range(5)))
    new = _move(moved)
    told: list[object] = []
    while len(told) < 50:
        calls = (run_async(client, *FREEZE) for _ in range(5))
        told += await asyncio.gather(*calls, return_exceptions=True)
    refusals = [each for each in told if isinstance(each, Exception)]
    assert {type(each) for each in refusals} == {ReadOnlyError}
    assert len(refusals) <= 5
    assert new.client().hget(KEYS.control, "freeze") == b"spending"
    await client.aclose()


def test_a_connection_that_ends_between_the_look_at_it_and_the_write(
    moved: tuple[Proxy, ValkeyProc, ValkeyProc],
) -> None:
    """A lost connection like any other, which callers expect and try again, though uvloop says RuntimeError of it."""
    proxy, _, _ = moved

    async def write() -> None:
        client = make_async_client(RedisSettings(url=f"redis://{proxy.address}"))
        pool: Any = client.connection_pool  # which the library has not typed
        connection = await pool.get_connection()
        proxy.reset_all()
        await asyncio.sleep(0.1)  # the loop hears of it
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING")
        await pool.release(connection)
        assert await client.ping()
        await client.aclose()

    uvloop.run(write())
