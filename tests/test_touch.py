"""The figures that move, driven by pointer and by keys, against NumPy."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from book_touch import ASSETS, scripts
from browser import chromium

from cnn.back.touch import DTYPES, pack, touch


PAGE = """<!doctype html><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="{assets}/book.css">
<link rel="stylesheet" href="{assets}/touch.css">
<style>body {{ margin: 1rem }} html {{
--pst-color-background: {ground}; background: {ground} }}</style>
{scripts}
<script>document.documentElement.lang = "en";
document.documentElement.dataset.theme = "{theme}"</script>
<main class="bd-article"><h1>A page</h1><div class="cell_output">
<figure><img alt="still" src="data:,"><figcaption><p>What to see.</p>
</figcaption></figure>
<div class="output text_html">{data}</div></div></main>"""

# axe leaves this rule out unless it is asked for.
AXE = {"rules": {"label-content-name-mismatch": {"enabled": True}}}
MINUS = "\N{MINUS SIGN}"


@dataclass
class Figure:
    """A figure that moves, on a page of its own."""

    page: Any
    errors: list[str]

    def at(self, key: str) -> Any:
        """An element of the board."""
        return self.page.locator(f'.touch [data-key="{key}"]')

    def number(self, key: str) -> float:
        """The number that an element shows."""
        return float(self.at(key).inner_text().replace(MINUS, "-"))

    def numbers(self, key: str, count: int) -> list[float]:
        """The numbers key0, key1, ..."""
        return [self.number(f"{key}{k}") for k in range(count)]

    def drag(self, key: str, steps: int) -> None:
        """Drag a number sideways by so many steps."""
        box = self.at(key).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 15 * steps, y, steps=4)
        self.page.mouse.up()

    def press(self, key: str, *keys: str) -> None:
        """Focus an element and press keys, one after the other."""
        self.at(key).focus()
        for name in keys:
            self.page.keyboard.press(name)

    def choose(self, text: str) -> None:
        """Choose a radio button by what stands on it."""
        self.page.locator(
            ".touch label", has_text=re.compile(f"^{re.escape(text)}$")
        ).click()

    def said(self) -> str:
        """What is said to all, and to a screen reader."""
        return str(self.page.locator(".touch-said").inner_text())

    def sum(self) -> str:
        """The arithmetic, with plain signs."""
        return str(self.page.locator(".touch-sum").inner_text()).replace(
            MINUS, "-"
        )


Open = Callable[..., Figure]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all figures."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_figure(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page with a figure, from a folder."""
    pages = []

    def open_it(
        figure: str,
        width: int = 390,
        theme: str = "light",
        reduced: bool = False,
        **values: Any,
    ) -> Figure:
        loaded = "".join(
            f'<script defer src="{ASSETS.as_uri()}/{name}"></script>'
            for name in scripts([figure])
        )
        path = tmp_path / "page.html"
        path.write_text(
            PAGE.format(
                theme=theme,
                assets=ASSETS.as_uri(),
                ground="#fff" if theme == "light" else "#121212",
                scripts=loaded,
                data=touch(figure, "Drag.", **values)._repr_html_(),
            )
        )
        page = browser.new_page(
            viewport={"width": width, "height": 844},
            reduced_motion="reduce" if reduced else "no-preference",
        )
        pages.append(page)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(message.text)
                if message.type == "error"
                else None
            ),
        )
        page.goto(path.as_uri())
        return Figure(page, errors)

    yield open_it
    for page in pages:
        page.close()


# --- the mechanism ----------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_travel_as_they_are(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    held = pack(array)
    again = np.frombuffer(base64.b64decode(held["base64"]), held["dtype"])
    assert np.array_equal(again.reshape(held["shape"]), array)


def test_an_array_that_javascript_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"complex128.*float32.*astype"):
        pack(np.zeros(3, complex))
    assert pack(np.zeros(3, complex).real.astype("f4"))["dtype"] == "float32"


def test_what_is_handed_over_cannot_end_its_script() -> None:
    text = touch("pencil", "</script><b>", x=np.ones(2))._repr_html_()
    assert text.count("</") == 1
    held = json.loads(text[text.index(">") + 1 : text.rindex("<")])
    assert held["hint"] == "</script><b>"
    assert held["values"]["x"]["shape"] == [2]


PENCIL = {"x": np.array([1, 2, 0, -1, 3]), "w": np.array([1, 2, -1])}
G = np.array([1, 2, 3])
ALL = {"pencil": {**PENCIL, "g": G}}


def test_the_still_figure_gives_way_and_keeps_its_caption(
    open_figure: Open,
) -> None:
    figure = open_figure("pencil", **PENCIL)
    still = figure.page.locator("figure img")
    assert not still.is_visible()
    assert figure.page.locator("figcaption p").first.is_visible()
    assert "Try it. Drag." in figure.page.locator("figcaption").inner_text()
    figure.page.emulate_media(media="print")
    assert not figure.page.locator(".touch").is_visible()
    assert figure.errors == []


def test_the_still_figure_stays_where_the_other_cannot_start(
    open_figure: Open,
) -> None:
    figure = open_figure("pencil", x="no array")
    assert figure.page.locator(".touch").count() == 0
    assert figure.page.locator("figure.touched").count() == 0
    assert len(figure.errors) == 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_each_figure_fits_and_can_be_read(
    open_figure: Open, name: str, theme: str, width: int
) -> None:
    figure = open_figure(name, width, theme, reduced=True, **ALL[name])
    page = figure.page
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    small = page.evaluate(
        """() => [...document.querySelectorAll(
          ".touch :is([tabindex], button, label)")]
          .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24)
          .map(([html]) => html)"""
    )
    assert small == []
    moving = page.evaluate(
        """() => [...document.querySelectorAll(".touch *")].filter(e =>
          parseFloat(getComputedStyle(e).transitionDuration) > 0).length"""
    )
    assert moving == 0
    found = Axe().run(page, options=AXE).response["violations"]
    assert [
        (v["id"], [n["html"][:90] for n in v["nodes"]]) for v in found
    ] == []


@pytest.mark.parametrize("name", ALL)
def test_each_figure_can_be_reached_and_left_with_tab(
    open_figure: Open, name: str
) -> None:
    page = open_figure(name, **ALL[name]).page
    stops = []
    for _ in range(30):
        page.keyboard.press("Tab")
        inside, stop = page.evaluate(
            """() => [!!document.activeElement.closest(".touch"),
              document.activeElement.dataset.key
              ?? document.activeElement.name]"""
        )
        if not inside:
            break
        stops.append(stop)
    assert 2 <= len(stops) <= 15
    assert len(set(stops)) == len(stops)


# --- the pencil -------------------------------------------------------------


def check_pencil(
    figure: Figure, x: Any, w: Any, g: Any = None, s: int = 1
) -> None:
    """What the figure shows is what NumPy says."""
    y = np.correlate(x, w, "valid")[::s]
    assert figure.numbers("x", 5) == list(x)
    assert figure.numbers("y", len(y)) == y.tolist()
    assert figure.at(f"y{len(y)}").count() == 0
    if g is not None:
        matrix = np.zeros((len(y), 5), int)
        for i in range(len(y)):
            matrix[i, s * i : s * i + 3] = w
        assert [
            figure.numbers(f"T{i}", 5) for i in range(len(y))
        ] == matrix.tolist()
        assert [
            figure.numbers(f"t{j}", len(y)) for j in range(5)
        ] == matrix.T.tolist()
        assert figure.numbers("d", 5) == (matrix.T @ g[: len(y)]).tolist()
    assert figure.errors == []


def test_pencil_forward_by_pointer(open_figure: Open) -> None:
    x, w = PENCIL["x"].copy(), PENCIL["w"].copy()
    figure = open_figure("pencil", **PENCIL)
    check_pencil(figure, x, w)
    figure.drag("x3", 4)
    x[3] += 4
    check_pencil(figure, x, w)
    figure.drag("T12", -3)  # the second place: w[1] is everywhere the same
    w[1] -= 3
    check_pencil(figure, x, w)
    figure.at("y2").click()
    assert figure.sum() == f"y\u2082 = 1·0 - 1·3 - 1·3 = {w @ x[2:]}"
    figure.at("more").click()
    w[1] += 1
    check_pencil(figure, x, w)
    figure.choose("2")
    check_pencil(figure, x, w, s=2)


def test_pencil_by_keys(open_figure: Open) -> None:
    x, w, g = (a.copy() for a in (*PENCIL.values(), G))
    figure = open_figure("pencil", 1200, **PENCIL, g=g)
    check_pencil(figure, x, w, g)
    figure.press("x0", "ArrowUp", "ArrowRight", "ArrowDown", "End")
    x[0], x[1] = 2, 9
    check_pencil(figure, x, w, g)
    figure.press("y0", "ArrowRight", "Enter")
    assert figure.at("y1").get_attribute("aria-pressed") == "true"
    figure.press("T11", "ArrowDown", "ArrowRight", "PageUp")
    w[0], w[1] = 0, 7
    check_pencil(figure, x, w, g)
    figure.press("g2", "Home")
    g[2] = -9
    check_pencil(figure, x, w, g)
    figure.press("d2", "Enter")
    assert figure.sum() == "∂L/∂x\u2082 = -1·1 + 7·2 + 0·(-9) = 13"
    assert "3 outputs, and hears 13" in figure.said()
    figure.page.locator("input[value='2']").focus()
    figure.page.keyboard.press("Space")
    check_pencil(figure, x, w, g, 2)


def test_pencil_writes_with_equals(open_figure: Open) -> None:
    figure = open_figure("pencil", **PENCIL, g=G)
    figure.choose("=")
    assert [figure.at(f"d{j}").inner_text() for j in range(5)] == ["?"] * 5
    figure.at("d0").click()
    assert "No: x\u2080 hears from one output only" in figure.said()
    # What is left is what the last window wrote.
    left = np.zeros(5, int)
    for i in range(3):
        left[i : i + 3] = G[i] * PENCIL["w"]
    assert figure.numbers("d", 5) == left.tolist()
    assert figure.page.locator(".touch .lost").count() == 4
    assert figure.page.locator(".touch .bad").count() == 3
    figure.at("d2").click()
    assert figure.sum().endswith("= 3")
    figure.choose("+=")
    check_pencil(figure, *PENCIL.values(), G)
