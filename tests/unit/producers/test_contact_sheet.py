"""The page of images: what it shows, and that nothing in a prompt becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from producers.contact_sheet import Picture, contact_sheet, is_contact_sheet

FOX = Picture("A fox", "2K · wan2.7-image", path="artifacts/t/job_1/0.png", width=256, height=144)


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def test_each_image_is_linked_lazy_and_described() -> None:
    """An image has its place, its size, its prompt as alternative text, and loads when it is scrolled to."""
    page = Reader(contact_sheet("Demo", "1 job", [FOX]))
    assert page.all("img") == [
        {
            "src": "artifacts/t/job_1/0.png",
            "alt": "A fox",
            "width": "256",
            "height": "144",
            "loading": "lazy",
            "decoding": "async",
        }
    ]
    assert page.all("a") == [{"href": "artifacts/t/job_1/0.png"}]
    assert "A fox" in page.text
    assert "2K · wan2.7-image" in page.text


def test_the_page_needs_nothing_else() -> None:
    """There is no script, no style sheet and no font to load, and no address of another host."""
    page = contact_sheet("Demo", "1 job", [FOX])
    names = {tag for tag, _ in Reader(page).tags}
    assert not names & {"script", "link", "iframe", "object", "base"}
    assert "//" not in page
    assert "url(" not in page


def test_a_job_without_images_says_why() -> None:
    """It has its place among the others, with the reason instead of an image."""
    page = Reader(contact_sheet("Demo", "", [Picture("A thing", "2K", missing="rejected by <moderation>")]))
    assert page.all("img") == []
    assert "rejected by <moderation>" in page.text


def test_a_page_of_ours_is_known_again() -> None:
    """The demo removes an earlier one's images only beside a page that it made."""
    assert is_contact_sheet(contact_sheet("Demo", "", []))
    assert not is_contact_sheet("<!DOCTYPE html><title>My page</title>")
    told_of = contact_sheet("Demo", "", [FOX]).replace('<meta name="generator"', "<meta name='author'")
    assert not is_contact_sheet(told_of)


HOSTILE = st.text(alphabet="<>&\"'`=/ \\{}%:;#ascript\n\u202e\x00", max_size=40)


@given(prompt=HOSTILE, note=HOSTILE, path=HOSTILE)
def test_no_text_becomes_markup(prompt: str, note: str, path: str) -> None:
    """Whatever prompt, note and path are: the page has the tags of any other, and no address of another scheme."""
    plain = Reader(contact_sheet("t", "s", [FOX]))
    page = Reader(contact_sheet(prompt, note, [Picture(prompt, note, path=path, width=1, height=1)]))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    (image,) = page.all("img")
    assert set(image) == {"src", "alt", "width", "height", "loading", "decoding"}
    assert not set(image["src"] or "") & set("<>\"'\\: {}`")
    (link,) = page.all("a")
    assert set(link) == {"href"}
