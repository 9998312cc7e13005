"""What a file of requests would cost and take: prices, provider calls, time under the present backlog. Pure.

An estimate, not a promise. Prices are exact ranges. Calls and times follow from how long generations took lately (or
from an assumption, if there are too few), from the schedule of polls without its jitter, and from the limits of the
settings; they know nothing of throttling, of other tenants' coming work, or of a provider's bad day.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Final

from shared.quota.poll_schedule import is_long_sequential, next_delay_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shared.settings import AccountSettings, PollSettings

ASSUMED_MEDIAN_S: Final = (
    20.0  # until enough generations have been seen: an assumption, not a fact of the provider
)
ASSUMED_SIGMA: Final = 0.35
ENOUGH_SAMPLES: Final = 20
_QUANTILES: Final = 49


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a request prices and times depend on."""

    model: str
    size: str
    n: int
    sequential: bool
    tenant: str


@dataclass(frozen=True, slots=True)
class PriceRange:
    """The least and the most that it costs in one currency, micros.

    The least is 0 where an account with another currency may take it instead.
    """

    currency: str
    least_micros: int
    most_micros: int


@dataclass(frozen=True, slots=True)
class LineEstimate:
    """All requests of one model and size."""

    model: str
    size: str
    jobs: int
    images: int
    prices: tuple[PriceRange, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """How things stand for a model: jobs queued before these, lanes that take none now, seconds of late generations."""

    backlog: int = 0
    blocked: Mapping[str, str] = field(default_factory=dict)
    latencies_s: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """Calls and time of one model. `per_s` jobs a second is what all its open lanes can do together.

    `limited_by` is the setting that bounds the slowest of them; `duration_s` is None if no lane is open.
    """

    model: str
    jobs: int
    images: int
    submits: int
    polls: int
    backlog: int
    latency_s: float
    measured: bool
    per_s: float
    limited_by: str
    duration_s: float | None
    blocked: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of it."""

    lines: tuple[LineEstimate, ...]
    models: tuple[ModelEstimate, ...]
    prices: tuple[PriceRange, ...]

    @property
    def jobs(self) -> int:
        return sum(line.jobs for line in self.lines)

    @property
    def images(self) -> int:
        return sum(line.images for line in self.lines)

    @property
    def duration_s(self) -> float | None:
        """Models run side by side: the slowest decides."""
        durations = [model.duration_s for model in self.models]
        known = [each for each in durations if each is not None]
        return max(known, default=0.0) if len(known) == len(durations) else None


def estimate(
    shapes: Mapping[Shape, int],
    accounts: Mapping[str, AccountSettings],
    poll: PollSettings,
    situations: Mapping[str, Situation],
) -> Estimate:
    """Estimate jobs by their shape. Every model has a price: others were rejected before."""
    lines = tuple(_lines(shapes, accounts))
    models = sorted({shape.model for shape in shapes})
    return Estimate(
        lines,
        tuple(
            _model(model, shapes, accounts, poll, situations.get(model, Situation()), models)
            for model in models
        ),
        _sum(prices for line in lines for prices in line.prices),
    )


# --- prices ---


def _lines(shapes: Mapping[Shape, int], accounts: Mapping[str, AccountSettings]) -> Iterable[LineEstimate]:
    jobs: Counter[tuple[str, str]] = Counter()
    images: Counter[tuple[str, str]] = Counter()
    for shape, count in shapes.items():
        jobs[shape.model, shape.size] += count
        images[shape.model, shape.size] += count * shape.n
    for (model, size), count in sorted(jobs.items()):
        total = images[model, size]
        yield LineEstimate(model, size, count, total, price_ranges(accounts, model, total))


def price_ranges(accounts: Mapping[str, AccountSettings], model: str, images: int) -> tuple[PriceRange, ...]:
    """Give what images of a model cost, whichever account takes them: a range per currency."""
    units: dict[str, list[int]] = {}
    for account in accounts.values():
        if model in account.models and model in account.price_micros:
            units.setdefault(account.currency, []).append(account.price_micros[model])
    only = len(units) == 1
    return tuple(
        PriceRange(currency, min(found) * images if only else 0, max(found) * images)
        for currency, found in sorted(units.items())
    )


def _sum(ranges: Iterable[PriceRange]) -> tuple[PriceRange, ...]:
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for each in ranges:
        least[each.currency] += each.least_micros
        most[each.currency] += each.most_micros
    return tuple(PriceRange(currency, least[currency], most[currency]) for currency in sorted(most))


# --- calls and time ---


@dataclass(frozen=True, slots=True)
class _Course:
    """The mean of one job: polls, and seconds from submit to the poll that finds it done."""

    polls: float
    noticed_s: float


def _model(
    model: str,
    shapes: Mapping[Shape, int],
    accounts: Mapping[str, AccountSettings],
    poll: PollSettings,
    situation: Situation,
    models: Sequence[str],
) -> ModelEstimate:
    mine = {shape: count for shape, count in shapes.items() if shape.model == model}
    jobs, long = sum(mine.values()), _long(mine)
    measured = len(situation.latencies_s) >= ENOUGH_SAMPLES
    latencies_s = situation.latencies_s if measured else assumed_latencies_s()
    short_course, long_course = (_course(poll, latencies_s, long_sequential=each) for each in (False, True))
    polls = short_course.polls * (jobs - long) + long_course.polls * long
    noticed_s = (short_course.noticed_s * (jobs - long) + long_course.noticed_s * long) / jobs
    per_s, limit = _speed(model, accounts, situation, _Course(polls / jobs, noticed_s), models)
    return ModelEstimate(
        model=model,
        jobs=jobs,
        images=sum(shape.n * count for shape, count in mine.items()),
        submits=jobs,
        polls=round(polls),
        backlog=situation.backlog,
        latency_s=fmean(latencies_s),
        measured=measured,
        per_s=per_s,
        limited_by=limit,
        duration_s=(situation.backlog + jobs - 1) / per_s + noticed_s if per_s else None,
        blocked=dict(situation.blocked),
    )


def _long(shapes: Mapping[Shape, int]) -> int:
    return sum(
        count for shape, count in shapes.items() if is_long_sequential(sequential=shape.sequential, n=shape.n)
    )


def assumed_latencies_s() -> list[float]:
    """Give quantiles of a log-normal latency."""
    normal = NormalDist(math.log(ASSUMED_MEDIAN_S), ASSUMED_SIGMA)
    return [math.exp(normal.inv_cdf(at / (_QUANTILES + 1))) for at in range(1, _QUANTILES + 1)]


def _course(poll: PollSettings, latencies_s: Sequence[float], *, long_sequential: bool) -> _Course:
    courses = [_one_course(poll, latency_s, long_sequential=long_sequential) for latency_s in latencies_s]
    return _Course(fmean(polls for polls, _ in courses), fmean(noticed_s for _, noticed_s in courses))


def _one_course(poll: PollSettings, latency_s: float, *, long_sequential: bool) -> tuple[int, float]:
    """Follow the schedule, without its jitter, to the first poll after the generation is done."""
    age_s, polls = 0.0, 0
    while age_s < min(latency_s, poll.give_up_s):
        age_s += next_delay_s(poll, age_s, long_sequential=long_sequential, rng=lambda: 0.5)
        polls += 1
    return max(polls, 1), age_s


def _speed(
    model: str,
    accounts: Mapping[str, AccountSettings],
    situation: Situation,
    course: _Course,
    models: Sequence[str],
) -> tuple[float, str]:
    """Give jobs per second over the open lanes, and the setting that bounds the slowest lane."""
    bounds = [
        _lane_bound(name, account, course, models)
        for name, account in accounts.items()
        if model in account.models and f"{name}/{model}" not in situation.blocked
    ]
    slowest = min(bounds, default=(0.0, "no open lane"))
    return sum(per_s for per_s, _ in bounds), slowest[1]


def _lane_bound(
    name: str, account: AccountSettings, course: _Course, models: Sequence[str]
) -> tuple[float, str]:
    """Give what bounds a lane: jobs a second, and the setting. Status queries are shared by an account's models."""
    sharing = sum(model in account.models for model in models)
    bounds = [(account.max_in_flight / max(course.noticed_s, 0.001), f"{name}: max_in_flight")]
    if account.submit_per_s:
        bounds.append((account.submit_per_s, f"{name}: submit_per_s"))
    if account.poll_per_s:
        bounds.append((account.poll_per_s / course.polls / sharing, f"{name}: poll_per_s"))
    return min(bounds)
