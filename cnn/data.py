# Written by book/foundations/data.md. To keep edits: tangle.py --back.
"""Images as arrays: real digits in three splits, and minibatches of them."""

import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one split.

    images: (N, C, H, W), float32, scaled: (pixel - mean) / std.
    labels: (N,), int64, each in 0..K-1, where K = len(class_names).
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
        """The images and labels that index selects, as a Dataset."""
        return replace(
            self, images=self.images[index], labels=self.labels[index]
        )


# The folder and the files that torchvision keeps each data set in.
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets are kept: root, else $CNN_DATA, else a cache folder."""
    chosen = root or os.environ.get("CNN_DATA")
    return Path(chosen or Path.home() / ".cache" / "cnn-from-scratch")


def is_on_disk(name: str, root: str | Path | None = None) -> bool:
    """Whether the four files of a torchvision data set are under root."""
    raw = data_root(root) / FOLDERS[name] / "raw"
    return all((raw / file).is_file() for file in FILES)


def download(name: str, root: str | Path | None = None) -> None:
    """Let torchvision download and verify a data set, then move it to root.

    It downloads beside its place and renames, so that a kill leaves no
    half-written file behind. ValueError if it cannot be had.
    """
    folder = FOLDERS[name]
    raw = data_root(root) / folder / "raw"
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds of silence: never hang
    try:
        from torchvision import datasets

        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw.parent) as aside:
            getattr(datasets, folder)(aside, download=True)
            for file in FILES:
                os.replace(Path(aside, folder, "raw", file), raw / file)
    except (OSError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"{name} could not be downloaded to {raw}: {error}. Expected its "
            f"four files there. Put them there by hand, or set CNN_DATA to "
            f"the folder that has {folder}/raw, or use the data set 'digits'."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def resolve_dataset(name: str = "auto", root: str | Path | None = None) -> str:
    """The data set that name stands for: 'mnist', 'fashion-mnist', 'digits'.

    'auto' is $CNN_DATASET where that is set; else MNIST where it is on disk
    or can be downloaded; else the digits, and a warning says why.
    """
    if name == "auto":
        name = os.environ.get("CNN_DATASET", "auto")
    if name in FOLDERS or name == "digits":
        return name
    if name != "auto":
        raise ValueError(
            f"unknown data set {name!r}; expected 'auto', 'digits', "
            f"{', '.join(map(repr, FOLDERS))}"
        )
    try:
        if not is_on_disk("mnist", root):
            download("mnist", root)
    except ValueError as error:
        warnings.warn(f"using 'digits' instead: {error}", stacklevel=2)
        return "digits"
    return "mnist"


# Pixels and labels, before they are scaled.
Arrays = tuple[np.ndarray, np.ndarray]


def read_torchvision(name: str, root: Path) -> tuple[Arrays, Arrays]:
    """Training and test pixels, (N, H, W) of 0..255, with their labels."""
    from torchvision import datasets

    kind = getattr(datasets, FOLDERS[name])
    try:
        train, test = kind(root, train=True), kind(root, train=False)
    except (AssertionError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"{root / FOLDERS[name] / 'raw'} holds a damaged or truncated "
            f"file: {error}. Expected the files of {name} as torchvision "
            "writes them. Delete that folder and load again to download it."
        ) from error
    return (
        (train.data.numpy(), train.targets.numpy()),
        (test.data.numpy(), test.targets.numpy()),
    )


def read_digits() -> tuple[Arrays, Arrays]:
    """The same of scikit-learn's 1,797 scans: 8x8, 0..16; a fifth is test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8)
    order = np.random.default_rng(0).permutation(len(pixels))
    test, train = np.split(order, [360])
    return (pixels[train], labels[train]), (pixels[test], labels[test])


CLOTHES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


VALIDATION_SIZE = {"mnist": 5000, "fashion-mnist": 5000, "digits": 180}


def load_dataset(
    name: str = "auto", root: str | Path | None = None
) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test set, scaled by the training set alone.

    name: 'mnist', 'fashion-mnist', 'digits' or 'auto' (resolve_dataset).
    root: where torchvision's files are kept (data_root).
    ValueError for an unknown name, a failed download or a damaged file.
    """
    name = resolve_dataset(name, root)
    if name == "digits":
        (pixels, labels), test = read_digits()
    else:
        if not is_on_disk(name, root):
            download(name, root)
        (pixels, labels), test = read_torchvision(name, data_root(root))
    order = np.random.default_rng(0).permutation(len(pixels))
    validation, train = np.split(order, [VALIDATION_SIZE[name]])
    mean, std = float(pixels[train].mean()), float(pixels[train].std())
    names = CLOTHES if name == "fashion-mnist" else tuple("0123456789")

    def scaled(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
        images = ((pixels - mean) / std).astype(np.float32)[:, np.newaxis]
        return Dataset(name, images, labels.astype(np.int64), names, mean, std)

    return (
        scaled(pixels[train], labels[train]),
        scaled(pixels[validation], labels[validation]),
        scaled(*test),
    )


def minibatches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: each image once, in random order, batch_size at a time.

    Yields images (B, C, H, W) and labels (B,); the last batch may be smaller.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    order = rng.permutation(len(dataset))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield dataset.images[batch], dataset.labels[batch]
