"""Tracebacks without what exceptions quote: the frames are code, the text of an error may be anybody's."""

from __future__ import annotations

import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

from shared.errors import DarkroomError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Their text is made of names in code.
_OF_CODE: Final = (AttributeError, NameError, ImportError, RecursionError, NotImplementedError)
_NAME: Final = re.compile(r"\d{1,10}|['\"]?[A-Za-z_][A-Za-z_.]{0,39}['\"]?")
_DEPTH_MAX: Final = 10


def traceback_text(error: Any, scrubbed: Callable[[str], str], *, frames: bool = True) -> str:
    """Write an exception, or what `exc_info` may be: the first cause first, as Python does.

    Without `frames` it is one line: the error's type, and its text if that may be shown.
    """
    found = _exception(error)
    if found is None:
        return ""
    if not frames:
        return _last_line(found, scrubbed)
    return "\n\n".join(_blocks(found, scrubbed, set()))


def _exception(error: Any) -> BaseException | None:
    if isinstance(error, BaseException):
        return error
    if isinstance(error, tuple):
        return error[1] if isinstance(error[1], BaseException) else None
    return sys.exc_info()[1]


def _blocks(error: BaseException, scrubbed: Callable[[str], str], seen: set[int]) -> Iterator[str]:
    if id(error) in seen or len(seen) >= _DEPTH_MAX:
        return
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _blocks(before, scrubbed, seen)
    frames = "".join(traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__)).format())
    yield f"Traceback (most recent call last):\n{frames}{_last_line(error, scrubbed)}"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _blocks(each, scrubbed, seen)


def _last_line(error: BaseException, scrubbed: Callable[[str], str]) -> str:
    said = _text(error, scrubbed)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _text(error: BaseException, scrubbed: Callable[[str], str]) -> str:
    """Give what may be shown of an error's text: ours are made for it, a system's and code's words are no one's."""
    if isinstance(error, OSError) and error.strerror:
        return f"[Errno {error.errno}] {scrubbed(error.strerror)}" if error.errno else ""
    text = str(error)
    ours = isinstance(error, DarkroomError) and not isinstance(error, InvalidRequest)
    if ours or isinstance(error, _OF_CODE) or _NAME.fullmatch(text):
        return scrubbed(text)
    return f"({len(text)} characters not shown)" if text else ""
