"""File descriptors that run out, in a process of the tests or in this one."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_THIS: Final = 0
_NONE_LEFT: Final = (
    3  # descriptors 0, 1 and 2, which are taken: what is open stays open, and nothing more can be
)


@contextlib.contextmanager
def none_left(*pids: int) -> Iterator[None]:
    """Let these processes, or this one, open nothing more while the block runs [prlimit(2)]. They may end meanwhile."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids or (_THIS,)}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_NONE_LEFT, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
