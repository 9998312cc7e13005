"""Brings a result image from the provider's URL to a temporary file: hashed, capped, sniffed, and known to be whole.

The URL and all that comes from it are untrusted. It goes through the egress guard, each redirect again; no header of
ours but `Accept` goes along; the server's content type and length are not believed. What is not an image that is all
there never becomes a `Downloaded`, and leaves no file behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pyreqwest.http import Url

from shared.jobs.image_header import HEAD_BYTES, sniff
from workers.delivery.image_end import is_whole
from workers.http.port import FailureCause, HttpFailure, HttpRequest

if TYPE_CHECKING:
    from workers.delivery.egress import Egress
    from workers.http.port import HttpResponse

LOCAL_DISK = "local_disk"  # cause of a failure that is not the server's
_HEADERS = (("Accept", "image/*"),)
_MAX_REDIRECTS = 3
_PREFIX = "darkroom-result-"
_PROCESS = secrets.token_hex(16)
_NUMBERS = itertools.count()
_SMALL_BYTES = 64 * 1024
_ABANDONED_S = 3600  # far longer than a download and the copy that follows it
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({400, 401, 403, 404, 410})  # object stores answer an expired signature with 400, 401 or 403


class DownloadTrouble(StrEnum):
    """What to do about it: `RETRY` later, ask the provider for a fresh URL (`GONE`), or give up (the others)."""

    RETRY = "retry"
    GONE = "gone"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A whole image in a file that the caller now owns. `width`, `height` in pixels, None if its head hides them."""

    path: Path
    sha256: str
    size_bytes: int
    media_type: str
    extension: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class DownloadFailure:
    """No image. `cause` is a word for logs and counters; `detail` is for people and shows no path or query."""

    kind: DownloadTrouble
    cause: str
    detail: str


class Downloader:
    """Downloads to `directory` (made if missing). One may serve a whole process.

    `result_hosts` (exact names, or suffixes with a leading dot) restricts where images, and redirects, may lead.
    What killed workers left in the directory is removed when one is made, an hour after it was last written.
    """

    def __init__(
        self, egress: Egress, directory: Path, max_bytes: int, result_hosts: tuple[str, ...] = ()
    ) -> None:
        self._egress, self._directory = egress, directory
        self._max_bytes, self._result_hosts = max_bytes, result_hosts
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)

    async def fetch(self, url: str, *, deadline_s: float) -> Downloaded | DownloadFailure:
        """Fetch one image within `deadline_s` in all, redirects included. Raises nothing but cancellation."""
        try:
            with _Part(self._directory) as part:
                trouble = await self._fill(part, url, deadline_s)
                return trouble or _examined(part)
        except OSError as error:  # of our file: the client gives its own as values
            return DownloadFailure(
                DownloadTrouble.RETRY, LOCAL_DISK, f"writing the temporary file: {error.strerror}"
            )

    async def _fill(self, part: _Part, url: str, deadline_s: float) -> DownloadFailure | None:
        clock = asyncio.get_running_loop().time
        deadline_at = clock() + deadline_s
        for _ in range(1 + _MAX_REDIRECTS):
            request = HttpRequest(
                "GET",
                url,
                _HEADERS,
                deadline_s=deadline_at - clock(),
                max_response_bytes=self._max_bytes,
            )
            outcome = await self._egress.stream(request, part.write, self._result_hosts)
            if isinstance(outcome, HttpFailure):
                return _of_failure(outcome)
            if outcome.status == _OK:
                return None
            onward = _redirected(url, outcome)
            if onward is None:
                return _of_status(outcome.status)
            url = onward
        return DownloadFailure(
            DownloadTrouble.RETRY, "too_many_redirects", f"more than {_MAX_REDIRECTS} redirects"
        )


def _sweep(directory: Path) -> None:
    for path in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another worker sweeps too
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink()


class _Part:
    """A temporary file that is removed unless kept. Small content stays in memory until then: files cost CPU."""

    def __init__(self, directory: Path) -> None:
        self._name = f"{directory}{os.sep}{_PREFIX}{_PROCESS}-{next(_NUMBERS)}.part"
        self._file: int | None = None
        self._small = bytearray()
        self._hash = hashlib.sha256()
        self._kept = False
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        os.close(self._file)
        if not self._kept:
            Path(self._name).unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append. Blocks the loop for one write to the page cache, at most 64 KiB or so: less than a thread's hop."""
        self._hash.update(chunk)
        self.size_bytes += len(chunk)
        if self.size_bytes <= _SMALL_BYTES:
            self._small += chunk
        else:
            self._append(chunk)

    def read(self, size: int, offset: int) -> bytes:
        if self._file is None:
            return bytes(self._small[offset : offset + size])
        return os.pread(self._file, size, offset)

    def keep(self) -> tuple[Path, str]:
        """Give the file away: its path, and the sha256 (hex) of its content."""
        self._append(b"")
        self._kept = True
        return Path(self._name), self._hash.hexdigest()

    def _append(self, chunk: bytes) -> None:
        if self._file is None:
            self._file = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            chunk = bytes(self._small) + chunk
            self._small.clear()
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]


def _examined(part: _Part) -> Downloaded | DownloadFailure:
    if part.size_bytes == 0:
        return DownloadFailure(DownloadTrouble.RETRY, "empty", "status 200 with an empty body")
    head = part.read(min(HEAD_BYTES, part.size_bytes), 0)
    info = sniff(head)
    if info is None:
        return _no_image(head)
    if not is_whole(info.media_type, part.read, part.size_bytes):
        detail = f"{info.media_type} of {part.size_bytes} bytes without its end"
        return DownloadFailure(DownloadTrouble.RETRY, "truncated", detail)
    path, sha256 = part.keep()
    return Downloaded(path, sha256, part.size_bytes, info.media_type, info.extension, info.width, info.height)


def _no_image(head: bytes) -> DownloadFailure:
    """Tell a server's error page or message with status 200, which may pass, from a file of some other type."""
    text = head[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<", b"{", b"[")) and b"<svg" not in text:
        return DownloadFailure(
            DownloadTrouble.RETRY, "error_page", "status 200 with a page or message instead of an image"
        )
    return DownloadFailure(
        DownloadTrouble.NOT_AN_IMAGE, "not_an_image", "neither PNG, JPEG, WebP, GIF, AVIF nor BMP"
    )


def _redirected(url: str, response: HttpResponse) -> str | None:
    location = response.header("location")
    if response.status not in _REDIRECTS or not location:
        return None
    try:
        return str(Url(url).join(location))
    except ValueError:
        return None


def _of_status(status: int) -> DownloadFailure:
    kind = DownloadTrouble.GONE if status in _GONE else DownloadTrouble.RETRY
    return DownloadFailure(kind, f"status_{status}", f"the server answered {status}")


def _of_failure(failure: HttpFailure) -> DownloadFailure:
    match failure.cause:
        case FailureCause.FORBIDDEN_ADDRESS | FailureCause.INVALID_REQUEST:
            kind = DownloadTrouble.FORBIDDEN
        case FailureCause.RESPONSE_TOO_LARGE:
            kind = DownloadTrouble.TOO_LARGE
        case _:
            kind = DownloadTrouble.RETRY
    return DownloadFailure(kind, failure.cause.value, failure.detail)
