"""The built site, in a real browser: on a phone, on a desk, light and dark.

Without a site or a browser these tests skip and say why; with the variable
CNN_REQUIRE_SITE=1 they fail instead.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import tangle
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, missing


ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if "_static" not in path.parts
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1400, "height": 900}

# What reaches beyond the page's edge, and is in nothing that scrolls.
TOO_WIDE = """() => {
  const scrolls = e => e && e !== document.body
    && (/auto|scroll/.test(getComputedStyle(e).overflowX)
        || scrolls(e.parentElement));
  const edge = document.documentElement.clientWidth + 1;
  return [...document.querySelectorAll(".bd-article *")]
    .filter(e => e.checkVisibility() && !e.closest("mjx-assistive-mml")
      && !e.ownerSVGElement  // cut at the picture's edge
      && e.getBoundingClientRect().right > edge && !scrolls(e))
    .map(e => e.outerHTML.slice(0, 120));
}"""

# Text that MathJax should have set, and errors that it has set.
RAW_MATHS = r"""() => {
  const skip = "script, style, pre, code, mjx-container";
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const raw = [...document.querySelectorAll("mjx-merror")]
    .map(e => e.outerHTML.slice(0, 200));
  while (walk.nextNode()) {
    const text = walk.currentNode.data;
    if (/\\[(\[]|\$\$|\\begin\{/.test(text)
        && !walk.currentNode.parentElement.closest(skip))
      raw.push(text.slice(0, 120));
  }
  return raw;
}"""

# In this mode: figures that show none or both of their copies, stand on a
# card, or lack their caption; or that should move and do not.
BAD_FIGURES = """() => {
  const shown = e => getComputedStyle(e).display !== "none";
  const bad = [];
  for (const data of document.querySelectorAll("script[data-touch]"))
    if (!data.closest(".cell_output").querySelector(".touched > .touch"))
      bad.push("still " + data.dataset.touch);
  for (const img of document.querySelectorAll(
      ".bd-article img:not(.touched > img)")) {
    const ground = getComputedStyle(img).backgroundColor;
    if (shown(img) && ground !== "rgba(0, 0, 0, 0)")
      bad.push("card " + ground + " " + img.alt);
    if (img.matches(".only-light") && img.nextElementSibling
        && shown(img) === shown(img.nextElementSibling))
      bad.push("copies " + img.alt);
  }
  for (const caption of document.querySelectorAll(".bd-article figcaption"))
    if (!shown(caption)) bad.push("caption " + caption.textContent);
  return bad;
}"""

# The first note of a page, if the list of contents lies on it. The line that
# stays of the contents, at the window's upper edge, may cover it.
COVERED_NOTE = """() => {
  const box = s => document.querySelector(s).getBoundingClientRect();
  const note = box("aside.margin"), list = box(".bd-sidebar-secondary");
  return list.height > 50 && note.right > list.left
    && note.top < list.bottom && note.bottom > list.top;
}"""

# Each figure that moves has taken the place of its still one.
MOVES = """() => [...document.querySelectorAll("script[data-touch]")].every(
  e => e.closest(".cell_output").querySelector(".touched > .touch"))"""

# Code of the package that does not fit the desk's column.
CUT_CODE = """() => [...document.querySelectorAll(".bd-article .cell_input")]
  .filter(e => e.querySelector(":scope > .tangled-name")
    && !e.closest(".admonition"))
  .map(e => e.querySelector("pre"))
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.slice(0, 80))"""

# Of the tokens of code and of the formulas, leave one of each kind: axe takes
# a minute for thousands of them, and they are alike. Each keeps its size.
THIN = """() => {
  const seen = new Set();
  for (const token of document.querySelectorAll(".highlight pre span")) {
    const kind = token.className + !!token.closest(".cell_output");
    if (seen.has(kind)) token.replaceWith(...token.childNodes);
    seen.add(kind);
  }
  const [, ...formulas] = document.querySelectorAll(
    "mjx-container:not(th *)");
  const boxes = formulas.map((formula) => {
    const box = document.createElement("span");
    const { width } = formula.firstChild.getBoundingClientRect();
    box.style.cssText = `display: inline-block; width: ${width}px`;
    return [formula, box];
  });
  for (const [formula, box] of boxes) formula.replaceChildren(box);
}"""

# What axe finds. Contrast is measured of the first text of each pair of
# colours and size. All else is the same in light and dark.
AXE = """async (all) => {
  const frame = () => new Promise(requestAnimationFrame);
  await frame().then(frame);  // what follows the window's size has followed
  const first = new Map();
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!text || !e.checkVisibility()) continue;
    const { color, fontSize, fontWeight, opacity } = getComputedStyle(e);
    const grounds = new Set();
    for (let g = e; g; g = g.parentElement) {
      const { backgroundColor, backgroundImage } = getComputedStyle(g);
      grounds.add(backgroundColor + backgroundImage);
    }
    const kind = [color, fontSize, fontWeight, opacity, ...grounds].join();
    if (!first.has(kind)) first.set(kind, e);
  }
  const short = {
    preload: false, resultTypes: ["violations"], selectors: false };
  const contrast = { ...short, runOnly: ["color-contrast"] };
  const runs = [await axe.run({ include: [...first.values()] }, contrast)];
  const rules = {
    "color-contrast": { enabled: false },
    "label-content-name-mismatch": { enabled: true },  // not of itself
  };
  if (all) runs.push(await axe.run(document, { ...short, rules }));
  return runs.flatMap((run) => run.violations).flatMap(
    (v) => v.nodes.map((node) => v.id + ": " + node.html.slice(0, 120)));
}"""


@dataclass
class Visit:
    """A page in the browser, and what went wrong on the way to it."""

    page: Any
    troubles: list[str] = field(default_factory=list)
    home: str = ""
    sizes: dict[str, int] = field(default_factory=dict)  # of what was loaded
    shared: dict[str, int] = field(default_factory=dict)  # by some page

    def listen(self) -> None:
        """Note each request that leaves the site, and each error."""
        note = self.troubles.append
        self.page.on("request", self.check_request)
        self.page.on("requestfailed", lambda r: note(f"failed: {r.url}"))
        self.page.on("pageerror", lambda e: note(f"error: {e}"))
        self.page.on(
            "console",
            lambda m: (
                note(f"{m.type}: {m.text}")
                if m.type in ("error", "warning")
                else None
            ),
        )
        self.page.on("response", self.check_response)

    def check_request(self, request: Any) -> None:
        """Note a request that leaves the site."""
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.troubles.append(f"leaves the site: {request.url}")

    def check_response(self, response: Any) -> None:
        """Note how much came, and what is missing."""
        if response.status >= 400:
            self.troubles.append(f"{response.status}: {response.url}")
        size = int(response.headers.get("content-length", 0))
        self.sizes[response.url.partition("?")[0]] = size

    def open(self, home: str, path: str) -> None:
        """Open a page, on a phone, and wait for its mathematics."""
        self.home = home
        self.troubles.clear()
        self.sizes.clear()
        self.page.set_viewport_size(PHONE)
        self.page.goto(home + path)
        self.page.evaluate("window.MathJax && MathJax.startup.promise")
        self.page.wait_for_function(MOVES)  # large arrays are inflated first

    def turn(self, mode: str) -> None:
        """Change to light or dark."""
        self.page.evaluate(f"document.documentElement.dataset.theme='{mode}'")


@pytest.fixture(scope="module")
def visit() -> Iterator[Visit]:
    """One page of one browser, for all tests."""
    with chromium() as browser:
        # Colours that change slowly would be measured halfway.
        page = browser.new_page(color_scheme="light", reduced_motion="reduce")
        visit = Visit(page)
        visit.listen()
        yield visit


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files, and say nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address at which the site is served."""
    handler = partial(QuietHandler, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def test_the_site_is_built() -> None:
    if not PAGES:
        missing("no site: run jupyter-book build book/")


@pytest.mark.parametrize("path", PAGES)
def test_page_in_a_browser(visit: Visit, server: str, path: str) -> None:
    visit.open(server, path)
    for mode in ("light", "dark"):
        visit.turn(mode)
        width = visit.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= PHONE["width"], mode
        assert visit.page.evaluate(TOO_WIDE) == []
        assert visit.page.evaluate(BAD_FIGURES) == [], mode
    assert visit.page.evaluate(RAW_MATHS) == []
    visit.page.set_viewport_size(DESK)
    assert visit.page.evaluate(CUT_CODE) == []
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= 1400
    assert visit.troubles == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_keeps_nobody_out(visit: Visit, server: str, path: str) -> None:
    visit.open(server, path)
    check_weight(visit)
    visit.page.evaluate(THIN)
    visit.page.evaluate(Axe().axe_script)
    for size in (PHONE, DESK):
        visit.page.set_viewport_size(size)
        for mode in ("light", "dark"):
            visit.turn(mode)
            found = visit.page.evaluate(AXE, mode == "light")
            assert found == [], (size, mode)


def check_weight(visit: Visit) -> None:
    """What a page brings, and what all bring together: a few MB at most."""
    shared = f"{visit.home}_static/"
    own = {u: n for u, n in visit.sizes.items() if not u.startswith(shared)}
    assert sum(own.values()) <= 1_000_000, own
    moves = [u for u in visit.sizes if re.search(r"_static/(touch|cnn)", u)]
    assert sum(visit.sizes[u] for u in moves) <= 150_000, moves
    visit.shared |= {u: visit.sizes[u] for u in visit.sizes.keys() - own}
    assert sum(visit.shared.values()) <= 2_000_000, visit.shared


@pytest.fixture(scope="module")
def plain(visit: Visit) -> Iterator[Visit]:
    """A phone in the dark whose browser runs no scripts."""
    page = visit.page.context.browser.new_page(
        java_script_enabled=False,
        color_scheme="dark",
        reduced_motion="reduce",
        viewport=PHONE,
    )
    plain = Visit(page, home=SITE.as_uri() + "/")
    plain.listen()
    yield plain
    page.close()


@pytest.mark.parametrize("path", PAGES)
def test_page_without_scripts_from_a_folder(plain: Visit, path: str) -> None:
    plain.troubles.clear()
    plain.page.goto(plain.home + path)
    width = plain.page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= PHONE["width"]
    assert plain.page.evaluate(TOO_WIDE) == []
    assert plain.page.evaluate(BAD_FIGURES.replace("data-touch", "none")) == []
    assert plain.troubles == []


def test_the_contents_yield_to_notes(visit: Visit, server: str) -> None:
    with_notes = {
        path: text.count("toc-h2") + text.count("toc-h3")
        for path in PAGES
        if '<aside class="margin' in (text := (SITE / path).read_text())
    }
    if not with_notes:
        missing("no page has a note in the margin, or the site is not built")
    visit.open(server, max(with_notes, key=lambda path: with_notes[path]))
    visit.page.set_viewport_size(DESK)
    note = visit.page.locator("aside.margin").first
    top = note.evaluate("e => e.getBoundingClientRect().top + scrollY")
    for place in range(0, DESK["height"], 100):
        visit.page.evaluate(f"scrollTo(0, {top - place})")
        visit.page.wait_for_timeout(400)
        assert not visit.page.evaluate(COVERED_NOTE), f"at {place} px"


def test_a_page_opens_without_a_server(visit: Visit) -> None:
    with_maths = [
        path for path in PAGES if 'class="math' in (SITE / path).read_text()
    ]
    if not with_maths:
        missing("no page has mathematics, or the site is not built")
    visit.open(SITE.as_uri() + "/", with_maths[-1])
    assert visit.page.evaluate(RAW_MATHS) == []
    assert visit.page.locator("mjx-container").count() > 0
    assert visit.page.evaluate("document.fonts.check('16px MJXTEX')")
    assert visit.troubles == []


class Reader(HTMLParser):
    """Collect the links, images and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images: list[tuple[str, str]] = []
        self.captions = 0
        self.feed(text)

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        """Look at one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values.get("id", ""), values.get("name", "")}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img":
            self.images.append((values.get("src", ""), values.get("alt", "")))
        if "tangled-name" in values.get("class", "").split():
            self.captions += 1


@cache
def read(path: Path) -> Reader:
    """Read a page of the site."""
    return Reader(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES)
def test_links_are_not_dead(path: str) -> None:
    dead = []
    for link in read(SITE / path).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = SITE / path
        if parts.path:
            target = (target.parent / unquote(parts.path)).resolve()
        anchor = unquote(parts.fragment)
        if not target.is_file() or (
            anchor
            and target.suffix == ".html"
            and "=" not in anchor  # the state of a figure that moves
            and anchor not in read(target).anchors
        ):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("path", PAGES)
def test_a_caption_stands_once(path: str) -> None:
    text = (SITE / path).read_text(encoding="utf-8")
    text = re.sub(r'<span class="caption-number">.*?</span>', "", text)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    words = [re.sub(r"<[^>]*>|#", "", found) for found in captions]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("path", PAGES)
def test_images_have_alternative_text(path: str) -> None:
    assert [
        src for src, alt in read(SITE / path).images if not alt.strip()
    ] == []


def test_each_icon_is_drawn() -> None:
    style = (ROOT / "book" / "assets" / "book.css").read_text()
    drawn = set(re.findall(r"^\.(fa-[a-z-]+) \{$", style, re.M))
    sources = [*(SITE / path for path in PAGES)]
    sources += (ROOT / "book" / "_ext").glob("*.py")
    icons = re.compile(r"""["'](?:[\w-]+ )*fa(?:s|-solid) +(fa-[a-z-]+)""")
    for source in sources:
        named = icons.findall(source.read_text(encoding="utf-8"))
        assert set(named) <= drawn, source


CELLS = tangle.read_cells(ROOT, tangle.read_chapters(ROOT))


@pytest.mark.parametrize("chapter", sorted({cell.chapter for cell in CELLS}))
def test_tangled_cells_bear_the_name_of_their_file(chapter: str) -> None:
    page = SITE / Path(chapter).relative_to("book").with_suffix(".html")
    if not page.is_file():
        missing(f"{page.name} is not built: run jupyter-book build book/")
    cells = [cell for cell in CELLS if cell.chapter == chapter]
    assert read(page).captions == len(cells)
    for cell in cells:
        module = cell.module.removesuffix("/__init__.py").removesuffix(".py")
        assert (SITE / "_modules" / f"{module}.html").is_file()
