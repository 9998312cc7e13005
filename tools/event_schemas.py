"""Write docs/webhooks/schema/*.json, a JSON Schema for each event: `python -m tools.event_schemas`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from shared.webhooks.events import EVENT_TYPES, json_schema

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "webhooks" / "schema"


def files() -> dict[str, str]:
    """Give the text of every schema by file name."""
    return {f"{each}.json": json.dumps(json_schema(each), indent=2) + "\n" for each in EVENT_TYPES}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
