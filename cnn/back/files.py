# Written by book/back/files.md. To keep edits: tangle.py --back.
"""Where the images come from: a download, its files, and three splits."""

import os
import socket
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cnn.data import Dataset, mean_and_std, scale, split


def library(name: str) -> Any:
    """The module called name, which reads data; ValueError if it fails."""
    try:
        return import_module(name)
    except Exception as error:  # a broken one raises of all kinds
        raise ValueError(
            f"{name} cannot be imported: {error!r}. Expected it, to read the "
            "data set. Install it again (the extra 'book' brings it), or use "
            "another data set: 'digits' takes scikit-learn, the others "
            "torchvision."
        ) from error


# The folder that torchvision keeps each data set in; the files in its "raw".
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
Root = str | Path | None
Raw = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W), labels (N,)


def data_root(root: Root = None) -> Path:
    """Where data sets are kept: root, else $CNN_DATA, else a cache folder.

    ValueError if that is no path, or begins with the ~ of nobody.
    """
    chosen = root or os.environ.get("CNN_DATA") or "~/.cache/cnn-from-scratch"
    try:
        return Path(chosen).expanduser()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"the folder of the data is {chosen!r}: {error}. Expected a path. "
            "Give one as root, or in the variable CNN_DATA."
        ) from error


def data_files(name: str, root: Root = None) -> list[Path]:
    """The four files of a data set, there or not; of the digits, none.

    name: 'digits', 'mnist' or 'fashion-mnist'; root: as data_root takes it.
    """
    if name == "digits":
        return []
    return [data_root(root) / FOLDERS[name] / "raw" / file for file in FILES]


def download(name: str, root: Root = None) -> None:
    """Let torchvision download and verify data set name, unless root has it.

    Files are renamed into their place when they are whole, so that a kill
    leaves no half of one there. ValueError if the data set cannot be had.
    """
    files = data_files(name, root)
    missing = [path.name for path in files if not path.is_file()]
    if not missing:
        return
    datasets, folder = library("torchvision.datasets"), FOLDERS[name]
    raw, patience = files[0].parent, socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds of silence: never hang
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw.parent) as aside:
            getattr(datasets, folder)(aside, download=True)
            for path in files:
                os.replace(Path(aside, folder, "raw", path.name), path)
    except Exception as error:  # networks and disks fail in all ways
        there = ", ".join(sorted(path.name for path in raw.glob("*"))[:9])
        mend = there and f" There: {there}; rename or unpack what fits."
        raise ValueError(
            f"{name} could not be downloaded: {error}. Expected its four "
            f"files in {raw}. Missing: {', '.join(missing)}.{mend} Put there "
            "what is missing, set CNN_DATA to the folder that has "
            f"{folder}/raw, or use the data set 'digits'."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


# What is often found under the name of another file, by how it begins.
STRANGERS = {
    b"<": "a web page",
    b"\x1f\x8b": "still packed, a .gz file",
    b"PK": "still packed, a .zip file",
}


def read_file(path: Path) -> np.ndarray:
    """The array in one of FILES: pixels (N, H, W), or labels (N,).

    path: of the file. ValueError says what it is instead.
    """
    mnist = library("torchvision.datasets.mnist")
    kind = "image" if "images" in path.name else "label"
    start, what = b"", "damaged, cut short, or another file"
    try:
        with open(path, "rb") as file:
            start = file.read(24)
        return np.asarray(getattr(mnist, f"read_{kind}_file")(path))
    except Exception as error:  # this reader, too, raises of all kinds
        for sign, stranger in STRANGERS.items():
            what = stranger if start.lstrip().startswith(sign) else what
        raise ValueError(
            f"{path} is {what}: {error!r}. It begins with {start!r}. Expected "
            f"the {kind}s, unpacked, as torchvision writes them. Put the "
            "right file there, or delete its folder and load again to "
            "download it."
        ) from error


def read_pixels(name: str, root: Root = None) -> tuple[Raw, Raw]:
    """Training and test pixels, (N, H, W) of 0..255, with their labels.

    name: 'digits', 'mnist' or 'fashion-mnist'; root: as data_root takes it.
    Downloads what is not there. ValueError if that fails, or is damaged.
    """
    if name == "digits":
        return read_digits()
    download(name, root)
    files = data_files(name, root)
    pixels, labels, test_pixels, test_labels = map(read_file, files)
    train, test = (pixels, labels), (test_pixels, test_labels)
    for x, y in (train, test):
        if len(x) != len(y) or y.max() > 9 or x[0].shape != pixels[0].shape:
            raise ValueError(
                f"the files in {files[0].parent} do not belong together: "
                f"images of shape {x.shape}, {len(y)} labels up to {y.max()}. "
                "Expected a label of 0..9 for each image, and images of one "
                "size. Delete that folder and load again to download them."
            )
    return train, test


def read_digits() -> tuple[Raw, Raw]:
    """scikit-learn's 1,797 scans, 8x8 of 0..16; a fifth of them to test on.

    ValueError if scikit-learn is missing or broken.
    """
    load_digits = library("sklearn.datasets").load_digits
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    test, train = np.split(order, [360])
    return (pixels[train], labels[train]), (pixels[test], labels[test])


def resolve_dataset(name: str = "auto", root: Root = None) -> str:
    """The data set that name stands for: 'mnist', 'fashion-mnist', 'digits'.

    'auto' is $CNN_DATASET if that is set; else MNIST, if it is under root or
    can be downloaded; else the digits, with a warning. Others: ValueError.
    """
    if name == "auto":
        name = os.environ.get("CNN_DATASET") or "auto"
    if name in ("digits", *FOLDERS):
        return name
    if name != "auto":
        raise ValueError(
            f"unknown data set {name!r}; expected 'auto', 'digits', 'mnist' "
            "or 'fashion-mnist'. Mend the name, or the variable CNN_DATASET."
        )
    try:
        library("torchvision.datasets")  # which reads them, too
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
    name: str = "auto", root: Root = None
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
