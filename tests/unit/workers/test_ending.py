"""The end of a worker process: its exit code, and that it comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker import state
from structlog.testing import capture_logs

from workers.ending import Ending

if TYPE_CHECKING:
    from collections.abc import Callable


def served(end: Callable[[int], object], begin: Callable[[threading.Event], object]) -> Ending:
    """Give the ending of a process that serves; `begin` is what starts its drain."""
    ending, drain = Ending(end), threading.Event()
    ending.served(drain, lambda: begin(drain))
    return ending


def test_a_process_that_never_served_keeps_the_code_of_whoever_ends_it() -> None:
    """Such as the 2 of a refusal, or that of a wrong option."""
    codes: list[int] = []
    Ending(codes.append).finish()
    assert codes == []


def test_the_end_waits_for_a_drain_that_celery_never_asked_for() -> None:
    """A fault in Celery's own stop comes before it stops the steps: the work is drained all the same."""
    codes: list[int] = []
    served(codes.append, lambda drain: threading.Timer(0.05, drain.set).start()).finish()
    assert codes == [1]


def test_an_interrupted_wait_ends_the_process_and_is_told() -> None:
    """Ctrl-C again while it waits at the very end."""
    codes: list[int] = []

    def interrupted(_drain: threading.Event) -> None:
        raise KeyboardInterrupt

    ending = served(codes.append, interrupted)
    ending.ask()
    with capture_logs() as logged, pytest.raises(KeyboardInterrupt):
        ending.finish()
    assert codes == [1]
    assert [entry["event"] for entry in logged] == ["work_left_behind"]


def test_who_insists_is_not_kept_waiting() -> None:
    """The drain is not begun, and never ends."""
    codes: list[int] = []
    ending = served(codes.append, lambda _: pytest.fail("begun"))
    ending.insisted = True
    ending.finish()
    assert codes == [1]


@pytest.mark.parametrize(
    ("asked", "left", "refused", "code"),
    [
        (True, False, False, 0),
        (True, True, False, 1),
        (False, False, False, 1),
        (False, False, True, 2),
        (True, False, True, 0),
        (True, True, True, 1),
    ],
)
def test_the_code_says_what_became_of_the_work(*, asked: bool, left: bool, refused: bool, code: int) -> None:
    """A refusal that comes after it was asked to end is no news."""
    codes: list[int] = []
    ending = served(codes.append, threading.Event.set)
    ending.left, ending.refused = left, refused
    if asked:
        ending.ask()
    ending.finish()
    assert codes == [code]


@pytest.mark.parametrize("flag", ["should_stop", "should_terminate"])
@pytest.mark.parametrize(
    ("value", "asked"), [(0, True), (1, True), (True, True), (None, False), (False, False)]
)
def test_a_signal_before_the_start_counts_as_asked(
    monkeypatch: pytest.MonkeyPatch, flag: str, value: Any, *, asked: bool
) -> None:
    """Celery keeps it as a flag, in which 0 is an exit code and not a no."""
    monkeypatch.setattr(state, flag, value)
    assert Ending().asked is asked
