"""Exit 0 if the worker of this container has shown itself to the state server in the last seconds, else 1.

Also 1 while workers have found the state server emptied or replaced: no worker submits then, until somebody decides.

A worker process does so every second, as `NAME@HOST:PID`, from the thread that also looks for work. Reads
DARKROOM_REDIS__URL and DARKROOM_REDIS__NAMESPACE, not all settings: it runs every 15 s, and must cost next to nothing.
"""

import os
import socket
import sys
from typing import Any

import redis

from shared.redis.keys import Keys

_RECENTLY_MS = 15_000


def _look() -> tuple[float, bool]:
    """Give the ms since a worker of this host was seen, on the state server's clock, and whether the state was lost.

    Raises RedisError.
    """
    keys = Keys.of(os.environ.get("DARKROOM_REDIS__NAMESPACE") or "darkroom")
    url = os.environ["DARKROOM_REDIS__URL"]
    with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
        pipe: Any = client.pipeline(transaction=False)
        pipe.time().zrange(keys.workers, 0, -1, withscores=True).hvals(keys.losses)
        (now_s, now_us), seen, losses = pipe.execute()
    here = f"@{socket.gethostname()}:".encode()
    last_ms = max((at_ms for name, at_ms in seen if here in name), default=0)
    return float(now_s * 1000 + now_us / 1000 - last_ms), b"open" in losses


def main() -> int:
    try:
        silent_ms, is_lost = _look()
    except redis.RedisError as error:
        print(f"no answer from the state server: {type(error).__name__}", file=sys.stderr)
        return 1
    if is_lost:
        print("the state server was emptied or replaced: see `darkroom doctor`", file=sys.stderr)
    if silent_ms >= _RECENTLY_MS:
        print("no sign of life from the worker of this container", file=sys.stderr)
    return 1 if is_lost or silent_ms >= _RECENTLY_MS else 0


if __name__ == "__main__":
    sys.exit(main())
