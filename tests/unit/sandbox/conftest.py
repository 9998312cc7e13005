"""A provider shared by the tests of one module, and a fresh one for those that change its settings."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.unit.sandbox.sandbox_process import Sandbox, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def provider() -> Iterator[Sandbox]:
    """A provider whose tasks end at once; a test that uses it keeps to markers of its own."""
    with running("provider", "--latency", "0") as sandbox:
        yield sandbox


@pytest.fixture
def start() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that live as long as the test: `start("provider", "--rate", "5")`."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(running(*arguments))
