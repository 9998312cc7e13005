"""What follows from the settings for producers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import producers
from producers.core import Core, check_generation_id, needs_clock, whoami
from producers.overview import LaneStatus
from shared.errors import InvalidRequest, UnknownPrice
from shared.jobs.enqueue import JobParams
from shared.settings import AccountSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def account(**more: Any) -> AccountSettings:
    return AccountSettings(**more)


def never() -> int:
    raise AssertionError("the clock was asked")


def test_an_offer_is_the_dearest_lane() -> None:
    """Whichever lane takes the job, it costs no more than the receipt says."""
    cheap = account(price_micros={"wan2.7-image": 100})
    core = Core(Settings(accounts={"a": cheap, "b": account(), "c": account(models=())}))
    offer = core.offer("wan2.7-image")
    assert (offer.price_micros, offer.currency, offer.lanes) == (
        200_000, "CNY", ("a/wan2.7-image", "b/wan2.7-image"),
    )  # fmt: skip
    assert core.lanes("wan2.7-image-pro") == ("b/wan2.7-image-pro",)
    assert core.lanes("gone") == ()


def test_a_model_without_price_or_lane_is_not_offered() -> None:
    """A price of zero is a price; none is none."""
    core = Core(Settings(accounts={"a": account(price_micros={"wan2.7-image": 0})}))
    assert core.offer("wan2.7-image").price_micros == 0
    with pytest.raises(UnknownPrice, match="image-pro"):
        core.offer("wan2.7-image-pro")


@pytest.mark.parametrize(("currencies", "one"), [(("CNY", "CNY"), "CNY"), (("CNY", "USD"), "")])
def test_the_currency_is_known_only_if_there_is_one(currencies: tuple[str, ...], one: str) -> None:
    """A batch may have costs in several."""
    accounts = {f"a{nr}": account(currency=currency) for nr, currency in enumerate(currencies)}
    assert Settings(accounts=accounts).currency == one


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7 * 86_400, "7 days"), (86_400, "1 day"), (5400, "5400 s"), (7200, "2 hours"), (90, "90 s")],
)
def test_retention_is_said_in_words(seconds: int, words: str) -> None:
    """On every receipt."""
    core = Core(Settings(limits={"retain_jobs_s": seconds}))
    assert core.retention == f"record kept for {words} after the job ends"


def test_none_is_as_if_not_given() -> None:
    """An option that is None takes the default, and the clock is not asked without need."""
    core = Core(Settings())
    defaults = JobParams(priority=5, metadata="ours")
    assert core.params({"priority": None, "metadata": None}, never, defaults) == defaults
    assert core.params({"priority": 1, "deadline": 1_900_000_000}, never).deadline_at == 1_900_000_000_000


def test_all_issues_of_a_jobs_options_are_told_at_once() -> None:
    """Unknown names, instants and webhook together."""
    core = Core(Settings())
    with pytest.raises(InvalidRequest) as caught:
        core.params({"colour": 1, "deadline": "soon", "not_before": -1, "webhook": "x"}, never)
    assert [issue.field for issue in caught.value.issues] == ["colour", "not_before", "deadline", "webhook"]


@pytest.mark.parametrize(
    ("value", "needed"),
    [
        (timedelta(1), True),
        ("1h", True),
        (5, False),
        (None, False),
        (datetime(2030, 1, 1, tzinfo=UTC), False),
    ],
)
def test_the_clock_is_needed_for_durations_only(value: object, needed: bool) -> None:
    """Text may be a duration."""
    assert needs_clock({"deadline": value}) is needed


@pytest.mark.parametrize("generation_id", ["task_1", "a" * 256, "4a:b/c-d"])
def test_generation_ids_may_be_anything_printable(generation_id: str) -> None:
    """The provider decides what they look like."""
    assert check_generation_id(generation_id) == generation_id


def test_a_person_has_a_name_even_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a user that nobody named."""

    def nobody() -> str:
        raise KeyError(12345)

    assert "@" in whoami()
    monkeypatch.setattr("producers.core.getpass.getuser", nobody)
    assert whoami().startswith("unknown@")


@pytest.mark.parametrize(
    ("make", "condition"),
    [
        (lambda lane: lane(), "open"),
        (lambda lane: lane(blocked="invalid_api_key", closed_until=2000), "blocked"),
        (lambda lane: lane(closed_until=2000), "closed"),
        (lambda lane: lane(closed_until=999), "open"),
        (lambda lane: lane(ambiguous=5), "probing"),
        (lambda lane: lane(ambiguous=4), "open"),
    ],
)
def test_the_condition_of_a_lane(
    make: Callable[[Callable[..., LaneStatus]], LaneStatus], condition: str
) -> None:
    """What stops submits first is what is shown."""

    def lane(ambiguous: int = 0, **more: Any) -> LaneStatus:
        return LaneStatus(
            name="a/m", submitting=0, in_flight=0, polling=0, waiting=0, throttled=0, ambiguous=ambiguous, breaker=5,
            **more,
        )  # fmt: skip

    assert make(lane).condition(1000) == condition


def test_every_public_name_is_where_it_is_said_to_be() -> None:
    """`producers` looks names up when they are first used: each can be had, and no other."""
    assert {name for names in producers._HOMES.values() for name in names} == set(producers.__all__)
    for name in producers.__all__:
        assert getattr(producers, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        producers.nothing  # noqa: B018 - the access is the test
