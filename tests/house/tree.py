"""The project's own files, as git would commit them (in a tree without git: all but hidden and made ones)."""

from __future__ import annotations

import ast
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from tests.process import ROOT

PACKAGES = ("shared", "producers", "workers", "sandbox")
_MADE = frozenset({"build", "dist", "__pycache__", "demo-output", "darkroom-artifacts"})


@cache
def files() -> tuple[Path, ...]:
    """Give every file of the project, relative to its root."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return tuple(_walked(ROOT))
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    names = [name.decode() for name in listed.stdout.split(b"\0") if name]
    return tuple(Path(name) for name in sorted(set(names)) if (ROOT / name).is_file())


def _walked(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _MADE or path.name.endswith(".egg-info"):
            continue
        found += _walked(path) if path.is_dir() else [path.relative_to(ROOT)]
    return found


def python_files(*folders: str) -> list[Path]:
    """Give the Python files below these folders."""
    return [path for path in files() if path.suffix == ".py" and path.parts[0] in folders]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
