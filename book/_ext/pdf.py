"""Print the built site as one book: a PDF with contents and bookmarks.

The articles of all pages, in the order of ``_toc.yml``, become one long page,
which a Chromium typesets and prints, twice: the first print tells on which
page each section begins, and the second has these numbers in its table of
contents. ``pdf.css`` says how paper looks.
"""

from __future__ import annotations

import copy
import io
import posixpath
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.metadata import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import matplotlib
import pikepdf
import tangle
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from sphinx_external_toc.parsing import parse_toc_yaml


SITE = tangle.ROOT / "_build" / "html"
NAME = "cnn-from-scratch.pdf"
STYLE = Path(__file__).with_suffix(".css")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The room that the margins in pdf.css leave on A4, in CSS's 96 dots an inch.
ROOM = ViewportSize(width=582, height=944)

# The book looks the same wherever it is printed: its letters come with a
# package that it needs anyway. Family, file, weight, style.
FONTS = [
    ("Book Serif", "STIXGeneral", "normal", "normal"),
    ("Book Serif", "STIXGeneralItalic", "normal", "italic"),
    ("Book Serif", "STIXGeneralBol", "bold", "normal"),
    ("Book Serif", "STIXGeneralBolIta", "bold", "italic"),
    ("Book Mono", "DejaVuSansMono", "normal", "normal"),
    ("Book Mono", "DejaVuSansMono-Oblique", "normal", "italic"),
    ("Book Mono", "DejaVuSansMono-Bold", "bold", "normal"),
    ("Book Mono", "DejaVuSansMono-BoldOblique", "bold", "italic"),
    ("Book Sans", "DejaVuSans", "normal", "normal"),
    ("Book Sans", "DejaVuSans-Bold", "bold", "normal"),
]

BOOK = """\
<!DOCTYPE html>
<html lang="en-GB" data-theme="light">
<head>
<meta charset="utf-8">
<title>CNN from Scratch</title>
{head}
<script>MathJax.options.renderActions = {{assistiveMml: []}};</script>
<style>
{style}
</style>
</head>
<body class="bd-article-container">
<div class="cover">
<p class="title">CNN from Scratch</p>
<p class="summary">{summary}</p>
{picture}
<p class="date">{date}</p>
</div>
<div class="bd-article contents">
<h1>Contents</h1>
<div class="lines">
{contents}
</div>
<p class="colophon">This is the book&rsquo;s site on paper. Links lead to
their places here, too. Solutions stand open, and figures that move stand
still. Code that is folded away there, of drawings and of checks, is left out:
the site has it, and each chapter&rsquo;s notebook.</p>
</div>
{book}
</body>
</html>
"""

# What paper has no use for.
SCREEN_ONLY = "script, button, .headerlink, .only-dark, .viewcode-link"

# Wait for the mathematics, the letters, the pictures; then make letters
# smaller where they would reach beyond the page.
FIT = """async () => {
  await MathJax.startup.promise;
  await document.fonts.ready;
  for (const image of document.images) await image.decode();
  for (const part of document.querySelectorAll(
      "mjx-container, pre, table, dt.sig"))
    for (let turn = 0; turn < 4; turn++) {
      const frame = part.matches("table") ? part.parentElement : part;
      const fits = frame.clientWidth / frame.scrollWidth;
      if (!(fits < 1)) break;  // nor in a line of text, which has no width
      const size = parseFloat(getComputedStyle(part).fontSize);
      part.style.setProperty("font-size", fits * size + "px", "important");
    }
}"""

NUMBER = """places => {
  for (const line of document.querySelectorAll(".contents a"))
    line.querySelector(".number").textContent = places[line.hash.slice(1)];
}"""

LINES = """() => [...document.querySelectorAll(".lines p")].map(line => {
  const chapter = line.matches(".part") ? line.nextElementSibling : line;
  return [line.className, (line.querySelector("a > span") || line).textContent,
          chapter.querySelector("a").hash.slice(1)];
})"""

BUTTON = """\
<li><a class="btn btn-sm btn-download-book-button dropdown-item" \
data-bs-placement="left" data-bs-toggle="tooltip" href="{href}" \
target="_blank" title="Download the whole book">
<span class="btn__icon-container"><i class="fas fa-book"></i></span>
<span class="btn__text-container">book, .pdf</span>
</a>
</li>
"""


@dataclass(frozen=True)
class Chapter:
    """A page of the site, and the part of the book that begins with it."""

    page: str  # "layers/relu.html"
    part: str = ""

    def key(self, anchor: str = "") -> str:
        """Return the name in the whole book of a place on this page."""
        stem = self.page.removesuffix(".html").replace("/", "-")
        return f"{stem}.{anchor}" if anchor else stem

    def target(self, link: str) -> str:
        """Return the file of the site to which a link on this page leads."""
        path = unquote(urlsplit(link).path)
        folder = posixpath.dirname(self.page)
        return posixpath.normpath(posixpath.join(folder, path))


def chapters() -> list[Chapter]:
    """Return the pages in the order of the table of contents."""
    root = parse_toc_yaml(tangle.ROOT / "_toc.yml").root
    found = [Chapter(f"{root.docname}.html")]
    for part in root.subtrees:
        for file in part.files():
            first = file == part.files()[0]
            caption = (part.caption or "") if first else ""
            found.append(Chapter(f"{file}.html", caption))
    return found


def soup(path: Path) -> BeautifulSoup:
    """Read a page of the site."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def head(site: Path, pages: dict[Chapter, BeautifulSoup]) -> Iterator[str]:
    """Yield what loads the style sheets, and MathJax, of all pages."""
    for chapter, page in pages.items():
        for element in page.select("link[rel=stylesheet], head > script"):
            name = "href" if element.name == "link" else "src"
            if name in element.attrs:
                file = site / chapter.target(str(element[name]))
                element[name] = file.as_uri()
            if element.name == "link" or "mathjax" in str(element).lower():
                yield str(element)


def article(site: Path, chapter: Chapter, page: BeautifulSoup) -> Tag:
    """Return the article of a page, as it can stand in the whole book."""
    body = page.select_one("article.bd-article")
    assert body is not None, chapter.page
    for element in body.select(SCREEN_ONLY):
        element.decompose()
    for image in body.select("img"):
        file = site / chapter.target(str(image["src"]))
        image["src"] = file.as_uri()
    unfold(body)
    for line in body.select("p"):
        if line.get_text().rstrip().endswith(":"):
            line["data-leads"] = ""
    # A section may begin at the foot of the page before its heading's.
    for heading in body.select("section[id] > :is(h1, h2, h3, h4, h5)"):
        if heading.parent is not None and "id" not in heading.attrs:
            heading["id"] = heading.parent["id"]
            del heading.parent["id"]
    seen: set[str] = set()
    for element in body.select("[id]"):
        anchor = str(element["id"])
        element["id"] = chapter.key(anchor)
        if anchor in seen:
            del element["id"]
        seen.add(anchor)
    body["id"] = chapter.key()
    return body


def unfold(body: Tag) -> None:
    """Leave out code that is folded away, for paper cannot be opened.

    The code of a drawing goes without a word; of a check its line stays.
    """
    for fold in body.select("details.hide"):
        prompt = fold.select_one("summary > p")
        if prompt is None or prompt.get_text() == "Show the code":
            fold.decompose()
        else:
            prompt["class"] = "folded"
            fold.replace_with(prompt.extract())
    for fold in body.select("details"):
        fold["open"] = ""
    for cell in body.select("div.cell"):
        if not cell.select("img") and not cell.get_text(strip=True):
            cell.decompose()


def join_links(bodies: dict[Chapter, Tag]) -> None:
    """Have each link between pages lead to its place in the book.

    What leads to a page that is not in it (sources, downloads) is text.
    """
    held = {chapter.page: chapter for chapter in bodies}
    ids = {str(e["id"]) for b in bodies.values() for e in b.select("[id]")}
    ids |= {chapter.key() for chapter in bodies}
    for chapter, body in bodies.items():
        for link in body.select("a[href]"):
            parts = urlsplit(str(link["href"]))
            if parts.scheme:
                continue
            page = chapter.target(parts.path) if parts.path else chapter.page
            if page not in held:
                link.unwrap()
                continue
            anchor = unquote(parts.fragment)
            if "=" in anchor:  # no place, but what a figure is to be set to
                anchor = ""
            place = held[page].key(anchor)
            if place not in ids:
                raise ValueError(
                    f"{chapter.page} links to {link['href']}; expected a "
                    f"place in the book, and there is none. Mend the link, "
                    f"or build the site anew."
                )
            link["href"] = f"#{place}"


def contents(bodies: dict[Chapter, Tag]) -> Iterator[str]:
    """Yield the lines of the table of contents; page numbers come later."""
    for chapter, body in bodies.items():
        if chapter.part:
            yield f'<p class="part">{escape(chapter.part)}</p>'
        for heading in body.select(
            ":scope > section > h1, :scope > section > section > h2"
        ):
            title = copy.copy(heading)
            for link in title.select("a"):
                link.unwrap()
            key, kind = chapter.key(), "chapter"
            if heading.name == "h2":
                key, kind = str(heading["id"]), "section"
            yield (
                f'<p class="{kind}"><a href="#{key}">'
                f"<span>{title.decode_contents()}</span>"
                f'<span class="number">000</span></a></p>'
            )


def style(bodies: dict[Chapter, Tag]) -> Iterator[str]:
    """Yield the rules: letters, paper, and what stands above each page."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for family, file, weight, slope in FONTS:
        yield (
            f'@font-face {{font-family: "{family}"; font-weight: {weight}; '
            f"font-style: {slope}; "
            f'src: url("{(folder / file).as_uri()}.ttf")}}'
        )
    yield STYLE.read_text(encoding="utf-8")
    for number, (chapter, body) in enumerate(bodies.items()):
        title = body.h1.get_text() if body.h1 else ""
        title = title.replace("\\", "").replace('"', r"\"")
        yield f'[id="{chapter.key()}"] {{page: p{number}}}'
        yield f'@page p{number} {{@top-left {{content: "{title}"}}}}'


def put_in_part(chapter: Chapter, body: Tag) -> None:
    """Lower the headings of a chapter by one, and name the part it opens."""
    for heading in body.select("h1, h2, h3, h4, h5"):
        heading.name = f"h{int(heading.name[1]) + 1}"
    if chapter.part:
        part = BeautifulSoup('<h1 class="part"></h1>', "html.parser").h1
        assert part is not None
        part.string = chapter.part
        body.insert(0, part)


def join(site: Path, chosen: list[Chapter]) -> str:
    """Return chapters of a site as one page: the book."""
    pages = {chapter: soup(site / chapter.page) for chapter in chosen}
    index = soup(site / "index.html")
    cover = article(site, Chapter("index.html"), index)
    updated = index.select_one('meta[name="docbuild:last-update"]')
    values = {
        "head": "\n".join(dict.fromkeys(head(site, pages))),
        "summary": metadata("cnn-from-scratch")["Summary"],
        "picture": cover.select_one("figure img") or "",
        "date": updated["content"] if updated else "",
    }
    bodies = {c: article(site, c, page) for c, page in pages.items()}
    join_links(bodies)
    values["contents"] = "\n".join(contents(bodies))
    values["style"] = "\n".join(style(bodies))
    for chapter, body in bodies.items():
        if chapter.page != "index.html":
            put_in_part(chapter, body)
    values["book"] = "\n".join(map(str, bodies.values()))
    return BOOK.format(**values)


def program() -> str | None:
    """Return the path of a Chromium or Chrome, if the machine has one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window: the machine's, or Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program(), args=FLAGS
        )
        yield browser
        browser.close()


@contextmanager
def typeset(browser: Browser, book: str) -> Iterator[Page]:
    """Open the whole book, its mathematics set, and all within its page."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "book.html"
        path.write_text(book, encoding="utf-8")
        page = browser.new_page(viewport=ROOM)
        page.set_default_timeout(0)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(path.as_uri())
        page.evaluate(FIT)
        yield page
        page.close()


def places(book: pikepdf.Pdf) -> dict[str, int]:
    """Return the page number of each place to which a link leads."""
    return {
        name.removeprefix("/"): pikepdf.Page(place[0]).index + 1
        for name, place in book.Root.Dests.items()
    }


def add_bookmarks(book: pikepdf.Pdf, lines: list[tuple[str, ...]]) -> None:
    """Make bookmarks of the table of contents.

    Chromium's own would need the tags of each word, for which a whole book
    has too many: the print never ends.
    """
    with book.open_outline() as outline:
        part = chapter = outline.root
        for kind, title, key in lines:
            place = book.Root.Dests[f"/{key}"]
            assert isinstance(place, pikepdf.Array)
            mark = pikepdf.OutlineItem(title, place)
            if kind == "part":
                outline.root.append(mark)
                part = mark.children
            elif kind == "chapter":
                part.append(mark)
                chapter = mark.children
            else:
                chapter.append(mark)


def print_book(page: Page) -> bytes:
    """Print it twice: the contents take the numbers of the first print."""

    def book() -> pikepdf.Pdf:
        printed = page.pdf(prefer_css_page_size=True, tagged=False)
        return pikepdf.open(io.BytesIO(printed))

    with book() as first:
        page.evaluate(NUMBER, places(first))
    packed = io.BytesIO()
    with book() as second:
        add_bookmarks(second, page.evaluate(LINES))
        mode = pikepdf.ObjectStreamMode.generate
        second.save(packed, object_stream_mode=mode)
    return packed.getvalue()


def offer(site: Path) -> None:
    """Offer the book in the menu of each page, after the source.

    A page that a later build writes anew no longer offers it.
    """
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        before, button, after = text.partition("btn-download-zip-button")
        if button and NAME not in text:
            up = "../" * (len(path.relative_to(site).parts) - 1)
            line = BUTTON.format(href=up + NAME)
            after = after.replace("</li>\n", f"</li>\n{line}", 1)
            path.write_text(before + button + after, encoding="utf-8")


def main() -> None:
    """Print the book, and put it into the site."""
    if not (SITE / "index.html").is_file():
        sys.exit(f"no site in {SITE}: run jupyter-book build book/")
    book = join(SITE, chapters())
    with chromium() as browser, typeset(browser, book) as page:
        (SITE / NAME).write_bytes(print_book(page))
    offer(SITE)
    print(f"{SITE / NAME}, {(SITE / NAME).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
