"""Prices, calls and times of a file, computed by hand for cases that can be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.reports.estimate import (
    Estimate,
    PriceRange,
    Shape,
    Situation,
    assumed_latencies_s,
    estimate,
    price_ranges,
)
from shared.settings import AccountSettings, PollSettings

MODEL, PRO = "wan2.7-image", "wan2.7-image-pro"
POLL = PollSettings(first_s=5, fast_s=3, fast_until_s=30, slow_s=5, slow_until_s=120, max_s=10)
WIDE = AccountSettings(submit_per_s=0, poll_per_s=0, max_in_flight=1_000_000)


def shape(model: str = MODEL, *, n: int = 1, size: str = "1K", sequential: bool = False) -> Shape:
    return Shape(model, size, n, sequential, "acme")


def estimated(
    shapes: dict[Shape, int], account: AccountSettings = WIDE, *, latency_s: float = 10.0, **situation: Any
) -> Estimate:
    latencies = situation.pop("latencies_s", [latency_s] * 20)
    models = {each.model for each in shapes}
    situations = {model: Situation(latencies_s=latencies, **situation) for model in models}
    return estimate(shapes, {"main": account}, POLL, situations)


def test_lines_are_added_up_per_model_and_size() -> None:
    """Jobs of one model and size are a line; images are n for each."""
    found = estimated({shape(n=2): 3, shape(n=1): 4, shape(size="2K"): 1, shape(PRO, n=4): 2})
    assert [(each.model, each.size, each.jobs, each.images) for each in found.lines] == [
        (MODEL, "1K", 7, 10), (MODEL, "2K", 1, 1), (PRO, "1K", 2, 8),
    ]  # fmt: skip
    assert (found.jobs, found.images) == (10, 19)
    assert found.prices == (PriceRange("CNY", 11 * 200_000 + 8 * 500_000, 11 * 200_000 + 8 * 500_000),)


def test_accounts_that_differ_make_a_range() -> None:
    """The least and the most, whichever account takes it; one that does not serve the model does not count."""
    cheap = WIDE.model_copy(update={"price_micros": {MODEL: 100_000}})
    accounts = {"a": WIDE, "b": cheap, "c": WIDE.model_copy(update={"models": (PRO,)})}
    assert price_ranges(accounts, MODEL, 3) == (PriceRange("CNY", 300_000, 600_000),)


def test_several_currencies_are_never_added() -> None:
    """Each has its own most; the least is nothing, since the other account may take all of it."""
    dollars = WIDE.model_copy(update={"currency": "USD", "price_micros": {MODEL: 30_000}})
    found = price_ranges({"a": WIDE, "b": dollars}, MODEL, 2)
    assert found == (PriceRange("CNY", 0, 400_000), PriceRange("USD", 0, 60_000))


def test_an_account_without_a_price_takes_nothing() -> None:
    """Unknown is never nothing."""
    unpriced = WIDE.model_copy(update={"price_micros": {}})
    assert price_ranges({"a": WIDE, "b": unpriced}, MODEL, 1) == (PriceRange("CNY", 200_000, 200_000),)


@pytest.mark.parametrize(
    ("latency_s", "polls", "noticed_s"), [(4, 1, 5), (5, 1, 5), (5.1, 2, 8), (29, 9, 29), (36, 11, 37)]
)
def test_polls_follow_the_schedule(latency_s: float, polls: int, noticed_s: float) -> None:
    """First after 5 s, every 3 s until 30 s, then every 5 s; done is what a poll finds done."""
    found = estimated({shape(): 100}, latency_s=latency_s).models[0]
    assert found.polls == 100 * polls
    assert found.duration_s == pytest.approx(noticed_s, abs=0.01)


def test_what_bounds_the_speed_is_named() -> None:
    """Submits per second, generations in flight, or status queries per second: the least of them."""
    base = {"submit_per_s": 5.0, "max_in_flight": 200, "poll_per_s": 20.0}
    for change, limit, per_s in (
        ({}, "main: submit_per_s", 5.0),
        ({"max_in_flight": 22}, "main: max_in_flight", 2.0),
        ({"poll_per_s": 3.0}, "main: poll_per_s", 1.0),
    ):
        found = estimated({shape(): 50}, AccountSettings(**(base | change))).models[0]
        assert found.limited_by == limit
        assert found.per_s == pytest.approx(per_s)
        assert found.duration_s == pytest.approx(49 / per_s + 11)


def test_models_of_one_account_share_its_status_queries() -> None:
    """The limit of queries is the account's, not the lane's."""
    account = WIDE.model_copy(update={"poll_per_s": 6.0})
    found = estimated({shape(): 5, shape(PRO): 5}, account)
    assert [each.per_s for each in found.models] == [pytest.approx(1.0)] * 2


def test_the_backlog_goes_first() -> None:
    """What is queued already takes its time before; models run side by side."""
    account = WIDE.model_copy(update={"submit_per_s": 5.0})
    found = estimated({shape(): 1}, account, backlog=500)
    assert found.duration_s == pytest.approx(100 + 11)
    assert found.models[0].backlog == 500


def test_a_blocked_lane_takes_nothing() -> None:
    """With every lane blocked there is no duration, and it says why."""
    found = estimated({shape(): 1}, blocked={f"main/{MODEL}": "invalid_api_key"})
    assert (found.duration_s, found.models[0].duration_s, found.models[0].per_s) == (None, None, 0)
    assert found.models[0].blocked == {f"main/{MODEL}": "invalid_api_key"}


def test_few_samples_are_not_believed() -> None:
    """Below 20 generations the time is assumed, and said to be."""
    few, many = (
        estimated({shape(): 1}, latencies_s=[1.0] * 19),
        estimated({shape(): 1}, latencies_s=[1.0] * 20),
    )
    assert [each.models[0].measured for each in (few, many)] == [False, True]
    assert many.models[0].latency_s == 1.0
    assert 19 < sorted(assumed_latencies_s())[24] < 21


def test_nothing_at_all() -> None:
    """An empty file costs and takes nothing."""
    found = estimate({}, {"main": WIDE}, POLL, {})
    assert (found.jobs, found.prices, found.duration_s) == (0, (), 0.0)


@given(
    st.dictionaries(
        st.builds(Shape, st.sampled_from([MODEL, PRO]), st.sampled_from(["1K", "2K"]), st.integers(1, 12),
                  st.booleans(), st.just("acme")),
        st.integers(1, 50), min_size=1,
    )
)  # fmt: skip
def test_sums_agree(shapes: dict[Shape, int]) -> None:
    """Jobs, images and prices are those of the requests, however they are grouped."""
    found = estimated(shapes)
    prices = {MODEL: 200_000, PRO: 500_000}
    assert found.jobs == sum(shapes.values()) == sum(each.submits for each in found.models)
    assert found.images == sum(each.n * count for each, count in shapes.items())
    assert found.prices[0].most_micros == sum(
        each.n * prices[each.model] * many for each, many in shapes.items()
    )
