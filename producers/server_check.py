"""Whether the state server may hold the truth: looked at once, and one look serves all who ask meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ServerCheck:
    """Runs a check until it was passed; then it costs nothing.

    Threads that come while one looks get its answer, also a bad one: behind a lock each would look for itself, and a
    silent server would cost the last of them the time of all.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        """`look` raises if the server may not be used."""
        self._look = look
        self._passed = False
        self._starting = threading.Lock()
        self._under_way: Future[None] | None = None

    def __call__(self) -> None:
        """Raises what the check raises."""
        if self._passed:
            return
        with self._starting:
            under_way, answer = self._under_way, Future[None]()
            if under_way is None:
                self._under_way = answer
        if under_way is not None:
            under_way.result()
            return
        try:
            self._look()
            self._passed = True
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)
            raise
        finally:
            self._under_way = None
