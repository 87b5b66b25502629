"""The book on paper: nothing is cut, and every link leads to its place.

Two chapters are printed; with ``-m slow`` the whole book. Without a site or a
browser these tests skip and say why.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import tangle
from browser import chromium, missing
from test_site import SITE


pdf = pytest.importorskip("pdf")
pypdf = pytest.importorskip("pypdf")

TWO = ("layers/linear.html", "layers/relu.html")

# What reaches beyond the column, scrolls, hides a part of itself, or is
# higher than a page and not to be broken.
CUT = """room => {
  const cut = [];
  for (const article of document.querySelectorAll(".bd-article")) {
    const {left, right} = article.getBoundingClientRect();
    const note = (why, e) => cut.push(why + " " + e.outerHTML.slice(0, 200));
    for (const e of article.querySelectorAll("*")) {
      if (!e.checkVisibility()) continue;
      const box = e.getBoundingClientRect();
      if (box.right > right + 1 || box.left < left - 1) note("beyond", e);
      const whole = getComputedStyle(e).breakInside === "avoid";
      if (box.height > room.height && whole) note("high", e);
      if (e.closest("mjx-math") || !e.clientWidth) continue;
      if (e.scrollWidth > e.clientWidth + 1) note("wide", e);
      const hides = getComputedStyle(e).overflowY !== "visible";
      if (hides && e.scrollHeight > e.clientHeight + 1) note("hidden", e);
    }
  }
  return cut;
}"""

# Each link within the book: the name of its target, and the words with which
# the text there begins, without mathematics.
LINKS = """() => {
  const words = e => {
    const copy = e.cloneNode(true);
    copy.querySelectorAll("mjx-container").forEach(m => m.replaceWith(" "));
    return copy.textContent;
  };
  return [...document.querySelectorAll("a[href^='#']")].map(a => {
    const name = decodeURIComponent(a.hash.slice(1));
    const place = document.getElementById(name);
    const head = "h1:not(.part), h2, h3, h4, h5, h6, .eqno, p, dt, figcaption";
    const text = place.matches(head) ? place : place.querySelector(head);
    return [name, words(text || place)];
  });
}"""

NUMBERS = """() => Object.fromEntries(
  [...document.querySelectorAll(".contents a")].map(
    a => [a.hash.slice(1), Number(a.querySelector(".number").textContent)]))
"""


@dataclass
class Printed:
    """What was to be printed, how it lay, and what came of it."""

    chapters: list[Any]
    cut: list[str]
    links: list[tuple[str, str]]
    numbers: dict[str, int]
    content: bytes

    def __post_init__(self) -> None:
        """Read the PDF, with a reader that did not write it."""
        self.reader = pypdf.PdfReader(io.BytesIO(self.content))
        self.texts = [
            squeeze(page.extract_text()) for page in self.reader.pages
        ]
        self.places = {
            name.removeprefix("/"): self.reader.get_destination_page_number(d)
            for name, d in self.reader.named_destinations.items()
        }


def squeeze(text: str) -> str:
    """Leave out what a printer may turn into something else."""
    return re.sub(r"[^!-~]", "", normalize("NFKC", text))


def title(chapter: Any) -> str:
    """Return the title of a page of the site."""
    page = (SITE / chapter.page).read_text(encoding="utf-8")
    found = re.search(r"</?section[^>]*>\s*<h1>(.*?)<a class", page, re.DOTALL)
    assert found is not None
    return squeeze(unescape(re.sub(r"<[^>]*>", "", found[1])))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(TWO, id="two chapters"),
        pytest.param((), id="the whole book", marks=pytest.mark.slow),
    ],
)
def printed(request: pytest.FixtureRequest) -> Printed:
    """Chapters on paper."""
    chapters = [
        chapter
        for chapter in pdf.chapters()
        if chapter.page in request.param or not request.param
    ]
    if not all((SITE / chapter.page).is_file() for chapter in chapters):
        missing("no site: run jupyter-book build book/")
    book = pdf.join(SITE, chapters)
    with chromium() as browser, pdf.typeset(browser, book) as page:
        cut = page.evaluate(CUT, pdf.ROOM)
        content = pdf.print_book(page)
        links, numbers = page.evaluate(LINKS), page.evaluate(NUMBERS)
    return Printed(chapters, cut, links, numbers, content)


def test_nothing_is_cut(printed: Printed) -> None:
    assert printed.cut == []


def test_every_link_leads_to_its_place(printed: Printed) -> None:
    used = [
        annotation.get_object()
        for page in printed.reader.pages
        for annotation in page.get("/Annots", ())
    ]
    names = {str(link["/Dest"]) for link in used if "/Dest" in link}
    assert {name.removeprefix("/") for name in names} == {
        name for name, _ in printed.links
    }
    lost = []
    for name, words in printed.links:
        text = printed.texts[printed.places[name]]
        if any(squeeze(word) not in text for word in words.split()[:5]):
            lost.append((name, printed.places[name], words))
    assert lost == []


def test_the_contents_have_the_numbers_of_the_pages(printed: Printed) -> None:
    assert printed.numbers == {
        name: printed.places[name] + 1 for name in printed.numbers
    }
    for chapter in printed.chapters:
        number = printed.numbers[chapter.key()]
        page = printed.texts[number - 1]  # its head, its foot, the rest
        assert page.startswith(f"{title(chapter)}{number}")


def test_the_bookmarks_name_every_chapter(printed: Printed) -> None:
    def titles(entries: list[Any]) -> Iterator[tuple[str, int]]:
        for entry in entries:
            if isinstance(entry, list):
                yield from titles(entry)
            else:
                number = printed.reader.get_destination_page_number(entry)
                yield squeeze(entry.title), number + 1

    marks = [*titles(printed.reader.outline)]
    for chapter in printed.chapters:
        assert (title(chapter), printed.numbers[chapter.key()]) in marks


def test_every_line_of_the_package_is_there(printed: Printed) -> None:
    text = "".join(printed.texts)
    pages = {chapter.page for chapter in printed.chapters}
    cells = tangle.read_cells(tangle.ROOT, tangle.read_chapters(tangle.ROOT))
    lines = [
        line
        for cell in cells
        if cell.chapter.removeprefix("book/").replace(".md", ".html") in pages
        for line in cell.source.splitlines()
    ]
    assert len(lines) > 20
    assert [line for line in lines if squeeze(line) not in text] == []


def test_the_book_is_no_larger_than_a_mail_may_be(printed: Printed) -> None:
    assert len(printed.content) < 15e6


def test_each_page_offers_the_book_once(tmp_path: Path) -> None:
    pages = [tmp_path / "index.html", tmp_path / "layers" / "relu.html"]
    pages[1].parent.mkdir()
    for page in pages:
        if not (site_page := SITE / page.relative_to(tmp_path)).is_file():
            missing("no site: run jupyter-book build book/")
        page.write_text(site_page.read_text(encoding="utf-8"), "utf-8")
    for _ in range(2):
        pdf.offer(tmp_path)
        for page, way in zip(pages, ("", "../"), strict=True):
            text = page.read_text(encoding="utf-8")
            assert re.findall(rf'"([./]*){pdf.NAME}"', text) == [way]


def test_a_link_to_nowhere_is_an_error() -> None:
    chapter = pdf.Chapter("layers/relu.html")
    page = pdf.BeautifulSoup('<p><a href="#gone">gone</a></p>', "html.parser")
    with pytest.raises(ValueError, match=r"relu.html links to #gone.*Mend"):
        pdf.join_links({chapter: page.p})
