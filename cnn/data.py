# Written by book/foundations/data.md. To keep edits: tangle.py --back.
"""Images as arrays: three splits on one scale, and minibatches of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

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

    def __post_init__(self) -> None:
        for name in ("images", "labels", "mean", "std"):
            array = as_numbers("Dataset", name, getattr(self, name))
            if name in ("images", "labels"):  # a list becomes an array
                object.__setattr__(self, name, array)
        shape = self.images.shape
        if shape[:1] != self.labels.shape or 0 in shape[1:]:
            way = "np.ravel(labels) of a column, np.argmax of one-hot rows."
            way = "Index both alike." if self.labels.ndim == 1 else way
            raise ValueError(
                f"Dataset was given images of shape {shape} and labels of "
                f"shape {self.labels.shape}; expected (N, C, H, W) and (N,), "
                f"a number for each image. {way}"
            )


ARGUMENT = re.compile(r"(\w+) \((.*?)\)")  # of a contract: name and axes


@lru_cache(maxsize=1000)
def check_shapes(user: str, contract: str, *shapes: tuple[int, ...]) -> None:
    """ValueError unless shapes are as user's contract says: see check_arrays.

    A training step asks the same each time; the answer is kept.
    """
    known: dict[str, tuple[Any, str]] = {}  # of each letter: size, and whose
    arguments = ARGUMENT.findall(contract)
    for (name, axes), shape in zip(arguments, shapes, strict=True):
        letters, sizes = re.findall("[^, ]+", axes), list[Any](shape)
        if letters[-1] == "...":  # all axes that are left, as one
            sizes[len(letters) - 1 :] = [shape[len(letters) - 1 :]]
        given, odd, why = f"{name} of shape {shape}", "", ""
        for letter, size in zip(letters, sizes, strict=False):
            first = int(letter) if letter.isdigit() else size
            expected, place = known.setdefault(letter, (first, given))
            if size != expected and not odd:
                odd = letter
                why = f", where {odd} is {expected} as in {place}"
        fits = len(sizes) == len(letters)
        if odd or not fits or 0 in shape:
            why *= fits and not odd.isdigit()
            raise ValueError(
                f"{user} was given {given}; expected ({axes}){why}. "
                "Are its axes in this order? "
                f"{way_out(name, letters, shape, odd)}"
            )


def way_out(
    name: str, letters: list[str], shape: tuple[int, ...], odd: str
) -> str:
    """What to do with an array, name, whose shape is not that of letters.

    odd: the first letter whose size differs, if there is one.
    """
    if 0 in shape:
        return "No axis may be 0: look at the index that selected it."
    if name.startswith("grad"):
        return "A gradient has the shape of what it is a gradient to."
    if len(shape) == len(letters) - 1 and letters[0] == "N":
        grey = f", {name}[:, np.newaxis] are grey ones" * (len(letters) == 4)
        return f"Add an axis: {name}[np.newaxis] is a batch of 1 image{grey}."
    if letters == ["N", "D"] and len(shape) > 2:
        return "Put a Flatten() where images meet a Linear layer."
    if len(shape) != len(letters):
        return f"Give it these axes, by {name}.reshape."
    size = dict(zip(letters, shape, strict=False)).get(odd)
    return {
        "N": "Take both from the same batch.",
        "C": f"Set in_channels to {size}, or mend {name}.",
        "D": f"Set in_features to {size}, or mend {name}.",
    }.get(odd, f"Mend {name}, or what it shall go with.")


FLOATS = {np.dtype(kind) for kind in "efdg"}  # in this machine's byte order


def as_numbers(
    user: str, name: str, value: Any, kinds: str = "biuf"
) -> np.ndarray:
    """The numbers, of any shape, that user was given under a name.

    value: what NumPy makes an array of. ValueError, unless its dtype is of
        one of the kinds: bool, whole, unsigned, float.
    """
    if type(value) is np.ndarray and value.dtype.kind in kinds:
        return value
    array = np.array(None)
    way = f"np.array({name}, float) makes numbers of text and objects."
    try:
        array = np.asarray(value)
    except Exception as error:  # of many kinds: a tensor's, a ragged list's
        way = f"NumPy cannot make an array of it: {error}"
    gaps, kind = np.ma.is_masked(value), array.dtype.kind
    if kind in kinds and not gaps:
        return array
    if gaps:
        way = f"Fill the gaps: {name}.filled(0)."
    elif kind == "c":
        way = f"Take np.real({name}), if the imaginary part is 0."
    raise ValueError(
        f"{user} was given {name} of type {type(value).__name__} and "
        f"{array.dtype}; expected an array of numbers. {way}"
    )


def check_arrays(user: str, contract: str, *arrays: Any) -> list[np.ndarray]:
    """The arrays that user was given, as floats, if they keep its contract.

    contract: names and axes, such as "x (N, D), weight (M, D)". A letter is
        a size, everywhere the same, at least 1; "..." are further axes.
    arrays: of these shapes. ValueError if one has other axes or no numbers.
    """
    floats = []
    for n, array in enumerate(arrays):
        if type(array) is not np.ndarray or array.dtype not in FLOATS:
            array = as_numbers(user, ARGUMENT.findall(contract)[n][0], array)
            # Floats stay as large; what has 8 or 16 bits fits into float32.
            least = np.float16 if array.dtype.kind == "f" else np.float32
            array = array.astype(np.result_type(array, least), copy=False)
        floats.append(array)
    check_shapes(user, contract, *[array.shape for array in floats])
    return floats


def check_positive(**counts: Any) -> None:
    """ValueError unless the counts, by name, are whole and at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or count < 1:
            way = "a whole number of at least 1. Give an int, such as 1."
            raise ValueError(f"{name} is {count!r}; expected {way}")


def check_numbers(**numbers: Any) -> None:
    """ValueError unless the numbers, by name, are real, and one each."""
    for name, number in numbers.items():
        if not isinstance(number, int | float | np.integer | np.floating):
            way = "one real number. Give a float, such as 0.1."
            raise ValueError(f"{name} is {number!r}; expected {way}")


def check_generator(rng: Any) -> None:
    """ValueError unless rng draws as a Generator does; np.random does not."""
    if not hasattr(rng, "standard_normal") or hasattr(rng, "seed"):
        way = "Make it once, for all: rng=np.random.default_rng(0)."
        raise ValueError(f"rng is {rng!r}; expected a NumPy Generator. {way}")


def as_greys(user: str, pixels: np.ndarray) -> np.ndarray:
    """The pixels, of any shape, that user was given, if they are 0..255."""
    given = as_numbers(user, "pixels", pixels)
    check_shapes(user, "pixels (N, ...)", given.shape)
    greys = given.astype(np.uint8)
    if not np.array_equal(greys, given):
        raise ValueError(
            f"{user} was given pixels from {given.min()} to {given.max()}; "
            "expected whole numbers in 0..255. If they are in 0..1, take "
            "np.rint(255 * pixels)."
        )
    return greys


def mean_and_std(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all pixels.

    pixels: of any shape, of 0..255; ValueError if none differs from another.
    Equation: eq-data-histogram.
    """
    pixels, greys = as_greys("mean_and_std", pixels), np.arange(256)
    counts = np.bincount(pixels.ravel(), minlength=256)
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
    check_numbers(mean=mean, std=std)
    greys = ((np.arange(256) - mean) / std).astype(np.float32)
    return np.take(greys, as_greys("scale", pixels))[:, np.newaxis]


def split(count: int, validation_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of count images train and which validation_size of them do not.

    Two arrays of indices, the same each time. ValueError if none would train.
    """
    check_positive(count=count)
    whole = isinstance(validation_size, int | np.integer)
    if not whole or not 0 <= validation_size < count:
        raise ValueError(
            f"validation_size is {validation_size!r} of {count} images; "
            "expected 0 or more, and some that are left to learn from. "
            "Lay fewer aside, or use the whole data."
        )
    order = np.random.default_rng(0).permutation(count)
    return order[validation_size:], order[:validation_size]


def minibatches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of dataset: each image once, in an order that rng draws.

    batch_size: B, at least 1, else ValueError; the last may be smaller.
    Yields images (B, C, H, W) and labels (B,).
    """
    check_positive(batch_size=batch_size)
    check_generator(rng)
    order = rng.permutation(len(dataset))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield dataset.images[batch], dataset.labels[batch]
