"""A page of images: one HTML file beside the images' folder, that loads nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GENERATOR: Final = "darkroom contact sheet"

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{generator}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .2rem; }}
header p {{ margin: 0 0 1.5rem; opacity: .75; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1.2rem; align-items: end; }}
figure {{ margin: 0; }}
img {{ display: block; width: 100%; height: auto; border-radius: 4px; background: #8883; }}
.none {{ aspect-ratio: 1; display: grid; place-items: center; border: 1px dashed #888; border-radius: 4px;
  padding: 1rem; text-align: center; overflow-wrap: anywhere; }}
figcaption {{ padding-top: .4rem; overflow-wrap: anywhere; }}
small {{ display: block; opacity: .7; }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{summary}</p></header>
<main>
{figures}
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image (`path`: its place relative to the page, with slashes) or, without a path, why there is none.

    `width` and `height` are those of the file, in pixels: the page keeps their place while images load.
    """

    prompt: str
    note: str
    path: str | None = None
    width: int | None = None
    height: int | None = None
    missing: str = ""


def contact_sheet(title: str, summary: str, pictures: Iterable[Picture]) -> str:
    """Give the page. Every text is escaped; nothing a prompt says becomes markup."""
    figures = "\n".join(_figure(picture) for picture in pictures)
    return _PAGE.format(generator=GENERATOR, title=escape(title), summary=escape(summary), figures=figures)


def is_contact_sheet(page: str) -> bool:
    """Say whether a page was made here."""
    return f'<meta name="generator" content="{GENERATOR}">' in page


def _figure(picture: Picture) -> str:
    prompt, note = escape(picture.prompt), escape(picture.note)
    caption = f"<figcaption>{prompt}<small>{note}</small></figcaption>"
    return f"<figure>{_image(picture)}{caption}</figure>"


def _image(picture: Picture) -> str:
    if picture.path is None:
        return f'<div class="none">{escape(picture.missing)}</div>'
    size = _attributes((("width", picture.width), ("height", picture.height)))
    source = escape(quote(picture.path))
    alt = escape(picture.prompt)
    return f'<a href="{source}"><img src="{source}" alt="{alt}"{size} loading="lazy" decoding="async"></a>'


def _attributes(pairs: Sequence[tuple[str, int | None]]) -> str:
    return "".join(f' {name}="{value}"' for name, value in pairs if value is not None)
