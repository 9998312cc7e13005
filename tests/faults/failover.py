"""A state server and its replica: the stream between them can be cut, and the replica can be promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import redis

from tests.faults.proxy import FAIR, HOST, LOSE_BOTH, Proxy
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from types import TracebackType

    from tests.faults.campaign import FaultHouse

NOBODY: Final = "9"  # a port without a server
# A first synchronisation begins at once, a lost link is noticed within seconds, and an end waits for no replica.
QUICK: Final = {
    "repl-diskless-sync-delay": "0",
    "repl-timeout": "3",
    "repl-ping-replica-period": "1",
    "shutdown-timeout": "0",
}


class Pair:
    """The house's state server with one replica, while its block lasts.

    `door` is what processes connect to that are made within the block: it leads to the primary until told otherwise.
    `stream` is the replication; what is lost on it while it is cut never arrives.
    """

    def __init__(self, faults: FaultHouse) -> None:
        self.faults, self.primary = faults, faults.state
        folder = faults.folder / "replica"
        self.replica = ValkeyProc(folder, name="replica", binary=faults.state_binary)
        self.replica.set_options(QUICK)
        self.stream = Proxy(f"{HOST}:{self.primary.port}")

    def __enter__(self) -> Self:
        with self.primary.client() as client:
            for name, value in QUICK.items():
                client.config_set(name, value)
        self.door = self.faults.through("state")
        self.stream.__enter__()
        self.replica.start()
        self.follow(self.replica, self.stream.address)
        self.faults.until(self.in_step, 30, "the replica has everything")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.replica.stop()
        self.stream.__exit__(kind, error, trace)

    def follow(self, server: ValkeyProc, primary: str) -> None:
        """Make a server the replica of the one at HOST:PORT."""
        host, _, port = primary.rpartition(":")
        with server.client() as client:
            client.replicaof(host, port)

    def stand_alone(self, server: ValkeyProc) -> None:
        """Let it take no writes and keep what it has: the replica of nobody."""
        self.follow(server, f"{HOST}:{NOBODY}")

    def cut(self) -> None:
        """Lose the stream from now on, both ways, without an end that either could see."""
        self.stream.turn(LOSE_BOTH)

    def mend(self) -> None:
        """Let the replica connect anew."""
        self.stream.turn(FAIR)
        self.stream.reset_all()

    def in_step(self) -> bool:
        """Say whether the replica has all that the primary has written."""
        return self.lag_bytes() == 0

    def lag_bytes(self) -> int:
        """What the replica has not got of what the primary has written."""
        with self.primary.client() as primary, self.replica.client() as replica:
            here: Any = replica.info("replication")
            there: Any = primary.info("replication")
        if here["master_link_status"] != "up":
            return int(there["master_repl_offset"]) + 1
        return int(there["master_repl_offset"]) - int(here["slave_repl_offset"])

    def demand_replica(self) -> None:
        """Let the primary take writes only while the replica was heard of within 2 s (it looks once a second)."""
        with self.primary.client() as client:
            client.config_set("min-replicas-max-lag", 2)
            client.config_set("min-replicas-to-write", 1)

    def promote(self) -> None:
        """Make the replica the primary, and the server of the house."""
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self.faults.take_over(self.replica)

    def lead(self, door: Proxy) -> None:
        """Lead new connections through a door to the replica. Those that are open stay where they are."""
        door.lead_to(f"{HOST}:{self.replica.port}")

    def refusal(self) -> str:
        """Try a write on the primary; give what it says against it, or ""."""
        with self.primary.client() as client:
            try:
                client.set("{darkroom}:probe", 1, px=1)
            except redis.ResponseError as error:
                return str(error)
        return ""
