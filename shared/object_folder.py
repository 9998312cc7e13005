"""A folder as an object store: an object appears whole, under a name that is taken once, and outlives a power loss.

obstore's LocalStore reads such a folder but does not write it here. Traced (obstore 0.12.1): its create-only put holds
the whole body in memory, writes a second copy of what is on disk already, and never syncs, so that a power loss may
leave a torn object under its final name, which every later create-only put then takes for a conflict. Here:

1. The file is synced, then hard-linked to its name: one system call, atomic and create-only by the kernel, no byte
   copied whatever the size. So the caller's file *becomes* the object: remove it if you like, never write to it.
2. A file of another filesystem is first copied to `.staging` in the folder; bytes are written there.
3. The directories that got a new entry are synced. Returning means durable, unless `fsync` is off. Workers, who put
   many, sync the whole filesystem between 1 and 2 and after 3, for all puts that wait: see `folder_sync`.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAGING: Final = ".staging"  # no tenant can have this name
_PREFIX: Final = "put-"
_ABANDONED_S: Final = 3600  # far longer than a copy takes
_MODE: Final = 0o644  # temporary files are private; the folder's own mode decides who may read objects
_COPY_BYTES: Final = 1024 * 1024
_CANNOT_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})


class ObjectFolder:
    """Writes objects into `root`, which is made if missing. Every method may block, and raises OSError as it comes."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self.root = root
        self.staging = root / STAGING
        self._fsync = fsync
        self.staging.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def put_file(self, key: str, path: Path, size_bytes: int) -> bool:
        """Make the file the object `key`; False if there is one already.

        Raises StorageError if the file is not as long as the caller says: it was cut after it was checked.
        """
        with path.open("rb") as file:
            _check_length(os.fstat(file.fileno()).st_size, size_bytes, key)
            self._seal(file)
            try:
                return self._link(str(path), key)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
            return self._put_copy(key, file)

    def offer(self, key: str, path: Path, size_bytes: int) -> None:
        """Do the first half of `put_file` for a caller that syncs by itself: before `take`, and after it."""
        name = str(path)
        _check_length(os.stat(name).st_size, size_bytes, key)  # noqa: PTH116 - a Path costs more than the call
        os.chmod(name, _MODE)  # noqa: PTH101 - as above

    def take(self, key: str, path: Path) -> bool | None:
        """Do the second half: False if there is an object already, None if the file cannot be linked from there."""
        try:
            return self._name_it(str(path), self._name(key), lambda _: None)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        return None

    def put_bytes(self, key: str, payload: bytes) -> bool:
        """Make the payload the object `key`; False if there is one already."""
        return self._put_copy(key, BytesIO(payload))

    def size(self, key: str) -> int:
        return os.stat(self._name(key)).st_size  # noqa: PTH116 - a Path costs more than the call

    def _name(self, key: str) -> str:
        return f"{self.root}{os.sep}{key}"

    def _put_copy(self, key: str, source: BinaryIO) -> bool:
        staged = self.staging / f"{_PREFIX}{secrets.token_hex(16)}"
        try:
            with staged.open("xb") as copy:
                shutil.copyfileobj(source, copy, _COPY_BYTES)
                copy.flush()
                self._seal(copy)
            return self._link(str(staged), key)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            raise StorageError(
                f"the filesystem of {self.root} has no hard links. Choose another for storage.url.",
                kind="denied",
            ) from None
        finally:
            staged.unlink(missing_ok=True)

    def _seal(self, file: BinaryIO) -> None:
        os.fchmod(file.fileno(), _MODE)
        if self._fsync:
            os.fsync(file.fileno())

    def _link(self, source: str, key: str) -> bool:
        target = self._name(key)
        created = self._name_it(source, target, self._sync)
        self._sync(target.rpartition(os.sep)[0])  # also if it exists: who made it may have died before this
        return created

    def _name_it(self, source: str, target: str, sync: Callable[[str], None]) -> bool:
        try:
            directory = target.rpartition(os.sep)[0]
            if directory != str(self.root):
                self._make(directory, sync)  # most objects are their job's first
            os.link(source, target)
        except FileExistsError:
            return False
        return True

    def _make(self, directory: str, sync: Callable[[str], None]) -> None:
        """Make a directory and those above it, but never the folder: if that is gone, so is perhaps its disk."""
        if directory == str(self.root):
            raise FileNotFoundError(errno.ENOENT, "the store's folder is gone")
        parent = directory.rpartition(os.sep)[0]
        try:
            os.mkdir(directory)  # noqa: PTH102
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make(parent, sync)
            self._make(directory, sync)
            return
        sync(parent)

    def _sync(self, directory: str) -> None:
        if not self._fsync:
            return
        entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(entry)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network filesystems cannot, and need not
                raise
        finally:
            os.close(entry)

    def _sweep(self) -> None:
        """Remove what killed processes left in staging."""
        for path in self.staging.glob(f"{_PREFIX}*"):
            with suppress(FileNotFoundError):  # another process sweeps too
                if path.stat().st_mtime < time.time() - _ABANDONED_S:
                    path.unlink()


def _check_length(found: int, size_bytes: int, key: str) -> None:
    if found != size_bytes:
        raise StorageError(f"the file to store has {found} bytes, not {size_bytes}. Fetch it again.", key=key)
