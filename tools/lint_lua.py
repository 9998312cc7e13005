"""Lints the Lua scripts as the server gets them: each with its fragments, findings shown at their source lines.

A fragment alone cannot be judged (what it uses comes from fragments before it, what it defines is used after it),
so luacheck sees whole scripts. What a script does not use of a fragment is no fault; what none uses is.
Exit code 1 if anything was found.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "shared" / "redis" / "lua"
_INCLUDE = "--!include "
_UNUSED = "W211"
_FOUND_ERRORS = 2  # luacheck's exit code
_OTHER_LINE = re.compile(r"on line (\d+)")
_FINDING = re.compile(
    r"(?P<script>\w+)\.lua:(?P<line>\d+):(?P<column>\d+): \((?P<code>[EW]\d+)\) (?P<message>.*)"
)


class Line(NamedTuple):
    """Where a line of an assembled script comes from."""

    file: str
    number: int
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that luacheck, or we, hold against a line."""

    file: str
    number: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{(FOLDER / self.file).relative_to(ROOT)}.lua:{self.number}:{self.column}: {self.message}"


def assembled(name: str) -> list[Line]:
    """Give a script with its fragments in place, as `shared.redis.scripts` sends it."""
    return [
        Line(included, number, text)
        for own_number, own_text in _numbered(name)
        for included, number, text in _expanded(name, own_number, own_text)
    ]


def _expanded(name: str, number: int, text: str) -> Iterator[Line]:
    if not text.startswith(_INCLUDE):
        yield Line(name, number, text)
        return
    fragment = text.removeprefix(_INCLUDE).strip()
    yield from (Line(fragment, *numbered) for numbered in _numbered(fragment))


def _numbered(name: str) -> Iterable[tuple[int, str]]:
    return enumerate((FOLDER / f"{name}.lua").read_text().splitlines(), start=1)


def find(scripts: dict[str, list[Line]], luacheck: str) -> set[Finding]:
    """Run luacheck over whole scripts and translate what it says. Raises CalledProcessError if it cannot run."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in scripts.items():
            (Path(folder) / f"{name}.lua").write_text("\n".join(line.text for line in lines) + "\n")
        options = [
            "--codes",
            "--no-color",
            "--no-cache",
            "--formatter=plain",
            "--config",
            str(ROOT / ".luacheckrc"),
        ]
        ran = subprocess.run([luacheck, *options, folder], capture_output=True, text=True, check=False)
    if ran.returncode > _FOUND_ERRORS:  # above that it did not check
        raise subprocess.CalledProcessError(ran.returncode, "luacheck", ran.stdout, ran.stderr)
    return set(_translated(scripts, ran.stdout))


def _translated(scripts: dict[str, list[Line]], output: str) -> Iterator[Finding]:
    unused: Counter[Finding] = Counter()
    for match in _FINDING.finditer(output):
        lines, code = scripts[match["script"]], match["code"]
        line = lines[int(match["line"]) - 1]
        message = _OTHER_LINE.sub(partial(_place, lines), match["message"])
        finding = Finding(line.file, line.number, int(match["column"]), f"({code}) {message}")
        if code == _UNUSED and line.file not in scripts and line.text.startswith("local "):
            unused[finding] += 1
        else:
            yield finding
    for finding, count in unused.items():
        if count == sum(any(line.file == finding.file for line in lines) for lines in scripts.values()):
            yield finding


def _place(lines: list[Line], mention: re.Match[str]) -> str:
    there = lines[int(mention[1]) - 1]
    return f"on line {there.number} of {there.file}.lua"


def dead_fragments(names: Iterable[str], scripts: dict[str, list[Line]]) -> Iterator[Finding]:
    """Give the fragments that no script includes."""
    used = {line.file for lines in scripts.values() for line in lines}
    for name in sorted(set(names) - used):
        yield Finding(name, 1, 1, "no script includes this fragment, and it has no `#!lua` line")


def main() -> int:
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        print("luacheck is missing. Install it (Debian: apt-get install lua-check).", file=sys.stderr)
        return 1
    names = [path.stem for path in FOLDER.glob("*.lua")]
    scripts = {name: assembled(name) for name in names if assembled(name)[0].text.startswith("#!lua")}
    findings = sorted({*find(scripts, luacheck), *dead_fragments(names, scripts)})
    for finding in findings:
        print(finding)
    print(f"{len(scripts)} scripts, {len(names) - len(scripts)} fragments, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
