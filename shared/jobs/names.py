"""Names of tenants and batches: part of keys and of paths, so plain."""

from __future__ import annotations

import re
from typing import Final

from shared.errors import InvalidRequest, Issue

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(field: str, value: str) -> None:
    """Raise InvalidRequest unless the tenant or batch name is plain enough to be part of keys and paths."""
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        rule = "1-64 letters, digits, '.', '_' or '-', starting with a letter or digit"
        raise InvalidRequest((Issue(field, "name", f"{field} must be {rule}", str(value)[:80]),))
