"""The Lua scripts: loading, fragments, and calling them by hash.

A script file starts with its `#!lua` line and names its fragments by `--!include NAME`, which is replaced by
`NAME.lua`, once. Scripts run by EVALSHA; after NOSCRIPT (a restart, SCRIPT FLUSH) the text is sent again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

Argument = str | bytes | int | float
_INCLUDE: Final = "--!include "


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its whole text with fragments, and the hash the server knows it by."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Load `lua/<name>.lua` and its fragments."""
    lines: list[str] = []
    for line in _source(name).splitlines():
        if line.startswith(_INCLUDE):
            lines.extend(_source(line.removeprefix(_INCLUDE).strip()).splitlines())
        else:
            lines.append(line)
    text = "\n".join(lines)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _source(name: str) -> str:
    return (files("shared.redis.lua") / f"{name}.lua").read_text()


def run(client: Redis, name: str, prefix: str, *args: Argument, now_ms: int | None = None) -> Any:
    """Call a script through a blocking client. `now_ms` replaces the server's clock in tests only."""
    loaded, argv = script(name), _arguments(prefix, args, now_ms)
    try:
        return client.evalsha(loaded.sha, 1, *argv)
    except NoScriptError:
        return client.eval(loaded.text, 1, *argv)


async def run_async(
    client: AsyncRedis, name: str, prefix: str, *args: Argument, now_ms: int | None = None
) -> Any:
    """Call a script through an asyncio client."""
    loaded, argv = script(name), _arguments(prefix, args, now_ms)
    try:
        return await client.evalsha(loaded.sha, 1, *argv)
    except NoScriptError:
        return await client.eval(loaded.text, 1, *argv)


def _arguments(prefix: str, args: Sequence[Argument], now_ms: int | None) -> list[Argument]:
    """Give KEYS[1], which routes to the namespace's slot in a cluster, then ARGV."""
    return [prefix + "control", prefix, "" if now_ms is None else now_ms, *args]
