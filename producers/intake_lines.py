"""Lines of a byte stream, numbered, decoded and bounded: memory is one line, whatever the size of the input."""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MAX_LINE_BYTES = 64 * 1024 * 1024  # two data URIs of 20 MB fit
_SKIP_BYTES = 1024 * 1024
_SHOWN_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `rule` and `flaw` are set if it cannot be used; `text` is then for display only."""

    number: int
    text: str
    rule: str = ""
    flaw: str = ""


class Lines:
    """Lines to take one by one; what was looked at in vain can be put back."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._fresh = _decoded(stream, max_bytes)
        self._returned: deque[Line] = deque()

    def take(self) -> Line | None:
        """Give the next line, None at the end. Raises ConfigurationError if the input is UTF-16."""
        return self._returned.popleft() if self._returned else next(self._fresh, None)

    def take_filled(self) -> Line | None:
        """Give the next line that is not blank."""
        while line := self.take():
            if line.flaw or not (line.text == "" or line.text.isspace()):
                return line
        return None

    def put_back(self, lines: Iterable[Line]) -> None:
        self._returned.extendleft(reversed(list(lines)))


def _decoded(stream: BinaryIO, max_bytes: int) -> Iterator[Line]:
    number = 0
    while raw := stream.readline(max_bytes + 1):
        number += 1
        if number == 1:
            raw = _without_mark(raw)
        if len(raw) > max_bytes and not raw.endswith(b"\n"):
            _skip_rest(stream)
            yield _broken(number, raw[:_SHOWN_BYTES], "max_bytes", f"is longer than {max_bytes} bytes")
            continue
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield Line(number, raw.decode())
        except UnicodeDecodeError as error:
            yield _broken(number, raw, "encoding", f"is not UTF-8 (byte {error.start + 1})")


def _broken(number: int, raw: bytes, rule: str, flaw: str) -> Line:
    return Line(number, raw.decode(errors="backslashreplace"), rule, flaw)


def _without_mark(raw: bytes) -> bytes:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigurationError("the input is UTF-16. Save it as UTF-8.")
    return raw.removeprefix(codecs.BOM_UTF8)


def _skip_rest(stream: BinaryIO) -> None:
    while chunk := stream.readline(_SKIP_BYTES):
        if chunk.endswith(b"\n"):
            return
