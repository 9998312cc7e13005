"""The two freezes: `spending` stops submits, `everything` stops all work. They hold for every worker, at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from shared.errors import InvalidRequest, Issue

if TYPE_CHECKING:
    from collections.abc import Sequence

WHY_MAX_CHARS: Final = 200
FIELDS: Final = ("freeze", "freeze_by", "freeze_at", "freeze_why")


class Frozen(StrEnum):
    """What stands still. Work that was claimed before is finished."""

    SPENDING = "spending"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze that holds: since `at_ms` of the state server (unix ms), `by` whom, and `why` they said."""

    what: str
    by: str
    at_ms: int
    why: str


def freeze_arguments(
    what: Frozen | None, by: str, why: str, dry_run: bool = False
) -> tuple[str, str, str, int]:
    """Give the arguments of freeze.lua; None goes on. Raises InvalidRequest."""
    check_why(why)
    return (what.value if what else "", by, why, int(dry_run))


def check_why(why: str) -> None:
    """Raise InvalidRequest for a reason that is too long."""
    if len(why) > WHY_MAX_CHARS:
        rule = f"why must have at most {WHY_MAX_CHARS} characters"
        raise InvalidRequest((Issue("why", "length", rule, f"{len(why)} characters"),))


def parse_freeze(values: Sequence[bytes | None]) -> Freeze | None:
    """Read FIELDS as the server has them; None if nothing is frozen."""
    what, by, at_ms, why = (value.decode() if value is not None else "" for value in values)
    return Freeze(what, by, int(at_ms or 0), why) if what else None
