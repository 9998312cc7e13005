"""Connections to the state Redis: how they are made, and whether the server may be used at all."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.connection
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from shared.errors import ConfigurationError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.settings import RedisSettings, Settings

_MAXCLIENTS: Final = "max number of clients reached"  # the library has no class for it
# Once, as a pooled connection may have died while idle; scripts are guarded. Never after a timeout: a caller has
# waited long enough, and each layer of the library (handshake, command) would wait anew.
_RETRIED: Final = (redis.ConnectionError,)


class _Blocking(AbstractConnection):
    """Ends when its server says READONLY: that was demoted, and the address may lead to another one by now.

    Otherwise it would stay a connection to a replica for as long as both live.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except ReadOnlyError:
            cast("Any", self).disconnect()  # which the library has not typed
            raise


class _Asyncio(redis.asyncio.connection.AbstractConnection):
    """The same for asyncio; and its end is a lost connection however the event loop tells of it."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)
        except RuntimeError as error:  # uvloop's, of a transport that has ended since the pool looked at it
            raise redis.ConnectionError("the connection ended before it was written to") from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            await self.disconnect(nowait=True)
            raise


def make_client(settings: RedisSettings) -> redis.Redis:
    """Make a blocking client: bounded waits, a bounded pool that is waited for, no retry after a timeout."""
    with _readable(settings.url):
        pool = redis.BlockingConnectionPool.from_url(settings.url, timeout=10, **_options(settings))
        pool.connection_class = type("Connection", (_Blocking, pool.connection_class), {})
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing; a wrong ?option= is found here
    return redis.Redis.from_pool(pool)


def make_async_client(settings: RedisSettings) -> redis.asyncio.Redis:
    """Make an asyncio client with the same bounds."""
    with _readable(settings.url):
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.url, timeout=10, **_async_options(settings)
        )
        pool.connection_class = type("Connection", (_Asyncio, pool.connection_class), {})
        pool.connection_class(**pool.connection_kwargs)
    return redis.asyncio.Redis.from_pool(pool)


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Refuse what is no URL of a Redis; nothing of it is quoted, as a password may be at any place of it."""
    try:
        if not url.startswith("unix:"):
            int(urlsplit(url).path.strip("/") or 0)  # of a word the library would make database 0
        yield
    except (ValueError, TypeError):
        raise ConfigurationError(
            "setting redis.url is no URL of a Redis (redis://:PASSWORD@HOST:PORT/DATABASE). "
            "Correct DARKROOM_REDIS__URL or darkroom.toml."
        ) from None


def _options(settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.socket_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "max_connections": settings.max_connections,
        "retry": Retry(NoBackoff(), 1, _RETRIED),
    }


def _async_options(settings: RedisSettings) -> dict[str, Any]:
    return _options(settings) | {"retry": redis.asyncio.retry.Retry(NoBackoff(), 1, _RETRIED)}


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the client library's errors into StateUnavailable, each with what to do. Never shows a password.

    Only its own: it wraps every OSError of a socket, and one of a file or a pipe that is written meanwhile is not Redis's.
    """
    where = _address(url)
    try:
        yield
    except (AuthenticationError, AuthorizationError, NoPermissionError):
        raise StateUnavailable(
            f"Redis at {where} refuses the credentials. Correct the password in DARKROOM_REDIS__URL."
        ) from None
    except OutOfMemoryError:
        raise StateUnavailable(
            f"Redis at {where} is full (maxmemory). Nothing was enqueued; free memory or raise maxmemory."
        ) from None
    except ReadOnlyError:
        raise StateUnavailable(f"Redis at {where} is a read-only replica. Point at the primary.") from None
    except BusyLoadingError:
        raise StateUnavailable(f"Redis at {where} is loading its data. Try again shortly.") from None
    except redis.TimeoutError:
        raise StateUnavailable(
            f"Redis at {where} does not answer in time. See whether it hangs or another program has its port, or "
            "correct DARKROOM_REDIS__URL."
        ) from None
    except redis.ConnectionError as error:
        raise StateUnavailable(_unconnected(where, error)) from None
    except InvalidResponse:
        raise StateUnavailable(
            f"what answers at {where} is no Redis. Correct DARKROOM_REDIS__URL; rediss:// is for TLS."
        ) from None
    except RedisError as error:
        if str(error).startswith("NOREPLICAS"):
            raise StateUnavailable(
                f"Redis at {where} takes no writes without its replicas (min-replicas-to-write). Nothing was enqueued; "
                "bring a replica back, or see INFO replication."
            ) from None
        raise StateUnavailable(
            f"Redis at {where} refuses: {error}. See the server's log, and whether DARKROOM_REDIS__URL is right."
        ) from None


def _unconnected(where: str, error: redis.ConnectionError) -> str:
    """Say why there is no connection: here or there no descriptor is left for it, or nobody listens."""
    if isinstance(error.__context__, OSError) and error.__context__.errno in (errno.EMFILE, errno.ENFILE):
        return (
            f"this process has no file descriptor left to reach Redis at {where}. See what it holds open, or raise its "
            "limit (ulimit -n)."
        )
    if _MAXCLIENTS in str(error):
        return (
            f"Redis at {where} takes no more connections (maxclients). See who holds them (CLIENT LIST), or raise "
            "maxclients and the server's limit of open files."
        )
    return f"no Redis at {where}. Start it (`darkroom dev` runs one), or set DARKROOM_REDIS__URL."


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or parts.path}:{parts.port or 6379}{parts.path if parts.hostname else ''}"


def check_server(client: redis.Redis, settings: Settings) -> None:
    """Raise unless the server may hold the truth: reachable, not evicting, durable as demanded.

    Raises StateUnavailable (down, wrong password) or ConfigurationError (evicting policy, appendfsync).
    """
    with translated(settings.redis.url):
        policy = _config(client, "maxmemory-policy")
        fsync = _config(client, "appendfsync")
        appendonly = _config(client, "appendonly")
    where = _address(settings.redis.url)
    if policy not in (None, "noeviction"):
        raise ConfigurationError(
            f"Redis at {where} evicts keys (maxmemory-policy {policy}), which loses jobs. "
            "Run `redis-cli CONFIG SET maxmemory-policy noeviction` and put it into redis.conf."
        )
    if settings.redis.durability == "strict" and (fsync, appendonly) != ("always", "yes"):
        raise ConfigurationError(
            f"durability is strict, but Redis at {where} has appendonly {appendonly}, appendfsync {fsync}. "
            "Set appendonly yes and appendfsync always, or durability = everysec."
        )


def _config(client: redis.Redis, name: str) -> str | None:
    """Read one server setting; None where a managed server hides CONFIG."""
    try:
        found: dict[Any, Any] = client.config_get(name)
    except NoPermissionError:
        return None
    except redis.ResponseError:
        return None
    return next((v.decode() if isinstance(v, bytes) else str(v) for v in found.values()), None)
