"""Where settings come from, and how the sources are put together: the strongest says what it says, the rest fills in.

pydantic-settings reads the environment; what is ours is the order, the running `darkroom dev`, and the messages.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic_settings import EnvSettingsSource, SettingsError

from shared.errors import ConfigurationError
from shared.settings_section import SecretReference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

PREFIX: Final = "DARKROOM_"
_REFERENCE: Final = frozenset({"env", "file"})


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


def state_folder() -> Path:
    """Where what must outlive a process is kept for this user; it need not exist. Raises RuntimeError for no home."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "darkroom"


def dev_stack_file() -> Path:
    """Where `darkroom dev` tells this user's other commands about the running stack."""
    if named := os.environ.get("DARKROOM_DEV_FILE"):
        return Path(named)
    return state_folder() / "dev.toml"


def dev_stack() -> dict[str, Any]:
    """Give the settings of the running `darkroom dev`; nothing if it is not running (its process is gone)."""
    try:
        stack = tomllib.loads(dev_stack_file().read_text())
        os.kill(int(stack.pop("pid")), 0)
    except (OSError, KeyError, ValueError):
        return {}
    return stack


class Environment(EnvSettingsSource):
    """What `DARKROOM_SECTION__KEY=value` says, whatever its case. Variables of no section are left alone.

    What holds tables or lists is JSON; where both are set, the single key wins over the whole table.
    """

    _not_json: tuple[str, str] = ("", "")
    _names_a_secret = False

    def __call__(self) -> dict[str, Any]:
        """Give the values by section. Raises ConfigurationError for what should be JSON and is not."""
        try:
            return super().__call__()
        except SettingsError:  # it names the section only, and may quote the value
            key, text = self._not_json
            name = next(
                (
                    name
                    for name in os.environ
                    if os.environ[name] == text and variable_path(name)[-1:] == (key,)
                ),
                f"a variable {PREFIX}*",
            )
            if self._names_a_secret:
                said = (
                    f"{name} must name the place of the secret, not hold it. Set {name}__ENV or {name}__FILE."
                )
            else:
                said = f"{name} is not JSON, as it has to be for a table or a list. Correct it, or set single keys."
            raise ConfigurationError(said) from None

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Remember what is not JSON, for the message."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            self._not_json = (field_name, value)
            self._names_a_secret = SecretReference in (field.annotation, *get_args(field.annotation))
            raise


def layered(settings_cls: type[BaseSettings], given: Mapping[str, Any]) -> dict[str, Any]:
    """Give what arguments, environment, file and a running `darkroom dev` say, together.

    As one source, since a secret's reference is taken whole from the strongest that gives it. Raises ConfigurationError.
    """
    return overlaid(given, overlaid(Environment(settings_cls)(), overlaid(from_file(), dev_stack())))


def variable_path(name: str) -> tuple[str, ...]:
    """Give the keys that a variable's name leads through; none for a variable that is no setting's."""
    return tuple(name[len(PREFIX) :].lower().split("__")) if name.upper().startswith(PREFIX) else ()


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
