"""Write the parts of pages that are told elsewhere: `python -m tools.included_files`.

`<!-- file: PATH -->` (from the page's folder) puts that file into the fenced block below it; `<!-- schedule -->` puts
the default schedule of webhooks there as a table. Both go up to the next `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from shared.settings import WebhookSettings

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
PAGES: Final = ("webhooks.md",)
_PART: Final = re.compile(r"(<!-- (file: [^ ]+|schedule) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_LANGUAGES: Final = {".py": "python", ".mjs": "js", ".go": "go", ".sh": "sh", ".json": "json"}


def render(page: str) -> str:
    """Give the text of a page with its parts as they are now."""
    path = DOCS / page
    return _PART.sub(
        lambda found: found[1] + _part(path.parent, found[2]) + found[3], path.read_text(encoding="utf-8")
    )


def included(page: str) -> list[str]:
    """Give the files that a page includes, from its folder."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [what.removeprefix("file: ") for _, what, _ in _PART.findall(text) if what != "schedule"]


def _part(folder: Path, what: str) -> str:
    if what == "schedule":
        return _schedule()
    path = folder / what.removeprefix("file: ")
    return f"```{_LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"


def _schedule() -> str:
    schedule_s = WebhookSettings().schedule_s
    rows = [
        f"| {at + 1} | {_span(wait_s)} | {_span(sum(schedule_s[: at + 1]))} |\n"
        for at, wait_s in enumerate(schedule_s)
    ]
    return "| try | after the one before | after the event |\n|---:|---:|---:|\n" + "".join(rows)


def _span(seconds: float) -> str:
    units = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    words, rest = [], int(seconds)
    for size, unit in units:
        if rest >= size:
            words.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(words) or "at once"


if __name__ == "__main__":
    for each in PAGES:
        (DOCS / each).write_text(render(each), encoding="utf-8")
