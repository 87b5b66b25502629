# Written by book/back/files.md. To keep edits: tangle.py --back.
"""Where the images come from: a download, its files, and three splits."""

import os
import socket
import tempfile
import warnings
from http.client import HTTPException
from pathlib import Path

import numpy as np

from cnn.data import Dataset, mean_and_std, scale, split


# The folder that torchvision keeps each data set in; the files in its "raw".
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
Raw = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W), labels (N,)


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets are kept: root, else $CNN_DATA, else a cache folder."""
    chosen = root or os.environ.get("CNN_DATA") or "~/.cache/cnn-from-scratch"
    return Path(chosen).expanduser()


def download(name: str, root: str | Path | None = None) -> None:
    """Let torchvision download and verify data set name, unless root has it.

    Files are renamed into their place when they are whole, so that a kill
    leaves no half of one there. ValueError if the data set cannot be had.
    """
    folder = FOLDERS[name]
    raw = data_root(root) / folder / "raw"
    if all((raw / file).is_file() for file in FILES):
        return
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds of silence: never hang
    try:
        from torchvision import datasets

        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw.parent) as aside:
            getattr(datasets, folder)(aside, download=True)
            for file in FILES:
                os.replace(Path(aside, folder, "raw", file), raw / file)
    except (OSError, RuntimeError, ImportError, HTTPException) as error:
        raise ValueError(
            f"{name} could not be downloaded to {raw}: {error}. Expected its "
            f"four files there. Put them there, or set CNN_DATA to the folder "
            f"that has {folder}/raw, or use the data set 'digits'."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def read_digits() -> tuple[Raw, Raw]:
    """scikit-learn's 1,797 scans, 8x8 of 0..16; a fifth of them to test on."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    test, train = np.split(order, [360])
    return (pixels[train], labels[train]), (pixels[test], labels[test])


def read_pixels(name: str, root: str | Path | None = None) -> tuple[Raw, Raw]:
    """Training and test pixels, (N, H, W) of 0..255, with their labels.

    Downloads name unless root has it. ValueError if it fails or is damaged.
    """
    if name == "digits":
        return read_digits()
    download(name, root)
    from torchvision import datasets

    root, kind = data_root(root), getattr(datasets, FOLDERS[name])
    try:
        splits = kind(root, train=True), kind(root, train=False)
        train, test = ((s.data.numpy(), s.targets.numpy()) for s in splits)
        for images, labels in (train, test):
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images, {len(labels)} labels")
    except Exception as error:  # its reader raises of all kinds
        raise ValueError(
            f"{root / FOLDERS[name] / 'raw'} holds a damaged or truncated "
            f"file: {error}. Expected the files of {name} as torchvision "
            "writes them. Delete that folder and load again to download it."
        ) from error
    return train, test


def resolve_dataset(name: str = "auto", root: str | Path | None = None) -> str:
    """The data set that name stands for: 'mnist', 'fashion-mnist', 'digits'.

    'auto' is $CNN_DATASET if that is set; else MNIST, if it is under root or
    can be downloaded; else the digits, with a warning. Others: ValueError.
    """
    if name == "auto":
        name = os.environ.get("CNN_DATASET") or "auto"
    if name in FOLDERS or name == "digits":
        return name
    if name != "auto":
        raise ValueError(
            f"unknown data set {name!r}; expected 'auto', 'digits', 'mnist' "
            "or 'fashion-mnist'. Mend the name, or the variable CNN_DATASET."
        )
    try:
        download("mnist", root)
    except ValueError as error:
        warnings.warn(f"using 'digits' instead: {error}", stacklevel=2)
        return "digits"
    return "mnist"


VALIDATION_SIZE = {"mnist": 5000, "fashion-mnist": 5000, "digits": 180}
CLOTHES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def load_dataset(
    name: str = "auto", root: str | Path | None = None
) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test set, scaled by the training set alone.

    name, root: as resolve_dataset takes them.
    ValueError for an unknown name, a failed download or a damaged file.
    """
    name = resolve_dataset(name, root)
    (pixels, labels), test = read_pixels(name, root)
    train, validation = split(len(pixels), VALIDATION_SIZE[name])
    mean, std = mean_and_std(pixels[train])
    names = CLOTHES if name == "fashion-mnist" else tuple("0123456789")

    def dataset(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
        images = scale(pixels, mean, std)
        return Dataset(name, images, labels.astype(np.int64), names, mean, std)

    known = dataset(pixels, labels)
    return known.subset(train), known.subset(validation), dataset(*test)
