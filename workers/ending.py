"""How a worker process ends, and with which exit code.

Celery's own code says something else: it is 1 after a Ctrl-C, and after a fault of its consumer in a stop that had
drained everything already. Ours says what became of the work: 0 if the process was asked to end and left nothing
behind, 1 if work was cut off or nobody had asked, 2 if it could not serve. A log line goes with each that is not 0.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import structlog
from celery import platforms
from celery.worker import state

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from types import FrameType

log = structlog.get_logger(__name__)

EXIT_DONE: Final = 0
EXIT_LEFT: Final = 1
EXIT_REFUSED: Final = 2


class CutOff(Exception):
    """Work had to be cut off at the end of its grace. What was leased is free again when its lease ends."""

    def __init__(self, members: int, transitions: int) -> None:
        super().__init__(f"{members} members and {transitions} transitions were cut off")
        self.members, self.transitions = members, transitions


class Ending:
    """The end of one process, for all who bring it about: signals, the drain, Celery's main thread."""

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        self._end = end
        self._drain: threading.Event | None = None
        self._begin: Callable[[], object] = lambda: None
        self._asked = False
        self.left = self.refused = self.insisted = False

    def ask(self) -> None:
        """Say that the process was asked to end, as opposed to a fault that ends it. Safe in a signal handler."""
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether it was: also by a signal that came before anybody here could hear of it."""
        flags = (state.should_stop, state.should_terminate)
        return self._asked or any(flag is not None and flag is not False for flag in flags)

    @property
    def code(self) -> int:
        """The exit code, as things are."""
        if self.refused and not self.asked:
            return EXIT_REFUSED
        return EXIT_DONE if self.asked and not self.left else EXIT_LEFT

    def own(self) -> None:
        """Let this process end our way. Call it in Celery's main thread, before its signal handlers are there."""
        atexit.register(self.finish)
        platforms.signals.update(SIGTERM=self._end_unstarted, SIGINT=self._end_unstarted)

    def _end_unstarted(self, _number: int, _frame: FrameType | None) -> None:
        """End at once: nothing has begun. Celery replaces this handler before anything does."""
        self._end(EXIT_DONE)

    def served(self, drain: threading.Event, begin: Callable[[], object]) -> None:
        """Say that there is work from now on: `begin` starts its drain, if that is not done, which ends by `drain`."""
        self._drain, self._begin = drain, begin

    @staticmethod
    def stop_warmly() -> None:
        """Have SIGQUIT do what SIGTERM does. Celery's handlers must be there.

        Its own for SIGQUIT fails: it cancels tasks one by one, and the threads pool cannot.
        """
        warm = signal.getsignal(signal.SIGTERM)
        if callable(warm):
            platforms.signals["SIGQUIT"] = warm

    def finish(self) -> None:
        """Wait for the drain, then end without Python's teardown.

        In it, a thread of the object store's that hands over a result aborts the process (SIGABRT). Runs at the exit
        of the interpreter, after what Celery does there.
        """
        if self._drain is None:
            return  # it never served: whoever ends it has the code
        try:
            if not self.insisted:
                self._begin()  # an error of Celery's may have got it here without a stop, or early
                self._drain.wait()
        finally:
            if not self._drain.is_set():
                self.left = True
                log.warning("work_left_behind", cause="interrupted")
            self.now()

    def now(self) -> None:
        """End with the code as things are."""
        with contextlib.suppress(Exception):  # nobody may be there to read any more
            logging.shutdown()
            sys.stdout.flush()
        self._end(self.code)
