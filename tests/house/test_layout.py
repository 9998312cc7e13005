"""Where things stand and what they are called."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

from tests.house.tree import PACKAGES, files, parsed, pyproject, python_files
from tests.process import ROOT

# Names that say nothing of what is inside, so that everything ends up there.
FORBIDDEN = frozenset({"utils", "util", "helpers", "helper", "common", "types", "constants", "misc"})
# Spelled in parts, so that this file does not find itself.
_MACHINE_PATHS = ("/" + "(work|home|root|Users|farm|spec)" + "/", "/tmp" + "/spec", "/opt" + "/(pypi|wheels)")
_REGISTRIES = (
    "files.python" + "hosted", r"pypi\." + "org", "registry.npm" + "js", r"deb\." + "debian", r"proxy\." + "golang",
    r"crates\." + "io", "index" + "-url", "find" + "-links",
)  # fmt: skip


def test_no_module_has_an_empty_name() -> None:
    """A module is named for what is in it."""
    names = [(path, {path.stem, *path.parts[:-1]}) for path in files() if path.suffix in (".py", ".lua")]
    assert [str(path) for path, words in names if words & FORBIDDEN] == []


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring: a sentence."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path in python_files("tests")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if path.name.startswith("test_")
        and not (ast.get_docstring(node) or "").rstrip().endswith((".", "!", "?"))
    ]
    assert silent == []


def test_no_test_is_skipped() -> None:
    """Nothing skips: no mark, no call."""
    skips = re.compile(r"pytest\.(skip|importorskip)\(|mark\.skip|unittest\.skip")
    found = [str(path) for path in python_files("tests") if skips.search((ROOT / path).read_text())]
    allowed = {
        "tests/integration/test_servers.py",
        "tests/house/test_layout.py",
    }  # they show that it is not allowed
    assert set(found) <= allowed


def test_the_wheel_lists_the_packages_that_exist() -> None:
    """The names are generic, so the wheel names its packages one by one: all of them, and nothing else."""
    on_disk = {
        ".".join(path.parent.parts)
        for path in files()
        if path.name == "__init__.py" and path.parts[0] in PACKAGES
    }
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert on_disk ^ set(listed) == set()


def test_the_wheel_holds_every_data_file() -> None:
    """What stands in a package beside Python is matched by its package data, or is a page to read."""
    data = pyproject()["tool"]["setuptools"]["package-data"]
    missing = [
        str(path)
        for path in files()
        if path.parts[0] in PACKAGES and path.suffix not in (".py", ".md") and not _is_data(path, data)
    ]
    assert missing == []


def _is_data(path: Path, data: dict[str, list[str]]) -> bool:
    for depth in range(1, len(path.parts)):
        package, inside = ".".join(path.parts[:depth]), Path(*path.parts[depth:]).as_posix()
        if any(fnmatch(inside, pattern) for pattern in data.get(package, ())):
            return True
    return False


def test_python_outside_the_packages_is_in_a_known_room() -> None:
    """Top-level folders with Python are the ones the layout names."""
    rooms = {path.parts[0] for path in files() if path.suffix == ".py"}
    assert rooms <= {*PACKAGES, "tests", "tools", "bench", "deploy", "docs"}


def test_no_file_knows_a_machine() -> None:
    """No path of somebody's machine and no address of a package registry is in any file."""
    paths = re.compile(r"(?<![\w.~-])(" + "|".join(_MACHINE_PATHS) + ")")
    registries = re.compile("|".join(_REGISTRIES))
    found = [
        f"{path}:{number}: {line.strip()[:80]}"
        for path in files()
        for number, line in enumerate(_text(path).splitlines(), start=1)
        if paths.search(line) or registries.search(line)
    ]
    assert found == []


def _text(path: Path) -> str:
    try:
        return (ROOT / path).read_text()
    except UnicodeDecodeError:
        return ""
