"""Files that commands read to their end: opened, and with a bar on a terminal."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from producers.cli.terminal import console
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REFRESH_ITEMS: Final = 200


@contextmanager
def opened_input(name: str) -> Iterator[BinaryIO]:
    """Open a file, or stdin for `-`. Raises ConfigurationError."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115 - closed below; only the opening may fail here
    except OSError as error:
        raise ConfigurationError(f"cannot read {name}: {error.strerror}. Check the path.") from None
    with stream:
        yield stream


@contextmanager
def progress(stream: BinaryIO) -> Iterator[Callable[[int], object]]:
    """Give what is told the number of lines read so far; a bar on stderr shows it, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _lines: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    status = os.fstat(stream.fileno())
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (BarColumn(), TextColumn("{task.fields[lines]} lines"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size_bytes, lines=0)

        def show(lines: int) -> None:
            if lines % _REFRESH_ITEMS == 0:
                bar.update(task, completed=stream.tell() if size_bytes else 0, lines=lines)

        yield show
