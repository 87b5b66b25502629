# Written by book/back/plots.md. To keep edits: tangle.py --back.
"""The book's figures: one palette, one style, and the shared plots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.metrics import EpochMetrics


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {
    "input": "#0072B2",
    "weight": "#E69F00",
    "output": "#009E73",
    "gradient": "#D55E00",
    "neutral": "#7F7F7F",
}


# Text and axes; the site swaps it for a light ink on dark pages.
INK = "#1b1f24"


def use_book_style() -> None:
    """Draw as the book does; in a notebook, as SVG."""
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    ink = (
        *("axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
        *("text.color", "xtick.color", "ytick.color"),
    )
    faces = ("figure.facecolor", "savefig.facecolor", "axes.facecolor")
    style: Any = {
        **dict.fromkeys(ink, INK),
        **dict.fromkeys(faces, "none"),
        "axes.prop_cycle": cycler(color=list(COLORS.values())),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "figure.figsize": (6.4, 3.2),
        "font.size": 11,
        "image.cmap": "gray",
        "legend.frameon": False,
        "lines.linewidth": 2,
    }
    plt.rcParams.update(style)
    set_matplotlib_formats("svg")


def plot_images(
    images: np.ndarray, titles: Sequence[str] | None = None, columns: int = 10
) -> "Figure":
    """Draw images in a grid, in greys, each under its title.

    images: (N, 1, H, W).
    titles: N texts, or None for none.
    columns: how many images stand in a row.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(images) // columns)
    height = 0.64 * rows * (1.0 if titles is None else 1.45)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.4, height), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for place, (axis, image) in enumerate(
        zip(axes.flat, images, strict=False)
    ):
        axis.imshow(image[0], cmap="gray", interpolation="nearest")
        if titles is not None:
            axis.set_title(titles[place])
    return figure


def plot_filters(weight: np.ndarray, columns: int = 8) -> "Figure":
    """Draw the first channel of each filter, from blue (-) to red (+).

    weight: (F, C, k, k).
    columns: how many filters stand in a row.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(weight) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(6.4, 0.8 * rows),
        squeeze=False,
        gridspec_kw={"wspace": 0.25, "hspace": 0.25},
    )
    limit = float(np.abs(weight).max())
    for axis in axes.flat:
        axis.axis("off")
    for axis, kernel in zip(axes.flat, weight[:, 0], strict=False):
        picture = axis.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(picture, ax=axes, shrink=0.9, label="weight")
    return figure


def plot_history(history: Sequence[EpochMetrics]) -> "Figure":
    """Draw loss and accuracy by epoch, for training and validation.

    history: one EpochMetrics an epoch, as train returns them.
    """
    import matplotlib.pyplot as plt

    epochs = np.arange(1, len(history) + 1)
    figure, axes = plt.subplots(1, 2)
    styles = {
        "train": {"color": COLORS["neutral"], "linestyle": "--"},
        "validation": {"color": INK},
    }
    for axis, quantity, unit in zip(
        axes, ("loss", "accuracy"), ("nats", "share of images"), strict=True
    ):
        for split, style in styles.items():
            values = [
                getattr(epoch, f"{split}_{quantity}") for epoch in history
            ]
            label = "training" if split == "train" else split
            axis.plot(epochs, values, marker=".", label=label, **style)
        axis.set(xlabel="epoch", ylabel=f"{quantity} ({unit})")
    axes[0].set_yscale("log")
    axes[0].legend()
    return figure


def plot_seeds(
    axis: "Axes",
    x: np.ndarray,
    runs: np.ndarray,
    *,
    label: str,
    color: str,
    **style: Any,
) -> None:
    """Draw the mean of several runs as a line, all they span as a band.

    axis: where to draw.
    x: (P,), the places along the axis.
    runs: (S, P), one row a seed.
    label, color: of the line and of its band.
    style: as for axis.plot.
    """
    axis.plot(x, runs.mean(axis=0), label=label, color=color, **style)
    axis.fill_between(
        x,
        runs.min(axis=0),
        runs.max(axis=0),
        color=color,
        alpha=0.25,
        linewidth=0,
    )


def plot_confusion_matrix(
    confusion: np.ndarray, class_names: Sequence[str]
) -> "Figure":
    """Draw a confusion matrix, each count in its cell, mistakes coloured.

    confusion: (K, K), rows the true class, columns the predicted one.
    class_names: K texts.
    """
    import matplotlib.pyplot as plt

    mistakes = confusion - np.diag(np.diag(confusion))
    figure, axis = plt.subplots(figsize=(5.2, 4.8))
    axis.imshow(mistakes, cmap="Purples")
    for (i, j), count in np.ndenumerate(confusion):
        dark = mistakes[i, j] > 0.5 * mistakes.max()
        color = "white" if dark else "#333333"
        axis.text(
            j, i, str(count), ha="center", va="center", fontsize=9, color=color
        )
    places = range(len(class_names))
    axis.set_xticks(places, class_names)
    axis.set_yticks(places, class_names)
    axis.set(xlabel="predicted class", ylabel="true class")
    return figure
