"""What an object store's exceptions mean, told without their text: that may quote access key ids and whole answers."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.errors import StorageTrouble

_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED_ERRNOS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL_CODES: Final = frozenset({"QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientCapacity"})
_INSUFFICIENT_STORAGE: Final = "507"
_ADVICE: Final[dict[StorageTrouble, str]] = {
    "unavailable": "Check that it is up and reachable.",
    "denied": "Check its credentials and permissions.",
    "missing": "Check storage.url, and that nothing removes objects.",
    "full": "Free space or raise its quota.",
}
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_ERRNO: Final = re.compile(r"\(os error (\d{1,4})\)")
_CONNECTION: Final = re.compile(r"kind: (Connect|Timeout)|TimedOut")


@contextmanager
def translating(action: str, key: str) -> Iterator[None]:
    """Turn whatever the store raises into StorageError."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _told(action, key, error) from None


def _told(action: str, key: str, error: Exception) -> StorageError:
    """Say what is the matter by what is known to be harmless in the library's text: status, code, errno."""
    text = str(error)
    status, code = _found(_STATUS, text), _found(_CODE, text)
    number = getattr(error, "errno", None) or int(_found(_ERRNO, text) or 0)
    kind = _kind(error, number, status, code)
    connection = "timed out" if "TimedOut" in text else "no connection"
    facts = f"{status} {code}".strip() or (os.strerror(number) if number else "")
    facts = facts or (connection if _CONNECTION.search(text) else type(error).__name__)
    return StorageError(f"object store: {action} failed ({facts}). {_ADVICE[kind]}", kind=kind, key=key)


def _kind(error: Exception, number: int, status: str, code: str) -> StorageTrouble:
    if isinstance(error, FileNotFoundError):
        return "missing"
    if number in _FULL_ERRNOS or status == _INSUFFICIENT_STORAGE or code in _FULL_CODES:
        return "full"
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or number in _DENIED_ERRNOS:
        return "denied"
    return "unavailable"


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
