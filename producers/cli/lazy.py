"""Commands that are imported when they are chosen, so that `darkroom --help` waits for none of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of every Typer here: one look of help and errors on any terminal, and no traceback with colours and locals.
LOOK: Final[Mapping[str, Any]] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
PASS_ON: Final[Mapping[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is: a function, or a Typer of several, and the line that help shows of it.

    `optional`: an installation may lack the module; then there is no such command.
    """

    module: str
    name: str
    summary: str
    context: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False

    @property
    def there(self) -> bool:
        return not self.optional or find_spec(self.module) is not None

    def load(self, command: str) -> Any:
        """Import it, and give what Typer makes of it."""
        found = getattr(import_module(self.module), self.name)
        holder = typer.Typer(**LOOK)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=command)
        else:
            holder.command(command, context_settings=dict(self.context))(found)
        return get_group(holder).commands[command]


class Later(TyperCommand):
    """Stands in help and among suggestions for a command that is not imported yet, and becomes it when called."""

    def __init__(self, name: str, place: Place) -> None:
        super().__init__(name, help=place.summary, rich_markup_mode=None)
        self._place = place

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.name is not None
        return self._place.load(self.name).make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """A group with a table of commands beside those that are there already."""

    places: Mapping[str, Place]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in self.places.items():
            if place.there:
                self.add_command(Later(name, place), name)
