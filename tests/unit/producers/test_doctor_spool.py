"""What doctor says of the folder for generation ids; it makes nothing there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from producers.doctor import spool as doctor_spool
from producers.doctor.spool import look_at_spool
from shared.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def levels(settings: WorkerSettings) -> list[str]:
    found = list(look_at_spool(settings))
    assert all(each.do for each in found if each.level != "ok")
    return [each.level for each in found]


def test_a_folder_that_can_be_made_is_fine_and_is_not_made(tmp_path: Path) -> None:
    """The nearest folder that exists can be written to: that is enough."""
    assert levels(WorkerSettings(spool=tmp_path / "a" / "b")) == ["ok"]
    assert list(tmp_path.iterdir()) == []


def test_what_waits_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Both are money: a person should know."""
    (tmp_path / "mark").mkdir()
    (tmp_path / "mark" / "a.json").touch()
    (tmp_path / "mark" / "b.unreadable").touch()
    assert levels(WorkerSettings(spool=tmp_path)) == ["ok", "warning", "warning"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, or no right to write."""
    (tmp_path / "file").touch()
    assert levels(WorkerSettings(spool=tmp_path / "file")) == ["error"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert levels(WorkerSettings(spool=tmp_path)) == ["error"]


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be kept there."""
    monkeypatch.setattr(doctor_spool, "_ROOM_BYTES", 1 << 80)
    assert levels(WorkerSettings(spool=tmp_path)) == ["error"]


def test_switched_off_it_is_a_warning() -> None:
    """It works, and a worker's death during an outage leaves unknown jobs."""
    assert levels(WorkerSettings(spool="off")) == ["warning"]
