"""What goes wrong in a soak: each trouble says whom it hits, how it hurts, and how it heals.

Everything is done by the thread that calls: processes are tied to the thread that started them.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.faults import middleman as spoils
from tests.faults.dials import rules
from tests.faults.middleman import Twist
from tests.faults.proxy import FAIR, LOSE_BOTH, LOSE_TO_CLIENT, Weather

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.campaign import FaultHouse
    from tests.faults.middleman import Middleman
    from tests.faults.proxy import Proxy
    from tests.integration.fake_s3 import FakeS3
    from tests.process import Proc
    from tests.servers import WorkerProc

    Act = Callable[[], object]

EVERY_S: Final = (0.3, 1.5)  # between one trouble and the next
LASTS_S: Final = (0.3, 3.5)  # longer than two leases
TERM_WITHIN_S: Final = 3.0

SUBMIT_RULES: Final = (
    ("lost_answer", "", 0.2), ("lost_answer", "reset", 0.2), ("500", "", 0.2), ("502", "", 0.3), ("503", "", 0.3),
    ("429", "1", 0.5), ("429", "", 0.3), ("slow", "1", 0.5), ("hang", "", 0.1), ("cut", "", 0.2),
    ("garbage", "", 0.2), ("html", "", 0.2), ("code", "get_channel_failed", 0.5), ("500;accept", "", 0.2),
)  # fmt: skip
POLL_RULES: Final = (
    ("500", "", 0.7), ("429", "1", 0.5), ("404", "", 0.7), ("hang", "", 0.3), ("garbage", "", 0.7), ("cut", "", 0.5),
    ("lost_answer", "reset", 0.7),
)  # fmt: skip
IMAGE_RULES: Final = (
    ("500", "", 0.7), ("403", "", 0.5), ("cut", "", 0.5), ("html", "", 0.5), ("slow", "1", 0.7),
)  # fmt: skip
BAD_WEATHER: Final = {
    "loses both ways": LOSE_BOTH,
    "loses answers": LOSE_TO_CLIENT,
    "is slow": Weather(delay_s=0.4),
    "hangs": Weather(hold=frozenset({"to_server", "to_client"})),
    "is refused": Weather(refuse=True),
    "dribbles": Weather(slice_bytes=200, slice_every_s=0.005),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Hits `target`, which only one trouble does at a time."""

    name: str
    target: str
    hurt: Act
    heal: Act = lambda: None


@dataclass
class Parts:
    """What can be hurt."""

    house: FaultHouse
    workers: list[WorkerProc]
    s3: FakeS3
    endpoint: Middleman
    proxies: dict[str, Proxy]


@dataclass
class Nemesis:
    """Picks troubles by the house's seed, one after the other, several at a time."""

    parts: Parts
    log: list[str] = field(default_factory=list)
    _until: dict[str, tuple[float, Trouble]] = field(default_factory=dict)
    _next_at: float = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._chance = self.parts.house.chance
        self._troubles = troubles(self.parts)

    def step(self) -> None:
        """Heal what has lasted long enough, and begin what is due."""
        now = time.monotonic()
        for target, (until, trouble) in list(self._until.items()):
            if now >= until:
                self._end(target, trouble)
        if now >= self._next_at:
            self._next_at = now + self._chance.uniform(*EVERY_S)
            trouble = self._chance.choice(self._troubles)
            lasts_s = self._chance.uniform(*LASTS_S)
            if trouble.target not in self._until:
                self._note(f"{trouble.name} for {lasts_s:.1f} s")
                trouble.hurt()
                self._until[trouble.target] = (now + lasts_s, trouble)

    def heal(self) -> None:
        """End every trouble."""
        for target, (_, trouble) in list(self._until.items()):
            self._end(target, trouble)
        for worker in self.parts.workers:
            if not worker.running:
                worker.start(wait=False)

    def _end(self, target: str, trouble: Trouble) -> None:
        del self._until[target]
        trouble.heal()
        self._note(f"{trouble.name} is over")

    def _note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:6.1f} s {what}")


def troubles(parts: Parts) -> list[Trouble]:
    """Give every trouble there is, each kind of part about as often as the others."""
    house = parts.house
    return [
        *(each for worker in parts.workers for each in _of_worker(worker)),
        *_of_server("state", house.state),
        *_of_server("broker", house.broker),
        Trouble("broker flushed", "broker", lambda: house.broker.client().flushall()),
        *_of_provider(house),
        *_of_store(parts.s3),
        *_of_endpoint(parts.endpoint),
        *(each for name, proxy in parts.proxies.items() for each in _of_network(name, proxy)),
    ]


def _of_worker(worker: WorkerProc) -> list[Trouble]:
    def again() -> None:
        if worker.running:
            worker.stop(within_s=TERM_WITHIN_S)
        worker.start(wait=False)

    def paused() -> None:
        if worker.running:
            worker.pause()

    def goes_on() -> None:
        if worker.running:
            worker.resume()

    def ended(number: signal.Signals) -> Act:
        def end() -> None:
            if worker.running:
                worker.signal(number)

        return end

    return [
        Trouble(f"{worker.name} killed", worker.name, ended(signal.SIGKILL), again),
        Trouble(f"{worker.name} asked to end", worker.name, ended(signal.SIGTERM), again),
        Trouble(f"{worker.name} paused", worker.name, paused, goes_on),
    ]


def _of_server(name: str, server: Proc) -> list[Trouble]:
    return [
        Trouble(f"{name} killed", name, server.kill, server.start),
        Trouble(f"{name} paused", name, server.pause, server.resume),
    ]


def _of_provider(house: FaultHouse) -> list[Trouble]:
    def spoiling(on: str, kind: str, arg: str, probability: float) -> Trouble:
        kind, _, accept = kind.partition(";")
        rule: dict[str, object] = {"on": on, "kind": kind, "arg": arg, "probability": probability}
        if accept:
            rule["accept"] = True
        name = f"provider: {on} {kind} {arg}"
        return Trouble(name, "provider", lambda: rules(house, rule), lambda: rules(house))

    found = [spoiling("submit", *rule) for rule in SUBMIT_RULES]
    found += [spoiling("poll", *rule) for rule in POLL_RULES]
    return found + [spoiling("image", *rule) for rule in IMAGE_RULES]


def _of_store(s3: FakeS3) -> list[Trouble]:
    def failing(status: int) -> Trouble:
        body = b"<Error><Code>InternalError</Code></Error>"
        return Trouble(
            f"store answers {status}", "store", lambda: s3.faults.update(PUT=(status, body)), s3.faults.clear
        )

    def forgetful() -> None:
        s3.lose_replies_of_puts = 3

    lost = Trouble("store loses replies of puts", "store", forgetful)
    return [failing(500), failing(403), failing(507), lost]


def _of_endpoint(endpoint: Middleman) -> list[Trouble]:
    ways = {
        "500": Twist("event", spoils.says({}, 500)),
        "500 though taken": Twist("event", spoils.says({}, 500), pass_on=True),
        "reset": Twist("event", spoils.vanish, pass_on=False),
        "silent": Twist("event", spoils.silent(2)),
    }

    def failing(name: str, twist: Twist) -> Trouble:
        return Trouble(
            f"endpoint: {name}", "endpoint", lambda: endpoint.twists.append(twist), endpoint.twists.clear
        )

    return [failing(name, twist) for name, twist in ways.items()]


def _of_network(name: str, proxy: Proxy) -> list[Trouble]:
    def turning(words: str, weather: Weather) -> Trouble:
        def fair() -> None:
            proxy.turn(FAIR)

        return Trouble(f"network to {name} {words}", f"network:{name}", lambda: proxy.turn(weather), fair)

    found = [turning(words, weather) for words, weather in BAD_WEATHER.items()]
    return [*found, Trouble(f"network to {name} resets", f"network:{name}", proxy.reset_all)]
