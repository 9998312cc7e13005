"""Generations (the provider's "tasks"): decided when they are accepted, then only a function of time.

Everything about a generation, its end included, is drawn at acceptance; no timer runs. So a sandbox that is killed
and started again on the same journal gives the same answers, and the ledger can charge when it is asked.
"""

from __future__ import annotations

import heapq
import re
import secrets
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from sandbox.faults import read_markers
from sandbox.rules import PRICE_MICROS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

    from sandbox.faults import Fault
    from sandbox.rules import Order
    from sandbox.settings import Settings

End = Literal["completed", "failed", "cancelled", "never"]
KEEP_S = 86400.0
CAPTION_CHARS = 160
_ANY_MARKER = re.compile(r"\[\[(?:m|fault):[^\]]*\]\]")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIER_FACTOR = {"1K": 0.6, "2K": 1.0, "4K": 2.2}
_PER_MORE_IMAGE, _EDIT_FACTOR, _SEQUENTIAL_FACTOR, _THINKING_FACTOR = 0.25, 1.3, 1.2, 1.3


@dataclass(frozen=True, slots=True)
class Generation:
    """One accepted submit. `faults` is the text of the fault markers of its prompt, for its polls and images."""

    id: str
    account: str
    model: str
    n: int
    delivered: int
    price_micros: int
    end: End
    created_at: float
    done_at: float
    estimated_s: float
    width: int
    height: int
    marker: str
    prompt_sha256: str
    caption: str
    palette: tuple[str, ...] = ()
    watermark: bool = False
    lost: bool = False
    running_word: str = "processing"
    failure: str = ""
    url_ttl_s: float | None = None
    faults: str = ""

    def is_done(self, now: float) -> bool:
        return self.end != "never" and now >= self.done_at

    def progress(self, now: float) -> int:
        """Percent, 0 to 100; 100 only when done."""
        if self.is_done(now):
            return 100
        share = (now - self.created_at) / max(self.done_at - self.created_at, 1e-6)
        return max(0, min(99, int(share * 100)))


def new_id(now: float) -> str:
    """Give `task_` and a ULID, as the provider's examples have it."""
    number = (int(now * 1000) << 80) | secrets.randbits(80)
    return "task_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def median_latency_s(order: Order, settings: Settings) -> float:
    """Scale the median by size tier, n and mode. The factors are invented."""
    if not settings.latency_scale:
        return settings.latency_s
    mode = _EDIT_FACTOR if order.image_urls else 1.0
    mode *= _SEQUENTIAL_FACTOR if order.sequential else 1.0
    mode *= _THINKING_FACTOR if order.thinking else 1.0
    return settings.latency_s * _TIER_FACTOR[order.size.tier] * (1 + _PER_MORE_IMAGE * (order.n - 1)) * mode


def draw_latency_s(median_s: float, settings: Settings, rng: random.Random) -> float:
    return median_s * rng.lognormvariate(0.0, settings.latency_sigma) if settings.latency_sigma else median_s


def accept(
    order: Order,
    outcomes: Iterable[Fault],
    *,
    account: str,
    identity: tuple[str, str],
    settings: Settings,
    rng: random.Random,
    now: float,
) -> Generation:
    """Decide all that will become of an order; `identity` is its (marker, sha256)."""
    estimated_s = median_latency_s(order, settings)
    latency_s = draw_latency_s(estimated_s, settings, rng)
    generation = Generation(
        id=new_id(now),
        account=account,
        model=order.model,
        n=order.n,
        delivered=order.n,
        price_micros=PRICE_MICROS[order.model],
        end="completed",
        created_at=now,
        done_at=now + latency_s,
        estimated_s=estimated_s,
        width=order.size.width,
        height=order.size.height,
        marker=identity[0],
        prompt_sha256=identity[1],
        caption=_ANY_MARKER.sub("", order.prompt)[:CAPTION_CHARS].strip() or "(no prompt)",
        palette=order.palette,
        watermark=order.watermark,
        faults="".join(text for text, fault in read_markers(order.prompt) if fault.on != "submit"),
    )
    for fault in outcomes:
        generation = _suffer(generation, fault)
    return generation


def _suffer(generation: Generation, fault: Fault) -> Generation:
    changes: dict[str, Any] = {}
    match fault.kind:
        case "partial" | "no_images":
            changes = {"delivered": min(generation.delivered, int(fault.arg or 0))}
        case "fail":
            changes = {"end": "failed", "delivered": 0, "failure": fault.arg}
        case "cancel":
            changes = {"end": "cancelled", "delivered": 0}
        case "never":
            changes = {"end": "never", "delivered": 0}
        case "lost_task":
            changes = {"lost": True}
        case "status":
            changes = {"running_word": fault.arg}
        case "url_ttl":
            changes = {"url_ttl_s": float(fault.arg)}
        case "takes":
            changes = {"done_at": generation.created_at + float(fault.arg)}
    return replace(generation, **changes)


class Generations:
    """All of them, the unfinished by due time. Bounded: finished ones go after 24 h, or oldest first at `limit`."""

    def __init__(self, limit: int) -> None:
        self.in_flight: defaultdict[str, int] = defaultdict(int)
        self._limit = limit
        self._by_id: dict[str, Generation] = {}
        self._due: list[tuple[float, str]] = []
        self._finished: deque[tuple[float, str]] = deque()

    def __iter__(self) -> Iterator[Generation]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, generation_id: str) -> Generation | None:
        return self._by_id.get(generation_id)

    def add(self, generation: Generation) -> None:
        self._by_id[generation.id] = generation
        self.in_flight[generation.account] += 1
        due = generation.created_at + KEEP_S if generation.end == "never" else generation.done_at
        heapq.heappush(self._due, (due, generation.id))

    def settle(self, now: float) -> Iterable[Generation]:
        """Give those that have ended since the last call, each once, in the order of their ends."""
        while self._due and self._due[0][0] <= now:
            due, generation_id = heapq.heappop(self._due)
            generation = self._by_id[generation_id]
            self.in_flight[generation.account] -= 1
            self._finished.append((due, generation_id))
            yield generation

    def forget(self, now: float) -> Iterable[Generation]:
        """Drop and give those that are too old or too many."""
        while self._finished and (self._finished[0][0] < now - KEEP_S or len(self._by_id) > self._limit):
            yield self._by_id.pop(self._finished.popleft()[1])

    def next_end_at(self, account: str) -> float | None:
        """Give when the next generation of `account` ends, or None if it has none in flight."""
        ends = (due for due, generation_id in self._due if self._by_id[generation_id].account == account)
        return min(ends, default=None)
