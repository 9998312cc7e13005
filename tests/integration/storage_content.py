"""What the tests of the object store share: files to put, and how each backend is reached."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.object_folder import STAGING
from shared.settings import StorageSettings
from shared.storage import artifact_key

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.servers import SeaweedProc

PNG = "image/png"
KEY = artifact_key("acme", "job_1", 0, "png")


@dataclass
class Content:
    """A file as a download leaves it: private, in a directory of its own."""

    path: Path
    body: bytes

    @property
    def facts(self) -> dict[str, Any]:
        sha256 = hashlib.sha256(self.body).hexdigest()
        return {"sha256": sha256, "media_type": PNG, "size_bytes": len(self.body)}


class Contents:
    """Makes files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, 0

    def __call__(self, body: bytes = b"\x89PNG image") -> Content:
        self._made += 1
        path = self._folder / f"result-{self._made}.part"
        path.write_bytes(body)
        path.chmod(0o600)
        return Content(path, body)


def settings_of(backend: str, request: pytest.FixtureRequest) -> StorageSettings:
    if backend == "s3":
        s3: SeaweedProc = request.getfixturevalue("s3")
        return StorageSettings(**s3.settings(f"t/{uuid.uuid4().hex}"))
    if backend == "memory":
        return StorageSettings(url="memory://")
    tmp_path: Path = request.getfixturevalue("tmp_path")
    return StorageSettings(url=f"file://{tmp_path}/store")


def forbid_links_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def only_inside(source: str, target: str) -> None:
        if f"/{STAGING}/" not in source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", only_inside)
