"""Secrets by reference: whether each is where the settings say. What they are is never looked at longer than needed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from producers.doctor.configuration import references_of
from producers.doctor.findings import bad, beware, good
from shared.errors import ConfigurationError
from shared.webhooks.signature import decode_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers.doctor.findings import Finding
    from shared.settings import Settings
    from shared.settings_section import SecretReference

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def look_at_secrets(settings: Settings, *, producer_only: bool) -> Iterator[Finding]:
    """Look at each reference; a machine that only enqueues needs those of the storage alone."""
    for name, reference in references_of(settings):
        if not producer_only or name.startswith("storage."):
            yield from _look_at(name, reference)


def _look_at(name: str, reference: SecretReference) -> Iterator[Finding]:
    try:
        secret = reference.read(name).get_secret_value()
    except ConfigurationError as error:
        what, _, do = str(error).rpartition(". ")
        yield bad("secrets", what, do)
        return
    except UnicodeDecodeError:
        yield bad("secrets", f"{name}: {_place(reference)} is not text", "Put the secret there, as text.")
        return
    if secret != secret.strip() or not secret.isprintable():
        what = f"{name}: {_place(reference)} has white space or unprintable characters in it"
        yield bad("secrets", what, "Write it again, without a line end.")
    elif name.startswith("webhooks.") and (trouble := _malformed(secret)):
        yield bad("secrets", f"{name}: {trouble}", "Make one with `darkroom webhook secret`.")
    else:
        yield good("secrets", f"{name}: {_place(reference)} holds one")
    if reference.file is not None:
        yield from _permissions(name, reference.file)


def _place(reference: SecretReference) -> str:
    return f"file {reference.file}" if reference.file else f"environment variable {reference.env}"


def _malformed(secret: str) -> str:
    try:
        decode_secrets(secret)
    except ConfigurationError as error:
        return str(error).partition(". ")[0]
    return ""


def _permissions(name: str, file: Path) -> Iterator[Finding]:
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    # Secrets that an orchestrator mounts belong to root and are read through their group.
    if mode & stat.S_IRWXO or (mode & _OTHERS and file.stat().st_uid == os.geteuid()):
        what = f"{name}: file {file} can be read by others (mode {stat.S_IMODE(mode):04o})"
        yield beware("secrets", what, f"Run `chmod 600 {file}`.")
