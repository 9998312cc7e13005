"""Tables of a command: with colours and folds on a terminal, else plain lines, for which nothing has to be imported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rich.table import Table

_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Styled:
    """A text and how it looks where there are colours."""

    text: str
    style: str = ""

    def __str__(self) -> str:
        return self.text


Cell = str | Styled


class Sheet:
    """Rows under headings; `right` names columns of numbers, `folds` those that may be folded on a terminal."""

    def __init__(self, *headings: str, right: Collection[str] = (), folds: Collection[str] = ()) -> None:
        self._headings, self._right, self._folds = headings, right, folds
        self._rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        self._rows.append(cells)

    def __len__(self) -> int:
        return len(self._rows)

    def write(self) -> None:
        """Print it, to be read by a person or by a program."""
        if sys.stdout.isatty():
            from producers.cli.terminal import console

            console().print(self.table())
        else:
            sys.stdout.writelines(f"{line}\n" for line in self.lines())

    def lines(self) -> Iterator[str]:
        """Give plain lines: nothing is folded, whatever the width."""
        rows = [[str(cell) for cell in row] for row in self._rows]
        if any(self._headings):
            rows.insert(0, list(self._headings))
        widths = [max(map(_cells, column)) for column in zip(*rows, strict=True)]
        rights = [heading in self._right for heading in self._headings]
        for row in rows:
            padded = map(_padded, row, widths, rights)
            yield _GAP.join(padded).rstrip()

    def table(self) -> Table:
        """Give it for a terminal."""
        from rich.table import Table
        from rich.text import Text

        headed = any(self._headings)
        table = Table(box=None, pad_edge=False, show_header=headed)
        for at, heading in enumerate(self._headings):
            table.add_column(
                heading,
                justify="right" if heading in self._right else "left",
                overflow="fold",
                no_wrap=heading not in self._folds,
                style="" if headed or at else "dim",
            )
        for row in self._rows:
            table.add_row(*(Text(str(cell), style=getattr(cell, "style", "")) for cell in row))
        return table


class Pairs(Sheet):
    """Names and what belongs to them, a line each."""

    def __init__(self) -> None:
        super().__init__("", "", folds=("",))


def _padded(text: str, width: int, right: bool) -> str:
    spaces = " " * (width - _cells(text))
    return spaces + text if right else text + spaces


def _cells(text: str) -> int:
    """Count a terminal's columns: a Chinese character takes two."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)
