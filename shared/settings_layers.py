"""Where settings come from, and how the sources are put together: the strongest says what it says, the rest fills in.

Written here and not taken from a library, which would cost every command a fifth of its start.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from pydantic import BaseModel

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic.fields import FieldInfo

PREFIX: Final = "DARKROOM_"
_REFERENCE: Final = frozenset({"env", "file"})
_AS_JSON: Final = (BaseModel, dict, tuple, list)


def settings_file() -> Path:
    """The settings file, which need not exist."""
    return Path(os.environ.get("DARKROOM_CONFIG", "darkroom.toml"))


def from_file() -> dict[str, Any]:
    """Give what darkroom.toml says; nothing if there is none. Raises ConfigurationError."""
    path = settings_file()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}. Correct it.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8. Save it as such.") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}. Check DARKROOM_CONFIG.") from None


def dev_stack_file() -> Path:
    """Where `darkroom dev` tells this user's other commands about the running stack."""
    if named := os.environ.get("DARKROOM_DEV_FILE"):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "darkroom" / "dev.toml"


def dev_stack() -> dict[str, Any]:
    """Give the settings of the running `darkroom dev`; nothing if it is not running (its process is gone)."""
    try:
        stack = tomllib.loads(dev_stack_file().read_text())
        os.kill(int(stack.pop("pid")), 0)
    except (OSError, KeyError, ValueError):
        return {}
    return stack


def from_environment(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Give what `DARKROOM_SECTION__KEY=value` says, whatever its case. Variables of no section are left alone.

    What holds tables or lists is JSON; where both are set, the single key wins over the whole table.
    Raises ConfigurationError for what should be JSON and is not.
    """
    found = []
    for name, text in os.environ.items():
        path = variable_path(name)
        if path and path[0] in fields:
            found.append((path, name, text))
    values: dict[str, Any] = {}
    for path, name, text in sorted(found, key=lambda each: len(each[0])):
        value = _value(_annotation(fields, path), name, text)
        for key in reversed(path):
            value = {key: value}
        values = overlaid(value, values, one_source=True)
    return values


def variable_path(name: str) -> tuple[str, ...]:
    """Give the keys that a variable's name leads through; none for a variable that is no setting's."""
    return tuple(name[len(PREFIX) :].lower().split("__")) if name.upper().startswith(PREFIX) else ()


def _annotation(fields: Mapping[str, FieldInfo], path: Sequence[str]) -> Any:
    """Give the type of what stands there; None where nothing does: validation will say so."""
    annotation: Any = fields[path[0]].annotation
    for key in path[1:]:
        annotation = _below(annotation, key)
    return annotation


def _below(annotation: Any, key: str) -> Any:
    for each in _alternatives(annotation):
        if isinstance(each, type) and issubclass(each, BaseModel) and key in each.model_fields:
            return each.model_fields[key].annotation
        if get_origin(each) is dict:
            return get_args(each)[1]
    return None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Give the members of a union but None, or the type itself."""
    if get_origin(annotation) in (None, dict, tuple, list):
        return (annotation,)
    return tuple(each for each in get_args(annotation) if each is not NoneType)


def _value(annotation: Any, name: str, text: str) -> Any:
    kinds = [get_origin(each) or each for each in _alternatives(annotation)]
    if not any(isinstance(kind, type) and issubclass(kind, _AS_JSON) for kind in kinds):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigurationError(
            f"{name} is not JSON, as it has to be for a table or a list. Correct it, or set single keys."
        ) from None


def overlaid(
    stronger: Mapping[str, Any], weaker: Mapping[str, Any], *, one_source: bool = False
) -> dict[str, Any]:
    """Put one source over another, table by table.

    A secret's reference (`{env: NAME}` or `{file: PATH}`) is taken whole from the stronger: a variable here and a file
    there would become a reference to both. In one source that is a mistake, which validation is left to find.
    """
    both = dict(weaker)
    for name, value in stronger.items():
        under = both.get(name)
        tables = isinstance(value, dict) and isinstance(under, dict)
        whole = not tables or (_is_reference(value) and not one_source)
        both[name] = value if whole else overlaid(value, under or {}, one_source=one_source)
    return both


def _is_reference(table: Mapping[str, Any]) -> bool:
    """Tell a reference from a table of tables with such a name, as an account may have."""
    return (
        bool(table)
        and table.keys() <= _REFERENCE
        and not any(isinstance(each, dict) for each in table.values())
    )
