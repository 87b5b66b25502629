# Written by book/foundations/data.md. To keep edits: tangle.py --back.
"""Images as arrays: three splits on one scale, and minibatches of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one split.

    name, class_names: of the data set, and of its K classes.
    images: (N, C, H, W), float32, scaled: (pixel - mean) / std.
    labels: (N,), int64, each in 0..K-1.
    mean, std: of the training pixels, whichever split this is.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray | slice) -> "Dataset":
        """The images and labels at index: (n,) integers, or a slice."""
        images, labels = self.images[index], self.labels[index]
        return replace(self, images=images, labels=labels)


def mean_and_std(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all pixels.

    pixels: of any shape, of 0..255; ValueError if none differs from another.
    Equation: eq-data-histogram.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    greys = np.arange(256)
    if np.count_nonzero(counts) < 2:
        raise ValueError(
            f"all pixels, of shape {pixels.shape}, are alike; expected two "
            "grey values at least. Look at the images: they may be blank."
        )
    mean = counts @ greys / counts.sum()
    variance = counts @ (greys - mean) ** 2 / counts.sum()
    return float(mean), float(np.sqrt(variance))


def scale(pixels: np.ndarray, mean: float, std: float) -> np.ndarray:
    """x = (pixel - mean) / std, float32, (N, 1, H, W).

    pixels: (N, H, W), of 0..255; mean, std: those of the training set.
    Equation: eq-data-scaling.
    """
    greys = ((np.arange(256) - mean) / std).astype(np.float32)
    return np.take(greys, pixels)[:, np.newaxis]


def split(count: int, validation_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of count images train and which validation_size of them do not.

    Two arrays of indices, the same each time. ValueError if none would train.
    """
    if count <= validation_size:
        raise ValueError(
            f"{count} images to learn from; expected more than the "
            f"{validation_size} laid aside to validate. Use the whole data."
        )
    order = np.random.default_rng(0).permutation(count)
    validation, train = np.split(order, [validation_size])
    return train, validation


def minibatches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of dataset: each image once, in an order that rng draws.

    batch_size: B, at least 1, else ValueError; the last may be smaller.
    Yields images (B, C, H, W) and labels (B,).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    order = rng.permutation(len(dataset))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield dataset.images[batch], dataset.labels[batch]
