"""Scripts that are broken on purpose, and a machine that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.redis import scripts
from tests.integration.lua.machine.test_state_machine import STEPS

if TYPE_CHECKING:
    from tests.integration.lua.machine.test_state_machine import Machine


@dataclass(frozen=True, slots=True)
class Break:
    """One sentence of a script and what a careless hand makes of it."""

    fragment: str
    before: str
    after: str = ""


def assert_caught(machine: type[Machine], broken: Break, patch: pytest.MonkeyPatch) -> None:
    """Fail unless the model says otherwise in some order of steps; the orders are the same every time."""
    source = scripts._source

    def patched(fragment: str) -> str:
        text = source(fragment)
        if fragment != broken.fragment:
            return text
        assert text.count(broken.before) == 1, "the sentence to break has moved"
        return text.replace(broken.before, broken.after)

    patch.setattr(scripts, "_source", patched)
    scripts.script.cache_clear()
    orders = settings(
        max_examples=300, stateful_step_count=STEPS, deadline=None, database=None, derandomize=True,
        phases=(Phase.generate,), suppress_health_check=tuple(HealthCheck),
    )  # fmt: skip
    try:
        with pytest.raises((AssertionError, ExceptionGroup)):
            run_state_machine_as_test(machine, settings=orders)
    finally:
        scripts.script.cache_clear()
