"""Nothing grows past what can be read at one sitting."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.house.tree import PACKAGES, files, parsed, python_files
from tests.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE_LINES = 400
FUNCTION_LINES = 60
LUA_LINES = 80
NESTING = 3
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_modules_stay_small() -> None:
    """No module reaches 400 lines (tables of cases in tests may)."""
    sizes = {str(path): _lines(path) for path in python_files(*PACKAGES, "tools", "bench")}
    assert {path: size for path, size in sizes.items() if size >= MODULE_LINES} == {}


def test_functions_stay_short() -> None:
    """No function is longer than 60 lines, its docstring included."""
    sizes = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in _functions()}
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}


def test_functions_stay_flat() -> None:
    """No function nests blocks more than 3 deep."""
    depths = {name: _depth(node.body) for name, node in _functions()}
    assert {name: depth for name, depth in depths.items() if depth > NESTING} == {}


def test_lua_files_stay_small() -> None:
    """No Lua file is longer than 80 lines: one verb per file, the rest in fragments."""
    sizes = {path.name: _lines(path) for path in files() if path.suffix == ".lua"}
    assert sizes, "no Lua files were found"
    assert {name: size for name, size in sizes.items() if size > LUA_LINES} == {}


def _lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def _functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in python_files(*PACKAGES, "tools", "bench"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, _FUNCTIONS):
                yield f"{path}:{node.lineno} {node.name}", node


def _depth(body: list[ast.stmt]) -> int:
    return max((_depth_of(statement) for statement in body), default=0)


def _depth_of(node: ast.stmt) -> int:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) or not isinstance(node, _BLOCKS):
        return 0
    return 1 + max(_depth(branch) for branch in _branches(node))


def _branches(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Give the bodies of a block; an `elif` stands beside its `if`, not inside."""
    for name in ("body", "orelse", "finalbody"):
        branch = getattr(node, name, [])
        is_elif = (
            name == "orelse"
            and isinstance(node, ast.If)
            and len(branch) == 1
            and isinstance(branch[0], ast.If)
        )
        if is_elif:
            yield from _branches(branch[0])
        else:
            yield branch
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body
