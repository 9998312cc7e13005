"""Exit 0 if the worker of this container has shown itself to the state server in the last seconds, else 1.

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


def _silent_ms() -> float:
    """Give the time since a worker of this host was seen, on the state server's clock. Raises RedisError."""
    keys = Keys.of(os.environ.get("DARKROOM_REDIS__NAMESPACE") or "darkroom")
    url = os.environ["DARKROOM_REDIS__URL"]
    with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
        pipe: Any = client.pipeline(transaction=False)
        (now_s, now_us), seen = pipe.time().zrange(keys.workers, 0, -1, withscores=True).execute()
    here = f"@{socket.gethostname()}:".encode()
    last_ms = max((at_ms for name, at_ms in seen if here in name), default=0)
    return float(now_s * 1000 + now_us / 1000 - last_ms)


def main() -> int:
    try:
        is_alive = _silent_ms() < _RECENTLY_MS
    except redis.RedisError as error:
        print(f"no answer from the state server: {type(error).__name__}", file=sys.stderr)
        return 1
    if not is_alive:
        print("no sign of life from the worker of this container", file=sys.stderr)
    return 0 if is_alive else 1


if __name__ == "__main__":
    sys.exit(main())
