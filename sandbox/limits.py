"""Rate limits, and the counters that show whether a client kept to its own."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

_WINDOW_S = 1.0
_HISTOGRAM_SECONDS = 3600
_ROUNDING_S = 1e-9


@dataclass(slots=True)
class Bucket:
    """A bucket of permits, kept as the instant at which it would be full again."""

    full_at: float = 0.0

    def take(self, now: float, rate_per_s: float, burst: int) -> float:
        """Take one permit and give 0, or take none and give the seconds until there is one."""
        if rate_per_s <= 0:
            return 0.0
        size = burst or max(1, math.ceil(rate_per_s))
        full_at = max(self.full_at, now) + 1 / rate_per_s
        wait_s = full_at - now - size / rate_per_s
        if wait_s > _ROUNDING_S:
            return wait_s
        self.full_at = full_at
        return 0.0


@dataclass(slots=True)
class Window:
    """The greatest number of events in any 1 s, and a histogram of events per second of the clock."""

    most: int = 0
    _recent: deque[float] = field(default_factory=deque)
    _per_second: deque[list[int]] = field(default_factory=lambda: deque(maxlen=_HISTOGRAM_SECONDS))

    def note(self, now: float) -> None:
        self._recent.append(now)
        while self._recent[0] <= now - _WINDOW_S:
            self._recent.popleft()
        self.most = max(self.most, len(self._recent))
        second = int(now)
        if not self._per_second or self._per_second[-1][0] != second:
            self._per_second.append([second, 0])
        self._per_second[-1][1] += 1

    def histogram(self) -> dict[str, int]:
        """Map "events in a second" to the number of seconds (of the last 3,600 with any) that had so many."""
        return {str(count): times for count, times in sorted(Counter(n for _, n in self._per_second).items())}


@dataclass(slots=True)
class Stats:
    """What came in since the start, or since the counters were last cleared."""

    http_requests: int = 0
    answers_by_status: Counter[str] = field(default_factory=Counter)
    faults_by_kind: Counter[str] = field(default_factory=Counter)
    polls: int = 0
    image_gets: int = 0
    max_in_flight: dict[str, int] = field(default_factory=dict)
    submits_seen: Window = field(default_factory=Window)
    submits_accepted: Window = field(default_factory=Window)
    polls_seen: Window = field(default_factory=Window)

    def note_in_flight(self, account: str, count: int) -> None:
        self.max_in_flight[account] = max(count, self.max_in_flight.get(account, 0))

    def as_json(self, in_flight: dict[str, int]) -> dict[str, object]:
        return {
            "http_requests": self.http_requests,
            "answers_by_status": dict(sorted(self.answers_by_status.items())),
            "faults_by_kind": dict(sorted(self.faults_by_kind.items())),
            "polls": self.polls,
            "image_gets": self.image_gets,
            "in_flight": in_flight,
            "max_in_flight": self.max_in_flight,
            "max_submits_seen_in_1s": self.submits_seen.most,
            "max_submits_accepted_in_1s": self.submits_accepted.most,
            "max_polls_in_1s": self.polls_seen.most,
            "seconds_by_submits_seen": self.submits_seen.histogram(),
            "seconds_by_submits_accepted": self.submits_accepted.histogram(),
        }
