"""The figures show the numbers that they were given."""

import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

from cnn.back.plots import (
    COLORS,
    INK,
    plot_confusion_matrix,
    plot_filters,
    plot_history,
    plot_images,
    plot_seeds,
    use_book_style,
)
from cnn.metrics import EpochMetrics


matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _close():
    with matplotlib.rc_context():
        yield
    plt.close("all")


def test_matplotlib_is_imported_by_those_who_draw():
    code = "import sys, cnn.back.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_the_palette_is_that_of_the_book():
    roles = ["input", "weight", "output", "gradient", "neutral"]
    assert list(COLORS) == roles
    assert len({colors.to_rgb(color) for color in COLORS.values()}) == 5


def test_the_ink_is_what_the_site_swaps_on_dark_pages():
    source = (ROOT / "book/_ext/book_figures.py").read_text("utf-8")
    assert re.search(r'^INK = "(#\w+)"', source, re.MULTILINE)[1] == INK


def test_the_style_draws_in_ink_on_nothing():
    use_book_style()
    assert plt.rcParams["text.color"] == INK
    assert plt.rcParams["axes.edgecolor"] == INK
    assert plt.rcParams["figure.facecolor"] == "none"
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert cycle == list(COLORS.values())


def test_a_figure_can_be_given_a_ground():
    """As the questions tell those whose notebook is dark."""
    faces = ("figure.facecolor", "savefig.facecolor")
    opaque = []
    for face in ("none", "white"):
        use_book_style()
        plt.rcParams.update(dict.fromkeys(faces, face))
        figure, _ = plt.subplots()
        file = io.BytesIO()
        figure.savefig(file, format="png")
        file.seek(0)
        opaque.append(plt.imread(file)[0, 0, 3])
    assert opaque == [0, 1]


def test_plot_images():
    images = np.random.default_rng(0).random((7, 1, 4, 4))
    figure = plot_images(images, [f"t{n}" for n in range(7)], columns=3)
    assert len(figure.axes) == 9
    for n, axis in enumerate(figure.axes):
        assert not axis.axison
        assert len(axis.images) == (n < 7)
    for n in range(7):
        axis = figure.axes[n]
        np.testing.assert_array_equal(axis.images[0].get_array(), images[n, 0])
        assert axis.images[0].get_cmap().name == "gray"
        assert axis.get_title() == f"t{n}"


def test_plot_images_without_titles():
    figure = plot_images(np.zeros((10, 1, 4, 4)))
    assert [axis.get_title() for axis in figure.axes] == 10 * [""]


def test_plot_filters_is_centred_on_zero():
    weight = np.random.default_rng(0).standard_normal((5, 2, 3, 3))
    figure = plot_filters(weight, columns=4)
    shown = [axis for axis in figure.axes if axis.images][:5]
    for axis, kernel in zip(shown, weight[:, 0], strict=True):
        picture = axis.images[0]
        np.testing.assert_array_equal(picture.get_array(), kernel)
        low, high = picture.get_clim()
        assert -low == high == np.abs(weight).max()
    assert any(axis.get_ylabel() == "weight" for axis in figure.axes)


def test_plot_history():
    history = [
        EpochMetrics(2.0, 0.3, 1.5, 0.4),
        EpochMetrics(1.0, 0.7, 1.2, 0.6),
    ]
    figure = plot_history(history)
    loss, accuracy = figure.axes
    for axis, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        assert axis.get_xlabel() == "epoch"
        assert axis.get_ylabel().startswith(quantity)
        lines = {line.get_label(): line for line in axis.lines}
        assert list(lines) == ["training", "validation"]
        for label, name in (("training", "train"), ("validation",) * 2):
            values = [getattr(e, f"{name}_{quantity}") for e in history]
            assert list(lines[label].get_xdata()) == [1, 2]
            assert list(lines[label].get_ydata()) == values
    assert loss.get_legend() is not None


def test_plot_confusion_matrix():
    confusion = np.array([[90, 3, 0], [1, 80, 7], [0, 2, 70]])
    figure = plot_confusion_matrix(confusion, ("a", "b", "c"))
    (axis,) = figure.axes
    assert axis.get_ylabel() == "true class"
    assert axis.get_xlabel() == "predicted class"
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["a", "b", "c"]
    texts = {t.get_position(): t.get_text() for t in axis.texts}
    # A row is a true class, so it is the y of its text.
    assert texts == {
        (j, i): str(confusion[i, j]) for i in range(3) for j in range(3)
    }
    np.testing.assert_array_equal(
        axis.images[0].get_array(), confusion - np.diag([90, 80, 70])
    )


def test_runs_of_several_seeds_are_a_mean_and_all_that_they_span():
    runs = np.array([[1.0, 5.0], [2.0, 3.0], [6.0, 4.0]])  # (S, P)
    _, axis = plt.subplots()
    plot_seeds(axis, np.array([0, 10]), runs, label="a", color="#0072B2")
    (line,), (band,) = axis.lines, axis.collections
    np.testing.assert_array_equal(line.get_xydata(), [[0, 3], [10, 4]])
    assert line.get_label() == "a"
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(0, 1), (0, 6), (10, 3), (10, 5)}
