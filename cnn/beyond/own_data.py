# Written by book/beyond/own_data.md. To keep edits: tangle.py --back.
"""Arrays of any usual kind, as three splits on one scale."""

from math import isqrt
from typing import Any, NoReturn

import numpy as np

from cnn.data import Dataset, as_numbers, split


def refuse(shape: tuple[int, ...], way: str) -> NoReturn:
    """ValueError: images of this shape are of no kind that we know.

    way: what to do with them.
    """
    raise ValueError(
        f"as_images was given images of shape {shape}; expected (N, H, W), "
        "(N, H, W, C), (N, C, H, W) with 1 or 3 channels and sides of 5 or "
        f"more, or rows (N, D) of square greys. {way}"
    )


def as_images(images: Any, count: int) -> np.ndarray:
    """The images as (N, C, H, W), of their own dtype.

    images: (N, H, W), (N, H, W, C), (N, C, H, W), or (N, D) of square greys.
    count: how many labels there are, N.
    ValueError if the axes cannot be told, or a number is not finite.
    """
    x = as_numbers("as_images", "images", images)
    shape = x.shape
    if x.ndim == 0 or len(x) != count:
        way = f"There are {count} labels: index both alike."
        if count in shape:
            axis = shape.index(count)
            way = f"Axis {axis} has the {count} images that the labels have: "
            way += f"np.moveaxis(images, {axis}, 0)."
        refuse(shape, way)
    if x.ndim == 2:
        x = square(x)
    elif x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.ndim == 4:
        x = channels_first(x)
    if x.ndim != 4 or min(x.shape[2:]) < 5:
        way = "Find which axis is H and which is W: images.reshape."
        refuse(shape, way)
    if not np.isfinite(x).all():
        raise ValueError(
            f"as_images was given {np.sum(~np.isfinite(x))} numbers that are "
            "nan or infinite; expected finite ones. np.nan_to_num makes 0 of "
            "nan, if that is what a gap means."
        )
    return x


def square(rows: np.ndarray) -> np.ndarray:
    """Rows of greys as square images, (N, 1, H, W).

    rows: (N, D). ValueError unless D is a square.
    """
    pixels = rows.shape[1]
    side, way = isqrt(pixels), "Say what H and W are: images.reshape(-1, H, W)"
    if side**2 == pixels:
        return rows.reshape(-1, 1, side, side)
    if isqrt(pixels - 1) ** 2 == pixels - 1:
        way = (
            "One number less would be a square: if column 0 has the labels, "
            "give images[:, 1:] and images[:, 0]"
        )
    elif pixels % 3 == 0 and 3 * isqrt(pixels // 3) ** 2 == pixels:
        s = isqrt(pixels // 3)
        way = (
            f"In colour, they are images.reshape(-1, 3, {s}, {s}) if all reds "
            f"come first, and images.reshape(-1, {s}, {s}, 3) if the three "
            "colours of a pixel lie side by side. Draw one of each"
        )
    refuse(rows.shape, f"{way}.")


def channels_first(images: np.ndarray) -> np.ndarray:
    """Images as (N, C, H, W).

    images: (N, C, H, W) or (N, H, W, C). ValueError if neither fits.
    """
    front, back = (images.shape[axis] in (1, 3) for axis in (1, 3))
    if front == back:
        refuse(
            images.shape,
            "Neither axis 1 nor axis 3 can be that of the channels. If the "
            "last of 2 or 4 is the opacity, drop it: images[..., :-1]. With "
            "other numbers of channels, make the Dataset yourself.",
        )
    return images if front else np.moveaxis(images, 3, 1)


def as_names(labels: Any) -> np.ndarray:
    """The labels as whole numbers or as text, (N,).

    labels: (N,) or (N, 1): whole numbers, also as floats, or text.
    ValueError if they are anything else.
    """
    names, says = np.array(None), ""
    try:
        names = np.asarray(labels)
    except Exception as error:  # of many kinds: a tensor's, a ragged list's
        says = f" {error}"
    if names.dtype == object and all(isinstance(n, str) for n in names.flat):
        names = names.astype(str)
    shape, whole = names.shape, names.dtype.kind in "biuUS"
    if names.dtype.kind == "f":
        whole = bool(np.all(names == np.floor(names)))  # which nan is not
    if not whole or np.ma.is_masked(labels):
        raise ValueError(
            f"as_labels was given labels of {names.dtype}, such as "
            f"{names.ravel()[:3]}; expected whole numbers or text. A quantity "
            "is not a class, and a gap is none: leave those images out." + says
        )
    if len(shape) == 2 and shape[1] == 1:
        names = names[:, 0]
    if names.ndim != 1:
        raise ValueError(
            f"as_labels was given labels of shape {shape}; expected (N,), or "
            "a column (N, 1). np.argmax(labels, axis=1) makes them of rows "
            "with a single 1."
        )
    return names.astype(np.int64 if names.dtype.kind in "biuf" else str)


def as_labels(
    labels: Any, class_names: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,), each in 0..K-1, and the names of the K classes, sorted.

    labels: as as_names takes them.
    class_names: those of the training labels, if these are others.
    ValueError if there are fewer than two classes, nearly as many classes as
        images, or a name that class_names lacks.
    """
    names = as_names(labels)
    different, numbers = np.unique(names, return_inverse=True)
    found = tuple(map(str, different))
    if class_names is not None:
        new = sorted(set(found) - set(class_names))
        if new:
            raise ValueError(
                f"the test labels have the classes {new}; expected only those "
                f"of the training labels, {list(class_names)}. Write them in "
                "the same way in both."
            )
        places = np.array([class_names.index(name) for name in found], int)
        return places[numbers], class_names
    if not 2 <= len(found) <= max(len(names) / 2, 2):
        raise ValueError(
            f"{len(names)} labels have {len(found)} different values, such as "
            f"{list(found[:3])}; expected 2 classes or more, with 2 images or "
            "more each. Quantities and file names are no classes."
        )
    return numbers, found


def make_datasets(
    images: Any,
    labels: Any,
    test: tuple[Any, Any] | None = None,
    name: str = "own",
) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test set, scaled by the training set alone.

    images: as as_images takes them, on any scale; labels: as as_labels does.
    test: images and labels of a test set; without, a fifth is laid aside.
    name: of the data set.
    Of colour images, mean and std have an axis of channels, (3, 1, 1).
    ValueError if anything does not fit.
    """
    y, names = as_labels(labels)
    x = as_images(images, len(y))
    if test is None:
        known, aside = split(len(y), len(y) // 5)
        test_x, test_y = x[aside], y[aside]
        x, y = x[known], y[known]
    else:
        test_y, _ = as_labels(test[1], names)
        test_x = as_images(test[0], len(test_y))
    train, validation = split(len(y), len(y) // 10)
    check_splits(x[train], y[train], test_x, names)
    mean: Any = x[train].mean(axis=(0, 2, 3), dtype=float, keepdims=True)[0]
    std: Any = x[train].std(axis=(0, 2, 3), dtype=float, keepdims=True)[0]
    if x.shape[1] == 1:
        mean, std = mean.item(), std.item()

    def dataset(x: np.ndarray, y: np.ndarray) -> Dataset:
        scaled = ((x - mean) / std).astype(np.float32)
        return Dataset(name, scaled, y, names, mean, std)

    known_set = dataset(x, y)
    return (
        *(known_set.subset(train), known_set.subset(validation)),
        dataset(test_x, test_y),
    )


def check_splits(
    x: np.ndarray, y: np.ndarray, test: np.ndarray, names: tuple[str, ...]
) -> None:
    """ValueError unless there is something to learn, on the test's scale.

    x, y: (N, C, H, W) and (N,), of the training split.
    test: (M, C, H, W), the test images. names: of the classes.
    """
    counts = np.bincount(y, minlength=len(names))
    if counts.min() == 0:
        raise ValueError(
            f"no image of class {names[counts.argmin()]!r} is left to learn "
            "from; expected one at least. Add images of it, or leave it out."
        )
    if x.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"the test images have (C, H, W) = {test.shape[1:]}; expected "
            f"{x.shape[1:]}, as the training images. Bring both to one size."
        )
    spans = x.max((0, 2, 3)).astype(float) - x.min((0, 2, 3))
    if spans.min() == 0:
        raise ValueError(
            f"a channel of the training images is {x.min()} everywhere; "
            "expected two values at least. Look at the images."
        )
    wide = float(test.max()) - test.min() if test.size else spans.max()
    if not 0.1 < wide / spans.max() < 10:
        raise ValueError(
            f"the test images run from {test.min()} to {test.max()}, the "
            f"training images from {x.min()} to {x.max()}; expected one "
            "scale. Divide the bytes by 255, or neither."
        )
