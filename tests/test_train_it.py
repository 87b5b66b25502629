"""The page Train it yourself: what it computes, shows and asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from book_touch import ASSETS, scripts
from browser import chromium
from test_touch import PAGE, Figure
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


VALUES = {
    **{"name": "digits", "names": TRAINING.class_names},
    **{"mean": TRAINING.mean, "std": TRAINING.std},
    **{"learn": pixels(TRAINING), "judge": pixels(VALIDATION)},
    "learn_labels": TRAINING.labels.astype(np.uint8),
    "judge_labels": VALIDATION.labels.astype(np.uint8),
    **{"history": [], "start": START, "goal": 0.95, "par": 500},
    "setups": {
        "overfit": {"n": 100, "epochs": 50},
        "straight": {"act": "none", "pool": 1, "epochs": 3},
        "luck": {"epochs": 2},
    },
}

Open = Callable[..., Figure]


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
        mark = self.at(f"task {task}").locator(".touch-mark")
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
