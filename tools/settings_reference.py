"""Writes .env.example and docs/configuration.md from `shared.settings`: `python -m tools.settings_reference`.

Both are generated so that neither can name a key, a default or a reason that the settings do not have.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from shared.settings import Settings
from shared.settings_section import SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
ANY_NAME = "NAME"  # stands for a key of the user's choosing


@dataclass(frozen=True, slots=True)
class Key:
    """One setting as an environment variable; `value` is its default, empty if there is none."""

    variable: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """Keys that stand together: one table of `darkroom.toml`."""

    title: str
    meaning: str
    keys: tuple[Key, ...]


BESIDE = Section(
    "beside the settings",
    "read before them, or referred to by them.",
    (
        Key("DARKROOM_CONFIG", "darkroom.toml", "the settings file; it need not exist"),
        Key(
            "DARKROOM_DEV_FILE",
            "~/.local/state/darkroom/dev.toml",
            "where `darkroom dev` tells other commands of its stack (under XDG_STATE_HOME, if that is set)",
        ),
        Key("DARKROOM_API_KEY", "", "the provider's key: the secret that the default account refers to"),
        Key("DARKROOM_FLOWER_AUTH", "", "login of `darkroom flower`, `user:password`"),
    ),
)


def sections() -> list[Section]:
    """Give all settings in the order of their declaration, the top level first."""
    return [BESIDE, *_sections((), Settings, Settings.model_construct())]


def _sections(path: tuple[str, ...], model: type[BaseModel], defaults: BaseModel | None) -> Iterator[Section]:
    keys: list[Key] = []
    below: list[Iterator[Section]] = []
    for name, field in model.model_fields.items():
        at, default = (*path, name), getattr(defaults, name, None)
        inner, many = _inner_model(field)
        if inner is SecretReference:
            keys.append(_key((*at, "env"), getattr(default, "env", None), _secret_meaning(field)))
        elif inner is None:
            keys.append(_key(at, default, _meaning(field)))
        elif many:
            key, each = next(iter((default or {ANY_NAME: None}).items()))
            below.append(_sections((*at, key), inner, each))
        else:
            below.append(_sections(at, inner, default))
    yield Section(".".join(path) or "top level", _first_paragraph(model), tuple(keys))
    for each_below in below:
        yield from each_below


def _inner_model(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """Give the model a field holds (directly, optionally, or as values of a dict) and whether it holds many."""
    many = get_origin(field.annotation) is dict
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, many
    return None, False


def _key(path: tuple[str, ...], default: object, meaning: str) -> Key:
    plain = "" if default is None else to_jsonable_python(default)
    value = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return Key("DARKROOM_" + "__".join(path).upper(), value, meaning)


def _secret_meaning(field: FieldInfo) -> str:
    what = _meaning(field)
    where = "name of the environment variable that holds it (or `__FILE`: a file)"
    return f"{what}: {where}" if what else where


def _meaning(field: FieldInfo) -> str:
    rules = ", ".join(_rules(field))
    return f"{field.description or ''} ({rules})".strip() if rules else field.description or ""


def _rules(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield " or ".join(f"`{choice}`" for choice in get_args(field.annotation))
    for bound in field.metadata:
        match bound:
            case Ge(ge=limit):
                yield f"at least {limit}"
            case Gt(gt=limit):
                yield f"more than {limit}"
            case Le(le=limit):
                yield f"at most {limit}"
            case Lt(lt=limit):
                yield f"less than {limit}"


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


ENV_HEAD = """\
# Every setting as an environment variable, each with its default. Generated from shared/settings.py by `make docs`.
# Copy it to .env and uncomment what you change. Names nest by `__`; lists and tables are JSON; what shows nothing
# after `=` is unset by default.
# Weaker than these: darkroom.toml, then a running `darkroom dev`, then the defaults.
"""

DOC_HEAD = """\
# Configuration

Generated from `shared/settings.py` by `make docs`; a test keeps it current.

Sources, strongest first: environment variables; `darkroom.toml` in the working directory (or the file that
`DARKROOM_CONFIG` names), where `DARKROOM_REDIS__URL` is `url` in table `[redis]`; the stack that `darkroom dev` runs
for this user; the defaults here. Lists and tables in the environment are JSON. Units are in the names: `_s` seconds,
`_ms` milliseconds, `_bytes`, `_micros` millionths of the currency. Secrets are given by reference, never by value:
`..__ENV` names an environment variable, `..__FILE` a file.

`NAME`, and `DEFAULT` among the accounts, stand for a name of your choice.
"""


def env_example() -> str:
    """Give the text of .env.example."""
    return "\n".join([ENV_HEAD, *(_env_block(section) for section in sections() if section.keys)])


def _env_block(section: Section) -> str:
    lines = _comment(f"--- {section.title}: {section.meaning}")
    for key in section.keys:
        lines += [*_comment(key.meaning), f"#{key.variable}={key.value}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="#   ")


def configuration_page() -> str:
    """Give the text of docs/configuration.md."""
    return "\n".join([DOC_HEAD, *(_table(section) for section in sections() if section.keys)])


def _table(section: Section) -> str:
    head = [
        f"## {section.title}",
        "",
        section.meaning,
        "",
        "| Variable | Default | Meaning |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *map(_row, section.keys), ""])


def _row(key: Key) -> str:
    cells = (f"`{key.variable}`", f"`{key.value}`" if key.value else "unset", key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    (ROOT / ".env.example").write_text(env_example())
    (ROOT / "docs" / "configuration.md").write_text(configuration_page())
