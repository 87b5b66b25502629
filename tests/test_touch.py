"""The figures that move, driven by pointer and by keys, against NumPy."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from book_touch import ASSETS, scripts
from browser import chromium, missing
from matplotlib.image import imread

from cnn import (
    SGD,
    Conv2d,
    Dataset,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    cross_entropy,
    cross_entropy_backward,
    load_dataset,
    max_pool2d,
    max_pool2d_backward,
    predict,
    softmax,
    train,
)
from cnn.back.touch import DTYPES, digit_pad, pack, touch
from cnn.windows import col2im, im2col, output_size


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

ROOT = Path(__file__).resolve().parents[1]

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

    def texts(self) -> dict[str, str]:
        """What each element of the board shows, with plain signs."""
        found = self.page.evaluate(
            """() => Object.fromEntries(
              [...document.querySelectorAll(".touch [data-key]")]
              .map(e => [e.dataset.key, e.textContent]))"""
        )
        return {k: v.replace(MINUS, "-") for k, v in found.items()}

    def number(self, key: str) -> float:
        """The number that an element shows."""
        return float(self.texts()[key])

    def numbers(self, key: str, count: int) -> list[float]:
        """The numbers key0, key1, ..."""
        texts = self.texts()
        return [float(texts[f"{key}{k}"]) for k in range(count)]

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

    def slide(self, name: str, value: float) -> None:
        """Move a slider to a value, by pointer as nearly as that can be."""
        slider = self.page.locator(f'.touch input[name^="{name}-"]')
        low, high = (float(slider.get_attribute(a)) for a in ("min", "max"))
        box = slider.bounding_box()
        share = (value - low) / (high - low)
        x = box["x"] + 8 + share * (box["width"] - 16)
        self.page.mouse.click(x, box["y"] + box["height"] / 2)
        for _ in range(40):  # a pixel may be more than a step
            now = float(slider.input_value())
            if now == value:
                return
            slider.press("ArrowRight" if now < value else "ArrowLeft")
        raise AssertionError(f"{name} does not reach {value}")

    def point(self, key: str, row: float, column: float, side: float) -> None:
        """Click a cell of a picture that is so many cells wide."""
        box = self.at(key).bounding_box()
        self.page.mouse.click(
            box["x"] + box["width"] * (column + 0.6) / (side + 0.2),
            box["y"] + box["height"] * (row + 0.6) / (side + 0.2),
        )

    def said(self) -> str:
        """What is said to all, and to a screen reader."""
        return str(self.page.locator(".touch-said").inner_text())

    def sum(self) -> str:
        """The arithmetic, with plain signs."""
        return str(self.page.locator(".touch-sum").inner_text()).replace(
            MINUS, "-"
        )


def from_power(text: str) -> float:
    """1.2e-9, from 1.2 times a power of ten as it is set."""
    head, _, tail = text.partition("\u00b710")
    low = str.maketrans(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b",
        "0123456789-",
    )
    return float(f"{head}e{tail.translate(low) or 0}")


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
WINDOWS = {"H": 6, "k": 3, "s": 2, "p": 0}
POOLING = {"x": np.random.default_rng(1).integers(-4, 5, (6, 6)) * 1.0}
STEP = {"steps": 10.0 ** np.linspace(-12, -0.5, 400)}
Z = np.array([0.2, -1.0, 1.4, 0.9, 0.0, 0.6, -0.3, 0.1, 1.1, -0.5])
LOGITS = {"z": Z, "label": 3}
BOWL = {
    "curvature": np.array([1.0, 9.0]),
    **{"start": [9, 1], "reach": [10, 4], "eta": 0.2, "steps": 20},
}
RNG = np.random.default_rng(0)
NETWORK = Sequential(
    Conv2d(1, 8, 3, rng=RNG),
    ReLU(),
    MaxPool2d(2),
    Flatten(),
    Linear(8 * 13 * 13, 10, rng=RNG),
)
for held in NETWORK.parameters()[1::2]:  # biases that can be missed
    held.value = RNG.standard_normal(held.value.shape).astype(np.float32)
DIGIT = {
    "parameters": [p.value for p in NETWORK.parameters()],
    "images": RNG.integers(0, 256, (3, 28, 28)).astype(np.uint8),
    **{"labels": [3, 1, 4], "mean": 33.3, "std": 78.6, "box": 20},
    **{"padding": 0, "pool": [2, 2]},
    **{
        "white": 255,
        "pen": 2.2,
        "by_mass": True,
        "names": [str(k) for k in range(10)],
    },
}
STEPS = np.arange(60)
BROKEN = {
    "losses": (
        2.3 * np.exp(-STEPS / np.array([[9], [12], [15], [30]]))
        + 0.2 * RNG.random((4, 60))
    ).astype(np.float32),
    "errors": np.array(
        [
            [3e-11, 2e-11, 1e-11],
            [0.7, 2e-11, 1e-11],
            [3e-11, 1e-2, 1e-11],
            [3e-11, 4e-10, 1e-11],
        ]
    ),
    "kinds": ["input", "weight", "bias"],
    "names": [
        "right layer",
        "matrix not transposed",
        "1 % long",
        "right layer",
    ],
    "over": 15,
}
START = {
    "x": RNG.standard_normal((6, 20)).astype(np.float32),
    "labels": [0, 1, 2, 3, 1, 0],
    **{"classes": 4, "units": 16, "sigma": 0.1, "depth": 10},
}
LUCK = {
    **{"share": 0.9, "m": 20, "n": 1000, "tau": 0},
    "chosen": np.array([0.5, 0.7, 0.65, 0.82, 0.8, 0.82, 0.79]),
    "fresh": np.array([0.52, 0.66, 0.7, 0.78, 0.81, 0.8, 0.8]),
    **{"gaps": np.arange(7) / 200, "splits": 2000},
}
# What is done to each, for a look at other states than the first.
MOVES: dict[str, list[tuple[Any, ...]]] = {
    "pencil": [("choose", "2"), ("choose", "="), ("press", "d2", "Enter")],
    "windows": [("slide", "H", 28), ("slide", "p", 3), ("slide", "k", 7)],
    "pooling": [("slide", "k", 4), ("slide", "p", 2), ("choose", "each")],
    "step": [("slide", "h", -12), ("choose", "1/x"), ("choose", "float32")],
    "logits": [("press", "times", "Enter", "Enter"), ("choose", "naive")],
    "bowl": [("slide", "eta", 0.24), ("slide", "lambda", 20)],
    "digit": [("press", "p3", "Enter"), ("press", "maps2", "ArrowUp")],
    "broken": [("press", "layer0", "Enter"), ("press", "check", "Enter")],
    "start": [
        *(("slide", "depth", 40), ("slide", "sigma", 1)),
        *(("slide", "sigma", -3), ("choose", "drawn"), ("choose", "He")),
    ],
    "luck": [
        *(("slide", "m", 11), ("slide", "n", 0)),
        *(("choose", "epochs of a run"), ("slide", "epoch", 1)),
    ],
}
ALL = {
    "pencil": {**PENCIL, "g": G},
    "windows": WINDOWS,
    "pooling": POOLING,
    "step": STEP,
    "logits": LOGITS,
    "bowl": BOWL,
    "digit": DIGIT,
    "broken": BROKEN,
    "start": START,
    "luck": LUCK,
}


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


def test_all_figures_together_are_light() -> None:
    """What moves in the whole book is at most 150 KB."""
    files = [
        ASSETS / "cnn.js",
        *ASSETS.glob("touch*.*"),
        *ASSETS.glob("touch/*"),
    ]
    sizes = {file.name: file.stat().st_size for file in files}
    assert len(sizes) >= 3 + len(ALL)
    assert sum(sizes.values()) <= 150_000, sizes


# What is cut at the edge of its picture, but for the dots of a walk.
CUT = """() => [...document.querySelectorAll(
  ".touch svg :is(text, rect), .touch-plot circle")].filter(e => {
    const [mine, whole] = [e, e.ownerSVGElement].map(
      e => e.getBoundingClientRect());
    return mine.left < whole.left - 2 || mine.right > whole.right + 2
      || mine.top < whole.top - 2 || mine.bottom > whole.bottom + 2;
  }).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_each_figure_fits_and_can_be_read(
    open_figure: Open, name: str, theme: str, width: int
) -> None:
    figure = open_figure(name, width, theme, reduced=True, **ALL[name])
    page = figure.page
    for move, *given in [("said",), *MOVES[name]]:
        getattr(figure, move)(*given)
        assert page.evaluate(CUT) == []
        wide = page.evaluate("document.scrollingElement.scrollWidth")
        assert wide <= width, (move, given)
    assert figure.errors == []
    page.reload()
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


def test_pencil_takes_what_is_clicked(open_figure: Open) -> None:
    figure = open_figure("pencil", **PENCIL)
    for key, said in (
        *(("x2", "x\u2082 has the weight -1 in y\u2080, 2 in y\u2081, 1 in"),),
        *(
            ("T11", "y\u2081 = "),
            ("x0", "x\u2080 has the weight 1 in y\u2080"),
        ),
    ):
        figure.at(key).click()
        assert figure.sum().startswith(said)
    figure = open_figure("pencil", **PENCIL, g=G)
    for key, said in (
        *(("x3", "∂L/∂x\u2083"), ("T21", "y\u2082"), ("t10", "∂L/∂x\u2081")),
        *(("g1", "y\u2081"), ("part22", "∂L/∂x\u2082"), ("y0", "y\u2080")),
        ("d4", "∂L/∂x\u2084"),
    ):
        figure.at(key).click()
        assert figure.sum().startswith(f"{said} = ")
    figure.drag("x0", 2)  # which is no click
    assert figure.sum().startswith("∂L/∂x\u2084")
    figure.press("x0", "Enter")
    assert figure.sum().startswith("∂L/∂x\u2080")
    index = figure.at("x3").evaluate(
        "e => getComputedStyle(e, '::after').content"
    )
    assert index == '"3"'
    assert figure.errors == []


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_the_longest_numbers_fit_the_pencil(
    open_figure: Open, width: int
) -> None:
    figure = open_figure("pencil", width, **PENCIL, g=G)
    for key in ("x0", "x1", "x2", "x3", "x4", "T00", "T01", "T02"):
        figure.press(key, "End")
    for key in ("g0", "g1", "g2"):
        figure.press(key, "Home")
    assert figure.numbers("d", 5) == [-81, -162, -243, -162, -81]
    spilt = figure.page.evaluate(
        """() => [...document.querySelectorAll(".touch-cell")].filter(e => {
          const range = document.createRange();
          range.selectNodeContents(e);
          const [text, cell] = [range, e].map(e => e.getBoundingClientRect());
          return text.left < cell.left || text.right > cell.right;
        }).map(e => e.textContent)"""
    )
    assert spilt == []


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
    assert figure.sum().endswith("\u2192 1\u00b73 = 3")
    assert "3 outputs, and keeps what the last one sent; += gave 6." in (
        figure.said()
    )
    assert "No" not in figure.said()  # that was said of another guess
    figure.choose("+=")
    check_pencil(figure, *PENCIL.values(), G)
    assert figure.sum().endswith("= 6")  # still the one that was picked
    figure.choose("2")
    figure.choose("=")
    figure.at("d2").click()
    assert "Right: x\u2082 hears from 2 outputs" in figure.said()


# --- how many windows fit ----------------------------------------------------


def check_windows(figure: Figure, h: int, k: int, s: int, p: int) -> None:
    """Count, sum, and how often each cell is read, as im2col reads them."""
    side, count = h + 2 * p, output_size((h, h), k, s, p)[0]
    assert figure.number("size") == count
    assert figure.sum() == (
        f"H\u2032 = \u230a({h} + 2·{p} - {k}) / {s}\u230b + 1 = "
        f"\u230a{round((side - k) / s, 2):g}\u230b + 1 = {count}"
    )
    read = col2im(
        im2col(np.ones((1, 1, side, side)), k, s), (1, 1, side, side), k, s
    )[0, 0]
    if side <= 12:
        texts = figure.texts()
        shown = [
            [float(texts.get(f"n{a}-{b}", 0)) for b in range(side)]
            for a in range(side)
        ]
        assert np.array_equal(shown, read)
    crosses = figure.at("crosses").get_attribute("d") or ""
    assert crosses.count("M") == (read == 0).sum()
    lost = [a for a in range(h) if not read[a + p].any()]
    if lost:
        assert str(lost[-1]) in figure.said()
        assert "read by no window, gradient 0" in figure.said()
    else:
        assert "gradient" not in figure.said()
    assert figure.errors == []


def test_windows_by_pointer(open_figure: Open) -> None:
    figure = open_figure("windows", **WINDOWS)
    check_windows(figure, 6, 3, 2, 0)
    figure.point("image", 2, 3, 6)
    assert figure.said() == (
        "Pixel (2, 3) is read by 2 windows: "
        "i = 0 at u = 2, i = 1 at u = 0; j = 1 at v = 1."
    )
    figure.point("image", 5, 0, 6)
    assert "(5, 0) is read by no window: its gradient is 0" in figure.said()
    figure.slide("H", 28)
    check_windows(figure, 28, 3, 2, 0)
    assert "Row 27 of the image" in figure.said()
    figure.slide("p", 1)
    check_windows(figure, 28, 3, 2, 1)
    assert "frame: no pixel is lost" in figure.said()


def test_windows_by_keys(open_figure: Open) -> None:
    figure = open_figure("windows", 1200, **WINDOWS)
    figure.press("output", "ArrowDown", "ArrowRight")
    assert figure.said().startswith("Window (1, 1) reads rows 2 to 4")
    figure.press("image", "ArrowUp", "ArrowDown", "ArrowRight")
    assert figure.said().startswith("Pixel (1, 1) is read by 1 window")
    for name, value in (("k", 2), ("s", 3), ("H", 7), ("p", 1)):
        slider = figure.page.locator(f'input[name^="{name}-"]')
        slider.focus()
        now = int(slider.input_value())
        for _ in range(abs(value - now)):
            figure.page.keyboard.press(
                "ArrowRight" if value > now else "ArrowLeft"
            )
    check_windows(figure, 7, 2, 3, 1)
    figure.slide("H", 1)
    figure.slide("k", 7)
    assert "do not fit" in figure.sum()
    assert figure.errors == []


# --- the pooling board -----------------------------------------------------


def pooled(
    x: np.ndarray, k: int, s: int, p: int, ties: str, frame: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each window's largest number, and what a 1 from each adds up to."""
    wide = np.pad(x, p, constant_values=frame)
    grad = np.zeros_like(wide)
    size = (len(wide) - k) // s + 1
    y = np.zeros((size, size))
    for i, j in np.ndindex(y.shape):
        window = np.s_[i * s : i * s + k, j * s : j * s + k]
        y[i, j] = wide[window].max()
        wins = (wide[window] == y[i, j]) * 1.0
        if ties == "first":
            wins[...] = np.arange(k * k).reshape(k, k) == wins.argmax()
        grad[window] += wins / (wins.sum() if ties == "shared" else 1)
    return y, grad


def check_pooling(
    figure: Figure,
    x: np.ndarray,
    k: int = 2,
    s: int = 2,
    p: int = 0,
    ties: str = "first",
    frame: float = -np.inf,
) -> None:
    """Map, outputs, what arrives, and the ledger."""
    y, grad = pooled(x, k, s, p, ties, frame)
    texts = figure.texts()
    for (i, j), value in np.ndenumerate(y):
        assert float(texts[f"y{i} {j}"]) == value
    assert f"y{len(y)} 0" not in texts
    for (a, b), value in np.ndenumerate(grad):
        shown = texts.get(f"d{a - p} {b - p}", "0")
        assert float(shown) == pytest.approx(value, abs=0.006)
    inside = grad[p : p + len(x), p : p + len(x)].sum()
    assert float(texts["arrived"]) == pytest.approx(inside, abs=0.006)
    lost = grad.sum() - inside
    assert float(texts.get("lost", 0)) == pytest.approx(lost, abs=0.006)
    if ties == "first" and frame == -np.inf:  # as the package has it
        image = x[np.newaxis, np.newaxis]
        mine = max_pool2d(image, k, s, p)
        back = max_pool2d_backward(np.ones_like(mine), image, mine, k, s, p)
        assert np.array_equal(mine[0, 0], y)
        assert np.array_equal(back[0, 0], grad[p : p + len(x), p : p + len(x)])
    assert figure.errors == []


def test_pooling_by_pointer(open_figure: Open) -> None:
    x = POOLING["x"].copy()
    figure = open_figure("pooling", **POOLING)
    check_pooling(figure, x)
    figure.drag("x8", 6)
    x[1, 2] += 6
    check_pooling(figure, x)
    figure.choose("each")
    check_pooling(figure, x, ties="all")
    paid = pooled(x, 2, 2, 0, "all", -np.inf)[1].sum()
    assert f"In all, {paid:g} is paid" in figure.said()
    figure.choose("in shares")
    check_pooling(figure, x, ties="shared")
    figure.slide("k", 3)
    figure.slide("s", 1)
    check_pooling(figure, x, 3, 1, ties="shared")
    figure.choose("the first")
    figure.slide("p", 1)
    check_pooling(figure, x, 3, 1, 1)
    figure.at("y1 2").click()
    assert figure.said().startswith("Window (1, 2): the largest is")


def test_pooling_by_keys(open_figure: Open) -> None:
    x = -np.abs(POOLING["x"]) - 1
    figure = open_figure("pooling", 1200, x=x)
    x = x.copy()
    figure.press("x0", "+", "ArrowRight", "PageDown")
    x[0, 0] += 1
    x[0, 1] -= 5
    check_pooling(figure, x)
    figure.press("x1", "ArrowDown", "-", "ArrowLeft", "ArrowUp", "ArrowUp")
    x[1, 1] -= 1  # then left, up, and over the edge to the last row
    figure.page.keyboard.press("PageUp")
    x[5, 0] += 5
    check_pooling(figure, x)
    figure.press("y0 0", "ArrowDown", "ArrowRight", "ArrowUp", "Enter")
    assert figure.at("y0 1").get_attribute("aria-pressed") == "true"
    figure.page.locator("input[name^='p-']").press("ArrowRight")
    check_pooling(figure, x, p=1)
    figure.page.locator("input[value='0'][type='radio']").press("Space")
    check_pooling(figure, x, p=1, frame=0)
    assert "sent to the frame is lost" in figure.said()
    assert figure.said().startswith("Window (0, 1)")  # still the one picked
    figure.press("again", "Enter")
    check_pooling(figure, -np.abs(POOLING["x"]) - 1)


@pytest.mark.parametrize("width", [390, 1200])
def test_what_sets_the_pooling_board_has_a_name_and_a_place(
    open_figure: Open, width: int
) -> None:
    figure = open_figure("pooling", width, **POOLING)
    for name in ("window k", "stride s", "padding p"):
        assert figure.page.get_by_role("slider", name=name).count() == 1
    places = """() => [...document.querySelectorAll(
      ".touch-controls > *, .touch-controls label")].map(e => {
        const { left, top, width, height } = e.getBoundingClientRect();
        return [left, top, width, height]; })"""
    first = figure.page.evaluate(places)
    for move, *given in (
        *(("slide", "k", 4), ("slide", "p", 2), ("slide", "s", 1)),
        *(("choose", "each"), ("choose", "0"), ("press", "x0", "Home")),
    ):
        getattr(figure, move)(*given)
        assert figure.page.evaluate(places) == first


# --- the step h ------------------------------------------------------------


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "x\u00b3": (lambda x: x * x * x, 1, 3),
    "1/x": (lambda x: 1 / x, 1, -1),
    "\u221ax": (np.sqrt, 2, 0.5 / np.sqrt(2)),
    "ReLU at 0": (lambda x: np.maximum(x, 0), 0, 0.5),
}


def check_step(
    figure: Figure, exponent: float, name: str, dtype: type
) -> None:
    """Slope and error are NumPy's, to the last digit that is shown."""
    f, at, truth = FUNCTIONS[name]
    x, h = dtype(at), dtype(10.0**exponent)
    slope = (f(x + h) - f(x - h)) / dtype(2 * h)
    digits = 8 if dtype is np.float32 else 16
    assert figure.number("slope") == float(f"{slope:.{digits}g}")
    error = abs(float(slope) - truth)
    shown = figure.texts()["error"]
    if error == 0:
        assert shown == "0"
    else:
        assert from_power(shown) == pytest.approx(error, rel=0.06)
    assert figure.errors == []


def test_step_by_pointer(open_figure: Open) -> None:
    figure = open_figure("step", **STEP)
    check_step(figure, -1, "x\u00b3", np.float64)
    for exponent in (-3, -5.2, -9):
        figure.slide("h", exponent)
        check_step(figure, exponent, "x\u00b3", np.float64)
    figure.choose("1/x")
    figure.choose("float32")
    check_step(figure, -9, "1/x", np.float32)
    assert "the step is lost" in figure.said()
    box = figure.at("errors").bounding_box()
    figure.page.mouse.move(box["x"] + 20, box["y"] + 40)
    figure.page.mouse.down()
    figure.page.mouse.move(
        box["x"] + box["width"] * 236.5 / 320, box["y"] + 50, steps=5
    )
    figure.page.mouse.up()
    slider = figure.page.locator(".touch input[name^='h-']")
    check_step(figure, float(slider.input_value()), "1/x", np.float32)
    assert float(slider.input_value()) == pytest.approx(-3, abs=0.2)


def test_step_by_keys(open_figure: Open) -> None:
    figure = open_figure("step", 1200, **STEP)
    slider = figure.page.locator(".touch input[name^='h-']")
    for _ in range(15):
        slider.press("ArrowLeft")
    check_step(figure, -2.5, "x\u00b3", np.float64)
    figure.page.locator("input[value='float32']").press("Space")
    figure.page.locator("input[value='root']").press("Space")
    check_step(figure, -2.5, "\u221ax", np.float32)
    figure.page.locator("input[value='relu']").press("Space")
    check_step(figure, -2.5, "ReLU at 0", np.float32)
    assert figure.number("slope") == 0.5
    assert "1/2" in figure.said()


# --- ten logits -------------------------------------------------------------


def check_logits(figure: Figure, z: np.ndarray, label: int) -> None:
    """Probabilities, pushes and loss, as the package computes them."""
    p = softmax(z[np.newaxis])[0]
    texts = figure.texts()
    for k in range(10):
        push = (k == label) - p[k]
        assert float(texts[f"p{k} text"]) == pytest.approx(p[k], abs=0.0051)
        assert float(texts[f"push{k} text"]) == pytest.approx(push, abs=0.0051)
    loss = cross_entropy(z[np.newaxis], np.array([label]))
    assert float(texts["loss"]) == pytest.approx(loss, abs=0.0006, rel=1e-6)
    assert float(texts["total"]) == 0
    assert figure.errors == []


def test_logits_by_pointer(open_figure: Open) -> None:
    z = Z.copy()
    figure = open_figure("logits", **LOGITS)
    check_logits(figure, z, 3)
    figure.drag("z3", 12)
    z[3] += 1.2
    check_logits(figure, z, 3)
    figure.at("class8").click()
    check_logits(figure, z, 8)
    figure.at("plus").click()
    check_logits(figure, z, 8)  # nothing changes
    assert figure.number("z8") == pytest.approx(2.1)
    figure.at("times").click()
    figure.at("times").click()
    check_logits(figure, 100 * (z + 1), 8)
    figure.choose("naive")
    assert figure.texts()["loss"] == "nan"
    assert "overflowed" in figure.said()
    figure.at("level").click()
    check_logits(figure, np.zeros(10), 8)
    assert figure.texts()["loss"] == "2.303"
    figure.at("again").click()
    check_logits(figure, Z, 3)


def test_logits_by_keys(open_figure: Open) -> None:
    figure = open_figure("logits", 1200, **LOGITS)
    figure.press("z0", "ArrowUp", "ArrowRight", "PageDown")
    z = Z.copy()
    z[0] += 0.1
    z[1] -= 0.5
    check_logits(figure, z, 3)
    figure.press("class3", "ArrowRight", "Enter")
    check_logits(figure, z, 4)
    figure.press("level", "Enter")
    figure.page.locator("input[value='naive']").press("Space")
    figure.press("z0", *["PageUp"] * 177)  # 88.5
    assert figure.texts()["loss"] not in ("nan", "inf")
    figure.press("z0", "PageUp")  # 89: float32's exp ends at 88.7
    assert figure.texts()["loss"] in ("nan", "inf")
    figure.page.locator("input[value='float64']").press("Space")
    assert figure.texts()["loss"] not in ("nan", "inf")


# --- the bowl ---------------------------------------------------------------


def check_bowl(
    figure: Figure,
    eta: float,
    start: tuple[float, float] = (9, 1),
    steps: int = 20,
    curvature: tuple[float, float] = (1, 9),
    momentum: float = 0.0,
) -> None:
    """The walk is NumPy's, and so are its factors and its cliff."""
    bend, place = np.array(curvature, float), np.array(start, float)
    path, velocity = [place], np.zeros(2)
    for _ in range(steps):
        velocity = momentum * velocity + bend * path[-1]
        path.append(path[-1] - eta * velocity)
    points = figure.at("walk").get_attribute("points").split()
    shown = np.array([[float(v) for v in p.split(",")] for p in points])
    assert np.allclose(
        (shown - [20.5, 10.5]) * [0.5, -0.4], np.array(path), atol=1e-9
    )
    for k in range(2):
        root = np.roots([1, eta * bend[k] - 1 - momentum, momentum])
        kept = np.abs(root).max() if momentum else 1 - eta * bend[k]
        assert figure.number(f"factor{k}") == pytest.approx(kept, abs=0.0051)
    settles = eta < 2 * (1 + momentum) / max(curvature)
    assert ("settles" if settles else "grows") in figure.said()
    assert figure.errors == []


def test_bowl_by_pointer(open_figure: Open) -> None:
    figure = open_figure("bowl", **BOWL)
    check_bowl(figure, 0.2)
    figure.slide("eta", 0.23)
    check_bowl(figure, 0.23)
    figure.at("again").click()
    for _ in range(3):
        figure.at("next").click()
    check_bowl(figure, 0.23, steps=3)
    box = figure.at("bowl").bounding_box()
    figure.page.mouse.click(
        box["x"] + box["width"] * 8.5 / 41, box["y"] + box["height"] * 4.5 / 21
    )
    check_bowl(figure, 0.23, (-6, 2.4), 3)
    figure.slide("lambda", 4)
    check_bowl(figure, 0.23, (-6, 2.4), 3, (1, 4))


def test_bowl_by_keys(open_figure: Open) -> None:
    figure = open_figure("bowl", 1200, **BOWL, momentum=0.8)
    check_bowl(figure, 0.2, momentum=0.8)
    figure.press("bowl", "ArrowLeft", "ArrowDown")
    check_bowl(figure, 0.2, (8.5, 0.4), momentum=0.8)
    slider = figure.page.locator("input[name^='momentum-']")
    for _ in range(16):
        slider.press("ArrowLeft")
    check_bowl(figure, 0.2, (8.5, 0.4))
    figure.press("again", "Enter")
    figure.press("next", "Enter", "Enter")
    check_bowl(figure, 0.2, (8.5, 0.4), 2)


# --- draw a digit -----------------------------------------------------------


def seen_by(figure: Figure) -> np.ndarray:
    """The pixels that the network is given, 0..255."""
    alpha = figure.page.evaluate(
        """() => [...document.querySelector("canvas[data-key=seen]")
          .getContext("2d").getImageData(0, 0, 28, 28).data]
          .filter((_, a) => a % 4 === 3)"""
    )
    return np.array(alpha, float).reshape(28, 28)


def check_digit(figure: Figure, pixels: np.ndarray, least: float) -> None:
    """The logits are the package's, and so are the bars."""
    x = (pixels - DIGIT["mean"]) / DIGIT["std"]
    z = NETWORK.to(np.float64).forward(x[np.newaxis, np.newaxis])
    shown = [
        float(figure.at(f"class{k}").get_attribute("title").split()[1])
        for k in range(10)
    ]
    assert np.allclose(shown, z[0], rtol=0, atol=least)
    texts = figure.texts()
    for k, p in enumerate(softmax(np.array([shown]))[0]):
        assert float(texts[f"p{k}"]) == pytest.approx(p, abs=0.0051)
    assert figure.errors == []


def test_digit_shows_images_and_shifts_them_by_keys(open_figure: Open) -> None:
    figure = open_figure("digit", **DIGIT)
    images = DIGIT["images"].astype(float)
    check_digit(figure, images[0], 1e-6)
    figure.press("pad", "ArrowDown", "ArrowRight", "ArrowRight")
    moved = np.zeros((28, 28))
    moved[1:, 2:] = images[0][:-1, :-2]
    check_digit(figure, moved, 1e-6)
    assert np.abs(seen_by(figure) - moved).max() <= 1
    figure.press("image0", "ArrowRight", "Enter")
    check_digit(figure, images[1], 1e-6)
    figure.at("image2").click()
    check_digit(figure, images[2], 1e-6)
    assert figure.at("image2").get_attribute("aria-pressed") == "true"
    figure.press("clear", "Enter")
    check_digit(figure, np.zeros((28, 28)), 1e-6)
    assert "Nothing is on the pad" in figure.said()


@pytest.mark.parametrize(("size", "at"), [(0.2, 0.1), (0.5, 0.4), (0.9, 0)])
def test_digit_is_scaled_and_centred_as_drawn_by_pointer(
    open_figure: Open, size: float, at: float
) -> None:
    figure = open_figure("digit", **DIGIT)
    figure.at("clear").click()
    figure.at("pad").scroll_into_view_if_needed()
    box = figure.at("pad").bounding_box()
    mouse = figure.page.mouse
    for stroke in ([(0, 0), (0, 1)], [(0, 1), (0.5, 1)]):  # an L
        places = [
            (
                box["x"] + box["width"] * (at + 0.05 + size * x),
                box["y"] + box["height"] * (at + 0.05 + size * y),
            )
            for x, y in stroke
        ]
        mouse.move(*places[0])
        mouse.down()
        mouse.move(*places[1], steps=6)
        mouse.up()
    seen = seen_by(figure)
    rows, columns = (np.flatnonzero(seen.max(axis=a) > 100) for a in (1, 0))
    assert abs(rows[-1] - rows[0] + 1 - 20) <= 1
    assert abs(columns[-1] - columns[0] + 1 - 11) <= 1.5
    grid = np.arange(28) + 0.5
    assert seen.sum(axis=1) @ grid / seen.sum() == pytest.approx(14, abs=0.1)
    assert seen.sum(axis=0) @ grid / seen.sum() == pytest.approx(14, abs=0.1)
    check_digit(figure, seen, 0.2)  # a canvas keeps alpha to one of 255


def test_digit_takes_a_number_apart(open_figure: Open) -> None:
    figure = open_figure("digit", **DIGIT)
    image = DIGIT["images"][:1].astype(float)
    arrays = [(image[np.newaxis] - DIGIT["mean"]) / DIGIT["std"]]
    for layer in NETWORK.to(np.float64).layers:
        arrays.append(layer.forward(arrays[-1]))
    for layer, y in enumerate(arrays[1:4]):
        rows, columns = y.shape[2:]
        box = figure.at(f"map{layer} 6").bounding_box()
        figure.page.mouse.click(
            box["x"] + box["width"] * 9.5 / columns,
            box["y"] + box["height"] * 4.5 / rows,
        )
        for row, column, key in ((4, 9, "ArrowDown"), (5, 9, "ArrowLeft")):
            assert figure.number("made") == pytest.approx(
                y[0, 6, row, column], abs=0.0006
            )
            figure.page.keyboard.press(key)
        assert figure.number("made") == pytest.approx(
            y[0, 6, 5, 8], abs=0.0006
        )
        assert figure.sum().count("·") == (9 if layer == 0 else 0)
        # The window on the image, and for a pooled number its winner's.
        row, column = 5, 8
        if layer == 2:
            tile = arrays[2][0, 6, 10:12, 16:18]
            row, column = np.add((10, 16), np.divmod(tile.argmax(), 2))
        style = figure.at("seen box").locator(".touch-mark")
        top, left, height = (
            float(style.evaluate(f"e => parseFloat(e.style.{side})"))
            for side in ("top", "left", "height")
        )
        assert np.allclose(
            np.array([top, left, height]) * 0.28, [row, column, 3], atol=1e-3
        )
    figure.at("p3").click()
    assert figure.number("made") == pytest.approx(arrays[5][0, 3], abs=6e-4)
    figure.press("p3", "ArrowRight", "Enter")
    assert figure.number("made") == pytest.approx(arrays[5][0, 4], abs=6e-4)
    assert figure.sum().count("(map ") == 8
    figure.press("maps1", "ArrowUp", *["ArrowRight"] * 27)  # to map 1
    assert figure.number("made") == pytest.approx(
        arrays[2][0, 1, 0, 1], abs=6e-4
    )
    assert figure.errors == []


def test_digit_reads_with_other_sizes(open_figure: Open) -> None:
    rng = np.random.default_rng(2)
    network = Sequential(
        *(Conv2d(1, 10, 5, padding=2, rng=rng), ReLU(), MaxPool2d(4, 3)),
        *(Flatten(), Linear(10 * 9 * 9, 10, rng=rng)),
    )
    images = rng.standard_normal((2, 1, 28, 28)).astype(np.float32)
    data = Dataset(
        *("mnist", images, np.array([3, 1]), tuple(DIGIT["names"]), 100, 20)
    )
    values = digit_pad("Draw.", network, data).values
    figure = open_figure("digit", **values)
    figure.press("image0", "ArrowRight", "Enter")
    x = (values["images"][1:2, np.newaxis].astype(float) - 100) / 20
    features = Sequential(*network.to(np.float64).layers[:4]).forward(x)
    z = network.forward(x)
    for k in range(10):
        logit = figure.at(f"class{k}").get_attribute("title").split()[1]
        assert float(logit) == pytest.approx(z[0, k], abs=1e-6)
    assert figure.page.locator(".touch-maps canvas").count() == 3 * 8
    weight = network.parameters()[2].value
    for k in range(10):
        figure.at(f"p{k}").click()
        assert figure.number("made") == pytest.approx(z[0, k], abs=6e-4)
        parts = re.findall(r"([-+]) ([\d.]+) \((.*?)\)", figure.sum())
        # It is the three maps that add or take most, and what the rest adds.
        added = (features * weight[k]).reshape(10, 81).sum(axis=1)
        order = np.argsort(-np.abs(added))
        shares = [*added[order[:3]], added[order[3:]].sum()]
        names = [*(f"map {m}" for m in order[:3]), "7 others"]
        assert [name for *_, name in parts] == names
        shown = [float(sign + size) for sign, size, _ in parts]
        assert np.allclose(shown, shares, rtol=0, atol=0.0051)
    assert figure.errors == []


@pytest.fixture(scope="module")
def reader() -> tuple[Sequential, Dataset]:
    """A network that has learned to read, and 300 images it has not seen."""
    training, _, test = load_dataset()
    rng, side = np.random.default_rng(0), training.images.shape[2]
    network = Sequential(
        *(Conv2d(1, 8, 3, rng=rng), ReLU(), MaxPool2d(2), Flatten()),
        Linear(8 * ((side - 2) // 2) ** 2, 10, rng=rng),
    )
    optimizer, few = SGD(network.parameters(), 0.01, 0.9), slice(3000)
    train(
        *(network, optimizer, training.subset(few), test.subset(slice(10))),
        **{"epochs": 3 if side == 28 else 10, "batch_size": 32, "rng": rng},
    )
    return network, test.subset(slice(300))


def test_digit_reads_300_images_through_its_canvas(
    open_figure: Open, reader: tuple[Sequential, Dataset]
) -> None:
    network, data = reader
    figure = open_figure("digit", **digit_pad("", network, data).values)
    seen = figure.page.evaluate(
        """() => [...document.querySelectorAll(".touch-thumb")].map(thumb => {
          thumb.click();
          const canvas = document.querySelector("canvas[data-key=seen]");
          const { data } = canvas.getContext("2d").getImageData(
            0, 0, canvas.width, canvas.height);
          return [data.filter((_, a) => a % 4 === 3).join(" "),
            [...document.querySelectorAll("[title^=logit]")].map(
              e => Number(e.title.split(" ")[1]))];
        })"""
    )
    z = predict(network.to(np.float64), data.images.astype(np.float64))
    assert np.abs(np.array([logits for _, logits in seen]) - z).max() < 1e-4
    side, white = (
        data.images.shape[2],
        16 if data.images.shape[2] == 8 else 255,
    )
    alpha = np.array([a.split() for a, _ in seen], float)
    x = (alpha.reshape(-1, 1, side, side) * white / 255 - data.mean) / data.std
    again = predict(network, x).argmax(axis=1)
    assert (again == z.argmax(axis=1)).sum() >= 298
    assert (again == data.labels).mean() > 0.85
    assert figure.errors == []


def test_digit_is_saved_as_a_png(
    open_figure: Open, reader: tuple[Sequential, Dataset], tmp_path: Path
) -> None:
    network, data = reader
    values = digit_pad("", network, data.subset(slice(2))).values
    figure = open_figure("digit", **values)
    with figure.page.expect_download() as download:
        figure.press("save", "Enter")
    download.value.save_as(tmp_path / "digit.png")
    grey = imread(tmp_path / "digit.png")
    assert np.ptp(grey[..., :3], axis=2).max() == 0
    expected = values["images"][0] / values["white"]
    assert np.abs(grey[..., 0] - expected).max() < 1 / 255
    assert figure.errors == []


def arc(x: float, y: float, a: float, b: float, *turns: float) -> np.ndarray:
    """Points of an ellipse around (x, y), from one angle in turns to one."""
    t = 2 * np.pi * np.linspace(*turns, 13)
    return np.array([x + a * np.cos(t), y + b * np.sin(t)]).T


# The ten digits as a hand draws them, in a box of 1 by 1, y downwards.
STROKES: list[list[Any]] = [
    [arc(0.5, 0.5, 0.3, 0.5, 0.75, -0.25)],
    [[(0.55, 0), (0.45, 1)]],
    [[*arc(0.5, 0.27, 0.3, 0.27, 0.5, 1.1), (0.2, 1), (0.85, 0.97)]],
    [
        [
            *arc(0.45, 0.25, 0.28, 0.25, 0.55, 1.2),
            *arc(0.45, 0.73, 0.33, 0.27, 0.75, 1.45),
        ]
    ],
    [[(0.25, 0), (0.2, 0.55), (0.8, 0.52)], [(0.7, 0.1), (0.65, 1)]],
    [
        [
            (0.75, 0),
            (0.3, 0.03),
            (0.27, 0.42),
            *arc(0.45, 0.7, 0.3, 0.3, 0.7, 1.4),
        ]
    ],
    [[(0.6, 0), (0.35, 0.35), *arc(0.5, 0.74, 0.27, 0.26, 0.5, -0.6)]],
    [[(0.2, 0.03), (0.8, 0), (0.4, 1)]],
    [
        [
            *arc(0.5, 0.25, 0.22, 0.25, 0.25, 1.25),
            *arc(0.5, 0.75, 0.27, 0.25, 0.75, -0.25),
        ]
    ],
    [[*arc(0.5, 0.27, 0.25, 0.27, 1, 0), (0.75, 0.27), (0.65, 1)]],
]


def test_digit_reads_what_is_drawn_on_the_built_page(browser: Any) -> None:
    site = ROOT / "_build" / "html" / "index.html"
    if not site.is_file():
        missing("no site: build the book first")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(site.as_uri())
    figure = Figure(page, [])
    right = 0
    for size, left, top in (
        (0.3, 0.65, 0.1),
        (0.5, 0.05, 0.4),
        (0.8, 0.1, 0.1),
    ):
        for digit, strokes in enumerate(STROKES):
            figure.at("clear").click()
            figure.at("pad").scroll_into_view_if_needed()
            box = figure.at("pad").bounding_box()
            corner = np.array([box["x"], box["y"]])
            for stroke in strokes:
                places = corner + box["width"] * (
                    np.array([left, top]) + size * np.array(stroke)
                )
                page.mouse.move(*places[0])
                page.mouse.down()
                for place in places[1:]:
                    page.mouse.move(*place)
                page.mouse.up()
            right += f"says {digit}," in figure.said()
    page.close()
    assert right >= 27


# --- which layer is broken? --------------------------------------------------


def check_broken(figure: Figure, picked: set[int], checked: bool) -> None:
    """Curves, ends, errors and the score are NumPy's."""
    losses, errors = BROKEN["losses"], BROKEN["errors"]
    window = np.ones(15) / 15
    smooth = [np.convolve(loss, window, "valid") for loss in losses]
    texts = figure.texts()
    wrong = set(np.flatnonzero((errors > 1e-4).any(axis=1)).tolist())
    for k, curve in enumerate(smooth):
        points = figure.page.locator(
            f'[data-key="layer{k}"] polyline[data-key="own"]'
        ).get_attribute("points")
        drawn = np.array([p.split(",") for p in points.split()], float)
        assert np.allclose(drawn[:, 0], np.arange(46) / 45 * 150, atol=0.1)
        scale = 74 / max(c[0] for c in smooth)
        assert np.allclose(78 - drawn[:, 1], curve * scale, atol=0.1)
        assert f"ends at {curve[-1]:.3f}" in texts[f"layer{k}"]
        if not checked:
            continue
        for name, error in zip(BROKEN["kinds"], errors[k], strict=True):
            shown = from_power(texts[f"e{k}{name}"])
            assert shown == pytest.approx(error, rel=0.5)
        verdict = {
            (True, True): "found",
            (True, False): "accused wrongly",
            (False, True): "missed",
            (False, False): "rightly spared",
        }[k in picked, k in wrong]
        assert texts[f"verdict{k}"] == verdict
        assert texts[f"name{k}"] == BROKEN["names"][k]
    if checked:
        assert int(texts["found"]) == len(picked & wrong)
        assert int(texts["accused"]) == len(picked - wrong)
        ends = [c[-1] for c in smooth]
        least = min(ends[k] for k in range(len(ends)) if k not in wrong)
        low = [str(k + 1) for k in sorted(wrong) if ends[k] < least]
        said = f"each right layer: {', '.join(low) or 'none'}. The numbers"
        assert said in figure.said()
        gap = re.search(r"most (\S+), of wrong ones at least", figure.said())
        assert from_power(gap[1]) == pytest.approx(
            errors[errors < 1e-4].max(), rel=0.5
        )
    else:
        assert int(texts["picked"]) == len(picked)
    assert figure.errors == []


def test_broken_by_pointer(open_figure: Open) -> None:
    figure = open_figure("broken", **BROKEN)
    check_broken(figure, set(), False)
    figure.at("check").click()
    assert figure.said().startswith("Guess first")
    for k in (3, 1, 0, 0):  # the last one is taken back
        figure.at(f"layer{k}").click()
    check_broken(figure, {1, 3}, False)
    assert figure.at("layer3").get_attribute("aria-pressed") == "true"
    figure.at("check").click()
    check_broken(figure, {1, 3}, True)
    # The verdict is in sight, wherever on the screen the button was.
    button, verdict = (
        figure.page.locator(e).bounding_box()
        for e in ('[data-key="check"]', ".touch-sum")
    )
    assert 0 < verdict["y"] - button["y"] < 60
    figure.at("check").click()
    check_broken(figure, set(), False)


def test_broken_by_keys(open_figure: Open) -> None:
    figure = open_figure("broken", 1200, **BROKEN)
    figure.press("layer0", "ArrowRight", "Enter", "ArrowDown", " ")
    check_broken(figure, {1, 2}, False)
    figure.press("layer3", "ArrowRight", " ", "ArrowLeft", " ")  # round
    check_broken(figure, {0, 1, 2, 3}, False)
    figure.press("layer0", " ", "ArrowUp", "Enter")
    check_broken(figure, {1, 2}, False)
    figure.press("check", "Enter")
    check_broken(figure, {1, 2}, True)


# --- scale and depth of the start --------------------------------------------


def dice(seed: int, count: int) -> np.ndarray:
    """The normal numbers of touch.dice, as figures seed them."""
    a, c = np.uint32(1664525), np.uint32(1013904223)
    powers = np.cumprod(np.full(12 * count, a), dtype=np.uint32)
    sums = np.cumsum(np.append(np.uint32(1), powers[:-1]), dtype=np.uint32)
    states = powers * np.uint32(7919 * seed) + c * sums  # modulo 2**32
    normal: np.ndarray = (states / 2**32).reshape(count, 12).sum(axis=1) - 6
    return normal


def test_the_dice_are_normal() -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        drawn = dice(seed, 4000)
        assert stats.kstest(drawn, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.05
    firsts = [dice(seed, 1)[0] for seed in range(2000)]
    assert stats.kstest(firsts, "norm").pvalue > 1e-3


def stack(
    std: Callable[[int, int], float], depth: int, relu: bool, biases: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The size of y and of dL/dy in each layer, by the package."""
    x, up, down, layers = START["x"].astype(float), [], [], []
    for n in range(depth):
        m = START["classes"] if n == depth - 1 else START["units"]
        layer = Linear(x.shape[1], m, rng=np.random.default_rng(0))
        layer.to(np.float64)
        drawn, scale = dice(n, m * x.shape[1] + m), std(x.shape[1], m)
        layer.weight.value = scale * drawn[:-m].reshape(m, -1)
        layer.bias.value = scale * drawn[-m:] * biases
        x = layer.forward(x)
        up.append(np.sqrt(np.mean(x**2)))
        layers.append(layer)
        if relu and n < depth - 1:
            layers.append(ReLU())
            x = layers[-1].forward(x)
    grad = cross_entropy_backward(x, np.array(START["labels"]))
    for layer in reversed(layers):
        if isinstance(layer, Linear):
            down.append(np.sqrt(np.mean(grad**2)))
        grad = layer.backward(grad)
    return np.array(up), np.array(down[::-1])


def check_start(
    figure: Figure,
    std: float | Callable[[int, int], float],
    depth: int,
    relu: bool = True,
    biases: bool = False,
) -> None:
    """Each bar is the package's size, and is as long as its logarithm."""
    rule = std if callable(std) else lambda *_: std
    sizes = stack(rule, depth, relu, biases)
    most = np.abs(np.log10(sizes)).max()
    reach = next(r for r in (2, 4, 10, 20, 50, 100, 300) if r >= most)
    for key, expected in zip(("up", "down"), sizes, strict=True):
        shown = figure.page.evaluate(
            """key => [...document.querySelectorAll(
              `[data-key=${key}] rect`)].map(e => [e.dataset.size,
              e.getAttribute("y"), e.getAttribute("height")].map(Number))""",
            key,
        )
        size, top, height = np.array(shown).T
        assert np.allclose(size, expected, rtol=1e-9)
        long = np.log10(expected) / reach * 63
        assert np.allclose(top, np.minimum(87, 87 - long), atol=1e-6)
        assert np.allclose(height, np.maximum(1, np.abs(long)), atol=1e-6)
    texts = figure.texts()
    factor = rule(16, 16) * np.sqrt(16 / (2 if relu else 1))
    assert from_power(texts["predicted"]) == pytest.approx(
        factor ** (depth - 1), rel=0.06
    )
    assert from_power(texts["measured"]) == pytest.approx(
        sizes[0][-1] / sizes[0][0], rel=0.06
    )
    assert figure.errors == []


def test_start_by_pointer(open_figure: Open) -> None:
    figure = open_figure("start", **START)
    check_start(figure, 0.1, 10)
    assert "fades" in figure.said()
    figure.slide("depth", 40)
    figure.slide("sigma", 1)
    check_start(figure, 10.0, 40)
    assert "more than float32 can hold" in figure.said()
    lost = figure.page.locator("[data-key=up] rect.lost").count()
    assert (
        lost == (stack(lambda *_: 10.0, 40, True, False)[0] > 2.0**128).sum()
    )
    figure.slide("sigma", -3)
    check_start(figure, 1e-3, 40)
    assert "less than float32 can hold: 0" in figure.said()
    figure.choose("drawn")
    check_start(figure, 1e-3, 40, biases=True)
    assert "cannot learn" in figure.said()
    figure.choose("He")
    figure.choose("zero")
    check_start(figure, lambda a, _: np.sqrt(2 / a), 40)


def test_start_by_keys(open_figure: Open) -> None:
    figure = open_figure("start", 1200, **START)
    sigma = figure.page.locator(".touch input[name^='sigma-']")
    for _ in range(4):
        sigma.press("ArrowLeft")
    check_start(figure, 10**-1.2, 10)
    figure.page.locator("input[value='Xavier']").press(" ")
    check_start(figure, lambda a, b: np.sqrt(2 / (a + b)), 10)
    figure.page.locator("input[name*='relu'][value='false']").press(" ")
    depth = figure.page.locator(".touch input[name^='depth-']")
    depth.press("End")
    check_start(figure, lambda a, b: np.sqrt(2 / (a + b)), 40, relu=False)


# --- the luck of the best ----------------------------------------------------


def check_luck(
    figure: Figure, m: int, n: int, tau: float, roll: int = 0
) -> None:
    """The winner, where chosen and fresh, and the mean gaps of 200 rolls."""
    s = np.sqrt(0.9 * 0.1 / n)
    merit, luck, fresh = dice(roll, 3 * m).reshape(m, 3).T
    a = 0.9 + tau / 100 * merit + s * luck
    b = 0.9 + tau / 100 * merit + s * fresh
    best = a.argmax()
    shown = {
        "chosen": a[best],
        "fresh": b[best],
        "gap": a[best] - b[best],
        "bound": s * np.sqrt(2 * np.log(m)),
    }
    for key, value in shown.items():
        assert figure.number(key) == pytest.approx(100 * value, abs=0.051)
    assert figure.said().startswith(f"Candidate {best + 1} of {m} wins")
    means = figure.at("mean").get_attribute("data-means")
    merit, luck, fresh = all_rolls().transpose(2, 0, 1)  # (200, 1000) each
    counts = [1, 2, 3, 5, 10, 20, 30, 60, 100, 200, 500, 1000]
    for count, mean in zip(counts, map(float, means.split()), strict=True):
        total = (tau / 100 * merit + s * luck)[:, :count]
        winner = np.arange(200), total.argmax(axis=1)
        gap = s * (luck - fresh)[winner]
        assert mean == pytest.approx(gap.mean(), abs=1e-9)
        error = 3 * gap.std() / np.sqrt(200)
        assert mean < s * np.sqrt(2 * np.log(count)) + error
    assert figure.errors == []


@cache
def all_rolls() -> np.ndarray:
    """Merit, luck and fresh luck of 1,000 candidates in 200 rolls."""
    return np.array([dice(r, 3000).reshape(1000, 3) for r in range(200)])


def test_luck_by_pointer(open_figure: Open) -> None:
    figure = open_figure("luck", **LUCK)
    check_luck(figure, 20, 1000, 0)
    figure.at("roll").click()
    check_luck(figure, 20, 1000, 0, roll=1)
    figure.slide("m", 10)
    check_luck(figure, 500, 1000, 0, roll=1)
    figure.slide("n", 0)
    check_luck(figure, 500, 100, 0, roll=1)
    figure.slide("tau", 2)
    check_luck(figure, 500, 100, 2, roll=1)
    figure.choose("epochs of a run")
    check_run(figure, 7)
    figure.slide("epoch", 3)
    check_run(figure, 3)


def check_run(figure: Figure, epochs: int) -> None:
    """The best of the first epochs, where it was chosen and elsewhere."""
    a, b = LUCK["chosen"][:epochs], LUCK["fresh"][:epochs]
    best = a.argmax()
    assert figure.number("chosen") == pytest.approx(100 * a[best], abs=0.051)
    assert figure.number("fresh") == pytest.approx(100 * b[best], abs=0.051)
    gap = 100 * (a[best] - b[best])
    assert figure.number("gap") == pytest.approx(gap, abs=0.051)
    assert figure.said() == (
        f"Of {epochs} epochs, epoch {best + 1} is the best where it was "
        f"chosen. Over 2000 splits the gap is {(epochs - 1) / 2:.1f} points "
        "on average."
    )
    assert figure.errors == []


def test_luck_by_keys(open_figure: Open) -> None:
    figure = open_figure("luck", 1200, **LUCK)
    figure.press("roll", "Enter", "Enter")
    check_luck(figure, 20, 1000, 0, roll=2)
    figure.page.locator("input[name^='m-']").press("End")
    figure.page.locator("input[name^='n-']").press("ArrowRight")
    figure.page.locator("input[name^='tau-']").press("ArrowRight")
    check_luck(figure, 1000, 2000, 0.25, roll=2)
    figure.page.locator("input[value='run']").press(" ")
    figure.page.locator("input[name^='epoch-']").press("ArrowLeft")
    check_run(figure, 6)
