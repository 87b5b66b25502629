"""The page Train it yourself: what it computes, shows and asks for."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from book_touch import ASSETS, scripts
from browser import chromium
from test_book import code_cells
from test_touch import AXE, MINUS, PAGE, Figure, from_power
from toys import digits

import cnn
from cnn import Dataset
from cnn.back.touch import touch


TRAINING, VALIDATION, _ = digits()
START = {
    **{"lr": 0.05, "momentum": 0.9, "decay": 0, "batch": 32, "epochs": 3},
    **{"filters": 4, "convs": 1, "k": 3, "s": 1, "p": 0, "pool": 2},
    **{"act": "relu", "init": "he"},
}


def pixels(data: Dataset) -> np.ndarray:
    """Grey values, as they were before they were scaled."""
    return np.rint(data.images[:, 0] * data.std + data.mean).astype(np.uint8)


CELLS = [cell.source for cell in code_cells("experiments/train_it")]
# The cell of the chapter that the printed lines begin with.
DICE = next(cell for cell in CELLS if "class Dice" in cell)


def of_chapter(name: str) -> Any:
    """What the chapter hands over to the board by this name."""
    board = next(cell for cell in CELLS if '"train",' in cell)
    value = next(
        line.value
        for line in ast.parse(board).body
        if isinstance(line, ast.Assign)
        and ast.unparse(line.targets[0]) == name
    )
    return eval(ast.unparse(value), {"learn": TRAINING})


VALUES = {
    **{"controls": of_chapter("controls"), "code": of_chapter("code")},
    **{"name": "digits", "names": TRAINING.class_names},
    **{"mean": TRAINING.mean, "std": TRAINING.std},
    **{"learn": pixels(TRAINING), "judge": pixels(VALIDATION)},
    "learn_labels": TRAINING.labels.astype(np.uint8),
    "judge_labels": VALIDATION.labels.astype(np.uint8),
    **{"history": [], "start": START, "goal": 0.95, "par": 500},
    "tasks": {
        name: [f"The task {name}", "Its goal."]
        for name in ("kill", "cliff", "overfit", "small", "straight", "luck")
    },
    "setups": {
        "overfit": {"n": 100, "epochs": 50},
        "straight": {"act": "none", "pool": 1, "epochs": 3},
        "luck": {"epochs": 2},
    },
}


class Board(Figure):
    """The board, and what one does with it."""

    def until(self, condition: str) -> None:
        """Wait until JavaScript says so."""
        self.page.wait_for_function(condition, timeout=240_000)

    def wait(self) -> None:
        """Wait until the training stands."""
        self.until(
            "document.querySelector('[data-key=run]').textContent === 'run'"
        )

    def run(self) -> None:
        """Train to the last epoch."""
        self.at("run").click()
        self.wait()

    def set(self, **settings: Any) -> None:
        """Come by a link that holds these settings."""
        told = "&".join(f"{k}={v}" for k, v in settings.items())
        self.page.evaluate("told => { location.hash = told; }", told)
        self.until(
            "document.querySelector('.touch-said').textContent"
            ".startsWith('Nothing')"
        )

    def told(self, task: str) -> str:
        """What is said of a task."""
        text = str(self.at(f"{task} text").inner_text())
        return text.replace(MINUS, "-")

    def read(self, picture: str, row: float, column: float) -> str:
        """Point at a cell, in shares of the picture; what is read there."""
        self.at(f"{picture} field").scroll_into_view_if_needed()
        box = self.at(f"{picture} field").bounding_box()
        self.page.mouse.move(
            box["x"] + column * box["width"], box["y"] + row * box["height"]
        )
        return str(self.at(f"{picture} read").inner_text()).replace(MINUS, "-")

    def printed(self) -> list[dict[str, float]]:
        """What the page would print, if it were Python."""
        return numbers(self.opened("printed"))

    def opened(self, key: str) -> str:
        """The text of a part of *As code*."""
        if not self.at(key).count():
            self.page.locator("summary").click()
        return str(self.at(key).text_content())

    def done(self, task: str) -> bool:
        """Whether a task has its check mark."""
        mark = self.at(f"task {task}").locator(".touch-check")
        return mark.get_attribute("aria-label") == "done"


def numbers(text: str) -> list[dict[str, float]]:
    """The fields of each line EpochMetrics(...)."""
    return [
        {k: float(v) for k, v in re.findall(r"(\w+)=([-\w.+]+)", line)}
        for line in text.strip().splitlines()
        if line.startswith("EpochMetrics")
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def board(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """Open the board on a page of its own, from a folder."""
    opened = []

    def open_it(
        width: int = 830, theme: str = "light", **values: Any
    ) -> Board:
        loaded = "".join(
            f'<script defer src="{ASSETS.as_uri()}/{name}"></script>'
            for name in scripts(["train"])
        )
        data = touch("train", "Run.", **{**VALUES, **values})._repr_html_()
        data = f"<pre hidden>{escape(DICE)}</pre>{data}"
        path = tmp_path / "page.html"
        path.write_text(
            PAGE.format(
                **{"theme": theme, "assets": ASSETS.as_uri()},
                **{"scripts": loaded, "data": data},
                ground="#fff" if theme == "light" else "#121212",
            )
        )
        page = browser.new_page(
            viewport={"width": width, "height": 844}, reduced_motion="reduce"
        )
        page.set_default_timeout(240_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        found = Board(page, errors)
        opened.append(found)
        found.until("document.querySelector('[data-key=matrix]')")
        return found

    yield open_it
    for found in opened:
        assert found.errors == []
        found.page.close()


@pytest.fixture
def digits_as_the_package_loads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed lines load the same images."""
    monkeypatch.setattr(cnn, "load_dataset", lambda name: digits())


# --- as code ----------------------------------------------------------------


@pytest.mark.usefixtures("digits_as_the_package_loads_them")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.1, "momentum": 0.5, "decay": 0.01, "batch": 64, "seed": 3},
        {"k": 5, "p": 2, "s": 2, "pool": 3, "init": "1e-3", "n": 500},
        {"convs": 2, "act": "none", "pool": 1, "filters": 3, "lr": 0.01},
        {"convs": 2, "p": 1, "batch": 256, "seed": 7},
        {"init": "zero", "n": 200},
    ],
    ids=str,
)
def test_python_finds_the_curve_of_the_page(
    board: Callable[..., Board], settings: dict[str, Any]
) -> None:
    figure = board()
    if settings:
        figure.set(**settings)
    figure.run()
    shown = figure.printed()
    said = StringIO()
    with redirect_stdout(said):
        exec(figure.opened("python"), {})
    expected = numbers(said.getvalue())
    assert len(shown) == len(expected) == START["epochs"]
    for mine, theirs in zip(shown, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


# --- what is seen ------------------------------------------------------------


class Dice:
    """The throws of the page's dice."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def normal(self, count: int) -> np.ndarray:
        """Numbers that are nearly normal."""
        throws = []
        for _ in range(12 * count):
            self.state = (1664525 * self.state + 1013904223) % 2**32
            throws.append(self.state / 2**32)
        return np.reshape(throws, (count, 12)).sum(axis=1) - 6


def test_a_number_is_under_each_pixel(board: Callable[..., Board]) -> None:
    figure = board()
    weights = np.sqrt(2 / 9) * Dice(0).normal(4 * 9).reshape(4, 3, 3)
    for f, u, v in ((0, 0, 0), (1, 1, 2), (3, 2, 1)):  # 4 in a row, gaps of 1
        said = figure.read("filters", (u + 0.5) / 3, (4 * f + v + 0.5) / 15)
        assert said == f"filter {f}, place ({u}, {v}): {weights[f, u, v]:.4f}"
    figure.press("filters field", "ArrowLeft", "ArrowUp")
    assert (
        figure.at("filters read")
        .inner_text()
        .startswith("filter 3, place (1, 0)")
    )
    network, seen = twin(figure), pixels(VALIDATION)
    logits = network.forward(VALIDATION.images.astype(float))
    labels = VALIDATION.labels
    losses = [
        cnn.cross_entropy(logits[[n]], labels[[n]]) for n in range(len(labels))
    ]
    worst = int(np.argmax(losses))
    said = str(figure.at("worst read").inner_text())
    assert said == (
        f"{labels[worst]}, read as {logits[worst].argmax()}: "
        f"a loss of {losses[worst]:.1f}"
    )
    assert figure.read("worst", 2.5 / 8, 4.5 / 8) == (
        f"pixel (2, 4): {seen[worst, 2, 4]}"
    )
    confusion = cnn.confusion_matrix(labels, logits.argmax(axis=1), 10)
    for i, j in ((0, 0), (3, 5), (9, 6)):
        said = figure.read("matrix", (i + 1.5) / 11, (j + 1.5) / 11)
        assert said == f"{i} read as {j}: {confusion[i, j]}"


def twin(figure: Board, seed: int = 0) -> cnn.Sequential:
    """The network at its first weights, with the dice of this file."""
    network = cnn.Sequential(
        cnn.Conv2d(1, 4, 3, rng=np.random.default_rng()),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(36, 10, rng=np.random.default_rng()),
    ).to(np.float64)
    roll = Dice(seed)
    for p in network.parameters():
        if p.value.ndim > 1:
            std = np.sqrt(2 / np.prod(p.value.shape[1:]))
            p.value[...] = std * roll.normal(p.value.size).reshape(
                p.value.shape
            )
    return network


def test_gradients_and_dead_filters_by_layer(
    board: Callable[..., Board],
) -> None:
    figure = board()
    figure.at("step").click()
    figure.until(
        "document.querySelector('[data-key=gradient0]').innerText !== '\u2013'"
    )
    roll, network = Dice(0), twin(figure)
    roll.normal(4 * 9 + 36 * 10)
    order = np.arange(len(TRAINING))
    for last in range(len(order) - 1, 0, -1):
        roll.state = (1664525 * roll.state + 1013904223) % 2**32
        other = int(roll.state / 2**32 * (last + 1))
        order[[last, other]] = order[[other, last]]
    batch = TRAINING.subset(order[:32])
    logits = network.forward(batch.images.astype(float))
    network.backward(cnn.cross_entropy_backward(logits, batch.labels))
    weights = [p for p in network.parameters() if p.value.ndim > 1]
    for k, p in enumerate(weights):
        shown = figure.texts()[f"gradient{k}"]
        assert float(shown) == pytest.approx(np.linalg.norm(p.grad), rel=0.05)
    figure.set(init="zero")
    figure.run()
    assert figure.texts()["dead0"] == "4 of 4"
    assert float(figure.texts()["gradient0"]) == 0
    figure.set(act="none")
    assert "of" not in figure.texts()["dead0"]


def test_rewind_goes_back_to_the_same_first_weights(
    board: Callable[..., Board],
) -> None:
    figure = board()
    first = figure.read("filters", 0.1, 0.02)
    figure.run()
    curve = figure.printed()
    assert figure.read("filters", 0.1, 0.02) != first
    figure.at("rewind").click()
    figure.until(
        "document.querySelector('.touch-said').textContent"
        ".startsWith('Nothing')"
    )
    assert figure.read("filters", 0.1, 0.02) == first
    assert figure.page.locator("polyline.old.valid0").count() == 2
    figure.run()
    assert figure.printed() == curve
    figure.at("new").click()
    assert figure.read("filters", 0.1, 0.02) != first
    assert "seed=1" in figure.page.url


def test_the_address_holds_what_was_set(board: Callable[..., Board]) -> None:
    figure = board()
    page = figure.page
    page.locator("input[name^='lr-']").press("ArrowRight")
    figure.choose("5")
    figure.choose("zero")
    assert page.url.endswith("#lr=0.1&k=5&init=zero")
    assert figure.at("link").get_attribute("href") == "#lr=0.1&k=5&init=zero"
    figure.set(filters=2, momentum="much", pool=3)
    assert figure.at("this run").count() == 1
    assert "filters 2, pooling 3" in figure.at("this run").inner_text()


def test_what_does_not_fit_is_said(board: Callable[..., Board]) -> None:
    figure = board()
    figure.choose("7")
    figure.page.locator("fieldset", has_text="pooling").locator(
        "label", has_text="3"
    ).click()
    assert "does not fit" in figure.said()
    assert figure.at("run").is_disabled()
    figure.page.locator("fieldset", has_text="pooling").locator(
        "label", has_text="2"
    ).click()
    figure.run()
    assert "After epoch 3 of 3" in figure.said()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 830])
def test_the_board_fits_and_can_be_read(
    board: Callable[..., Board], theme: str, width: int
) -> None:
    figure = board(width, theme)
    figure.run()
    figure.opened("python")
    figure.read("matrix", 0.5, 0.5)
    page = figure.page
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    small = page.evaluate(
        """() => [...document.querySelectorAll(
          ".touch :is([tabindex], button, label, summary)")]
          .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24)
          .map(([html]) => html)"""
    )
    assert small == []
    found = Axe().run(page, options=AXE).response["violations"]
    assert [
        (v["id"], [n["html"][:90] for n in v["nodes"]]) for v in found
    ] == []


def test_the_keyboard_alone_trains(board: Callable[..., Board]) -> None:
    figure = board()
    page, stops = figure.page, []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => document.activeElement.closest(".touch") && (
              document.activeElement.dataset.key
              ?? document.activeElement.name
              ?? document.activeElement.tagName)"""
        )
        if not stop:
            break
        stops.append(stop)
    assert len(set(stops)) == len(stops)
    for stop in ("run", "step", "filters field", "worst field", "link"):
        assert stop in stops
    figure.press("run", "Enter")
    figure.wait()
    assert "After epoch 3 of 3" in figure.said()
    figure.press("matrix field", "ArrowRight", "ArrowRight", "ArrowDown")
    assert figure.texts()["matrix read"].startswith("1 read as 1: ")


def test_parameters_and_run_stay_in_sight(board: Callable[..., Board]) -> None:
    figure = board(390)
    assert figure.at("size").inner_text() == "410 parameters"
    figure.at("set luck").scroll_into_view_if_needed()
    figure.choose("5")
    assert figure.at("size").inner_text() == "274 parameters"
    figure.at("set luck").scroll_into_view_if_needed()
    for key in ("size", "run"):
        box = figure.at(key).bounding_box()
        assert 0 <= box["y"] < 120
    figure.at("set overfit").click()
    assert figure.told("overfit").startswith(
        "Set: training images 100, epochs 50; all else as at first."
    )
    assert figure.told("luck") == ""
    figure.set(n=200)
    assert figure.told("overfit") == ""


def test_each_curve_is_named_in_the_table(board: Callable[..., Board]) -> None:
    fields = "train_loss train_accuracy validation_loss validation_accuracy"
    figure = board(history=[dict.fromkeys(fields.split(), 0.5)])
    for lr in (0.05, 0.1, 0.2):
        figure.set(lr=lr, epochs=1)
        figure.run()
    look = """([what, property]) => [...document.querySelectorAll(what)]
      .map(e => getComputedStyle(e)[property])"""
    rows = figure.page.evaluate(
        look, ["tbody .touch-swatch", "borderTopColor"]
    )
    plot = ".touch-plot:first-child polyline"
    curves = [
        figure.page.evaluate(look, [f"{plot}.{kind}", "stroke"])[0]
        for kind in ("valid:not(.old)", "valid0", "valid1", "valid2")
    ]
    assert rows[:4] == curves
    assert len(set(curves)) == 4
    heads = figure.page.evaluate(look, ["th .touch-swatch", "borderTopStyle"])
    assert heads == ["dashed", "solid"]
    dashes = figure.page.evaluate(
        look, [f"{plot}:is(.train, .train0)", "strokeDasharray"]
    )
    assert "none" not in dashes
    # A curve ends at the plot's edge, though its run was longer.
    figure.set(epochs=3)
    figure.run()
    figure.set(epochs=1)
    points = figure.page.locator(f"{plot}.train0").get_attribute("points")
    assert len(points.split()) == 1
    assert figure.page.locator("polyline.old").count() == 12


# --- the six tasks -----------------------------------------------------------


def test_the_bound_is_that_of_the_hessian(board: Callable[..., Board]) -> None:
    figure = board(start={**START, "filters": 1, "pool": 3})
    figure.at("bound").click()
    figure.until(
        "document.querySelector('[data-key=\"cliff text\"]')"
        ".innerText.includes('Bound')"
    )
    bound = float(
        re.findall(r"weights: ([\d.e-]+)\.", figure.told("cliff"))[0]
    )
    network = cnn.Sequential(
        cnn.Conv2d(1, 1, 3, rng=np.random.default_rng()),
        cnn.ReLU(),
        cnn.MaxPool2d(3),
        cnn.Flatten(),
        cnn.Linear(4, 10, rng=np.random.default_rng()),
    ).to(np.float64)
    parameters, roll = network.parameters(), Dice(0)
    parameters[0].value.flat = np.sqrt(2 / 9) * roll.normal(9)
    parameters[2].value.flat = np.sqrt(2 / 4) * roll.normal(40)
    images = TRAINING.images[:100].astype(float)

    def gradient() -> np.ndarray:
        logits = network.forward(images)
        network.backward(
            cnn.cross_entropy_backward(logits, TRAINING.labels[:100])
        )
        return np.concatenate([p.grad.ravel() for p in parameters])

    rows = []
    for p in parameters:
        for k in range(p.value.size):
            p.value.flat[k] += 1e-5
            up = gradient()
            p.value.flat[k] -= 2e-5
            rows.append((up - gradient()) / 2e-5)
            p.value.flat[k] += 1e-5
    hessian = np.array(rows)
    most = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    assert bound == pytest.approx(2 * 1.9 / most, rel=0.05)


def test_the_six_tasks_can_be_done(board: Callable[..., Board]) -> None:
    figure = board()
    tasks = ["kill", "cliff", "overfit", "small", "straight", "luck"]
    assert not any(map(figure.done, tasks))

    for n, death in enumerate(({"init": "zero"}, {"lr": 5}, {"decay": 10})):
        assert not figure.done("kill")
        figure.set(**death)
        figure.run()
        assert figure.told("kill").startswith(f"{n + 1} of 3: ")
    assert figure.done("kill")

    for lr in (0.2, 0.5, 1, 2):
        figure.set(lr=lr)
        figure.run()
    assert "ask for the bound" in figure.told("cliff")
    figure.at("bound").click()
    figure.until(
        "document.querySelector('[data-key=\"task cliff\"]')"
        ".className === 'done'"
    )
    assert "times the bound" in figure.told("cliff")

    figure.at("set overfit").click()
    figure.run()
    assert "Now the cure" in figure.told("overfit")
    figure.set(n=1000, epochs=4)
    figure.run()
    assert figure.done("overfit"), figure.told("overfit")

    assert not figure.done("small")
    figure.set(filters=8, pool=3, epochs=20)
    figure.run()
    assert figure.done("small"), figure.told("small")
    assert figure.told("small").startswith("410 parameters")

    figure.at("set straight").click()
    for convs in (1, 2):
        figure.at(f"convs-0-{convs}").click()
        assert not figure.done("straight")
        figure.run()
        figure.at("collapse").click()
        figure.until(
            "document.querySelector('[data-key=\"straight text\"]')"
            f".textContent.includes('Convolutions: {convs}')"
        )
    assert figure.done("straight")
    assert figure.told("straight").count("one matrix of 650 numbers") == 2
    for apart in re.findall(r"but for (\S+) of", figure.told("straight")):
        assert from_power(apart) < 1e-12

    figure.at("set luck").click()
    for lr in (0.05, 0.002):
        figure.set(lr=lr, epochs=2)
        figure.at("five").click()
        figure.until(
            "document.querySelector('[data-key=run]').textContent === 'run'"
            "&& document.querySelector('[data-key=\"this run\"]')"
            ".innerText.includes('seed 4')"
        )
    said = figure.told("luck")
    assert "gain, or luck?" in said
    told = said.split("seed by seed:")[1].replace("\u2212", "-")
    *each, mean, error = map(float, re.findall(r"-?\d+\.\d", told))
    assert len(each) == 5
    assert mean == pytest.approx(np.mean(each), abs=0.1)
    assert error == pytest.approx(np.std(each, ddof=1) / 5**0.5, abs=0.1)
    figure.at("gain").click()
    assert figure.done("luck"), figure.told("luck")


# --- on the way into the page ------------------------------------------------


def test_large_arrays_are_deflated_and_come_back(
    board: Callable[..., Board],
) -> None:
    twice = np.concatenate([VALUES["learn"]] * 2)
    labels = np.concatenate([VALUES["learn_labels"]] * 2)
    figure = board(learn=twice, learn_labels=labels)
    held = figure.page.locator("script[data-touch]").text_content()
    assert '"deflated": true' in str(held)
    figure.run()
    assert "After epoch 3 of 3" in figure.said()
