"""A public surface is what it says it is."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from tests.house.tree import PACKAGES, parsed, python_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _assigned(body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _declaring() -> list[Path]:
    return [path for path in python_files(*PACKAGES) if "__all__" in _assigned(parsed(path).body)]


def test_something_declares_its_surface() -> None:
    """There are modules with `__all__`, so that the test below has something to show."""
    assert _declaring()


@pytest.mark.parametrize("path", _declaring(), ids=str)
def test_all_is_what_a_module_offers(path: Path) -> None:
    """`__all__` lists each public name of the module once, and each can be had."""
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    module = import_module(name)
    declared: list[str] = list(module.__all__)
    assert len(declared) == len(set(declared))
    assert [each for each in declared if not hasattr(module, each)] == []
    assert _offered(path) ^ set(declared) == set()


def _offered(path: Path) -> set[str]:
    """Give the public names of a module: what it defines, and in a package also what it imports from ours."""
    body = parsed(path).body
    names = _assigned(body) | {
        node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    if path.name == "__init__.py":
        names |= set(_imported(body))
    return {name for name in names if not name.startswith("_")}


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    """Give the names imported from ours, also those looked up when first used: named for type checkers only."""
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in body)
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and lazy:
            yield from _imported(node.body)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            yield from (alias.asname or alias.name for alias in node.names)
