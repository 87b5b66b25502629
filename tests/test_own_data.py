"""Your own data: every kind ends in a Dataset, or in an error with a way."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from conftest import in_order
from sklearn.preprocessing import LabelEncoder, StandardScaler

import cnn
from cnn.beyond.own_data import as_images, as_labels
from cnn.data import split


N = 40
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (N, 12, 9), dtype=np.uint8)
SQUARE = RNG.integers(0, 256, (N, 12, 12), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (N, 12, 9, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 2] * (N // 4)

IMAGES: dict[str, tuple[Any, np.ndarray]] = {
    "(N, H, W)": (GREY, GREY[:, np.newaxis]),
    "(N, H, W, 1)": (GREY[..., np.newaxis], GREY[:, np.newaxis]),
    "(N, 1, H, W)": (GREY[:, np.newaxis], GREY[:, np.newaxis]),
    "(N, H, W, 3)": (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
    "(N, 3, H, W)": (
        COLOUR.transpose(0, 3, 1, 2),
        COLOUR.transpose(0, 3, 1, 2),
    ),
    "rows": (SQUARE.reshape(N, -1), SQUARE[:, np.newaxis]),
    "a list": (GREY.tolist(), GREY[:, np.newaxis]),
    "floats in 0..1": (GREY / 255, GREY[:, np.newaxis]),
    "floats in 0..255": (GREY.astype(float), GREY[:, np.newaxis]),
    "float16": (GREY.astype(np.float16), GREY[:, np.newaxis]),
    "scaled before": (GREY / 70 - 1.5, GREY[:, np.newaxis]),
    "0 or 1": (GREY > 99, (GREY > 99)[:, np.newaxis]),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_each_kind_become_a_data_set(kind: str) -> None:
    images, right = IMAGES[kind]
    splits = cnn.make_datasets(images, LABELS)
    assert [len(s) for s in splits] == [29, 3, 8]
    channels = right.shape[1]
    found = np.concatenate([s.images for s in splits])
    assert found.dtype == np.float32
    assert found.shape == (N, *right.shape[1:])

    # scikit-learn scales a channel by the training images, which come first.
    def column(x: np.ndarray, c: int) -> np.ndarray:
        return x[:, c].reshape(-1, 1).astype(float)

    index = order(right, found)
    theirs = np.stack(
        [
            StandardScaler()
            .fit(column(right[index[:29]], c))
            .transform(column(right[index], c))
            .reshape(found[:, c].shape)
            for c in range(channels)
        ],
        axis=1,
    )
    assert np.abs(found - theirs).max() < 0.01
    # Each image kept its own label.
    numbers = np.concatenate([s.labels for s in splits])
    assert numbers.tolist() == [LABELS[n] for n in index]


def order(right: np.ndarray, found: np.ndarray) -> list[int]:
    """Which of the right images each of those found is: the most alike."""
    a, b = (x.reshape(len(x), -1).astype(float) for x in (found, right))
    return np.corrcoef(a, b)[: len(a), len(a) :].argmax(axis=1).tolist()


NAMES: dict[str, tuple[Any, list[str]]] = {
    "a list": (LABELS, ["0", "1", "2"]),
    "bytes": (np.array(LABELS, np.uint8), ["0", "1", "2"]),
    "a column": (np.array(LABELS)[:, np.newaxis], ["0", "1", "2"]),
    "floats": (np.array(LABELS, float), ["0", "1", "2"]),
    "a column of floats": (np.array(LABELS, float)[:, None], ["0", "1", "2"]),
    "from 1": (np.array(LABELS) + 1, ["1", "2", "3"]),
    "with gaps": (np.array(LABELS) * 50 - 50, ["-50", "0", "50"]),
    "text": (["abc"[k] for k in LABELS], ["a", "b", "c"]),
    "text as objects": (
        np.array(["abc"[k] for k in LABELS], object),
        ["a", "b", "c"],
    ),
    "truths": (np.array(LABELS) == 2, ["0", "1"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_labels_of_each_kind_are_scikit_learns(kind: str) -> None:
    labels, names = NAMES[kind]
    numbers, found = as_labels(labels)
    assert found == tuple(names)
    assert numbers.dtype == np.int64
    theirs = LabelEncoder().fit_transform(np.ravel(labels))
    assert numbers.tolist() == theirs.tolist()
    train, *_ = cnn.make_datasets(GREY, labels)
    assert train.class_names == found


# Which axis is N, H, W, C: with H before W, which no shape could tell apart.
ORDERS = [o for o in permutations(range(4)) if o.index(1) < o.index(2)]
TOLD = [(0, 1, 2, 3), (0, 3, 1, 2)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("images", [COLOUR, COLOUR[..., :1]])
def test_each_order_with_h_before_w_is_right_or_refused(
    images: np.ndarray, order: tuple[int, ...]
) -> None:
    turned = images.transpose(order)
    if order in TOLD:
        right = images.transpose(0, 3, 1, 2)
        assert np.array_equal(as_images(turned, N), right)
    else:
        with pytest.raises(ValueError, match=r"expected \(N, H, W\)"):
            as_images(turned, N)


ASIDE = int(split(N, N // 5)[1][0])  # an image of the test split
TABLE = np.column_stack([LABELS, SQUARE.reshape(N, -1)])
REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "images last": (
        (np.moveaxis(GREY, 0, 2), LABELS),
        ("(12, 9, 40)", "expected (N, H, W)", "moveaxis(images, 2, 0)"),
    ),
    "one label too few": (
        (GREY, LABELS[1:]),
        ("(40, 12, 9)", "expected", "39 labels"),
    ),
    "labels in column 0": (
        (TABLE, LABELS),
        ("(40, 145)", "expected", "images[:, 1:]"),
    ),
    "rows of colours": (
        (SQUARE.repeat(3, 0).reshape(N, -1), LABELS),
        ("(40, 432)", "expected", "reshape(-1, 3, 12, 12)", "Draw"),
    ),
    "rows of oblongs": (
        (GREY[..., :8].reshape(N, -1), LABELS),
        ("(40, 96)", "expected", "reshape(-1, H, W)"),
    ),
    "opacity": (
        (np.pad(COLOUR, [(0, 0)] * 3 + [(0, 1)]), LABELS),
        ("(40, 12, 9, 4)", "expected", "images[..., :-1]"),
    ),
    "channels in the middle": (
        (COLOUR.transpose(0, 1, 3, 2), LABELS),
        ("(40, 12, 3, 9)", "expected", "axis 1 nor axis 3"),
    ),
    "rows with a channel": (
        (SQUARE.reshape(N, -1, 1), LABELS),
        ("(40, 144, 1)", "expected", "reshape"),
    ),
    "one image": ((GREY[0], LABELS), ("(12, 9)", "expected", "40 labels")),
    "five axes": (
        (GREY.reshape(N, 1, 1, 12, 9), LABELS),
        ("(40, 1, 1, 12, 9)", "expected", "reshape"),
    ),
    "different sizes": (
        ([GREY[0], GREY[1, :5]] * 20, LABELS),
        ("given images", "expected", "NumPy cannot"),
    ),
    "text": ((GREY.astype(str), LABELS), ("<U", "expected", "float")),
    "nan": (
        (np.where(GREY > 254, np.nan, GREY), LABELS),
        ("nan", "expected", "nan_to_num"),
    ),
    "blank": (
        (np.ones((N, 9, 9)), LABELS),
        ("1.0 everywhere", "expected", "Look"),
    ),
    "one channel blank": (
        (COLOUR * np.array([1, 1, 0], np.uint8), LABELS),
        ("everywhere", "expected", "Look"),
    ),
    "one-hot": (
        (GREY, np.eye(3, dtype=int)[LABELS]),
        ("(40, 3)", "expected (N,)", "argmax"),
    ),
    "quantities": (
        (GREY, np.linspace(0, 1, N)),
        ("float64", "expected", "quantity"),
    ),
    "a gap": ((GREY, [np.nan, *LABELS[1:]]), ("nan", "expected", "gap")),
    "None": ((GREY, [None, *LABELS[1:]]), ("object", "expected", "gap")),
    "masked": (
        (GREY, np.ma.masked_equal(LABELS, 1)),
        ("int64", "expected", "gap"),
    ),
    "file names": (
        (GREY, [f"{n}.png" for n in range(N)]),
        ("40 different", "expected", "file names"),
    ),
    "ragged labels": (
        (GREY, [[1], [2, 3]] * (N // 2)),
        ("object", "expected", "inhomogeneous"),
    ),
    "one class": ((GREY, [1] * N), ("1 different", "expected 2 classes")),
    "a rare class": (
        (GREY, [3 if n == ASIDE else k for n, k in enumerate(LABELS)]),
        ("'3'", "expected one", "leave it out"),
    ),
    "a test of another size": (
        (GREY, LABELS, (SQUARE, LABELS)),
        ("(1, 12, 12)", "expected (1, 12, 9)", "one size"),
    ),
    "a test on another scale": (
        (GREY, LABELS, (GREY / 255, LABELS)),
        ("to 1.0", "expected one scale", "Divide"),
    ),
    "a test of other classes": (
        (GREY, LABELS, (GREY, np.array(LABELS) + 1)),
        ("['3']", "expected", "same way"),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_each_doubt_is_an_error_with_its_way_out(kind: str) -> None:
    arguments, says = REFUSED[kind]
    with pytest.raises(ValueError, match=in_order(*says)):
        cnn.make_datasets(*arguments)


def test_a_test_set_keeps_the_names_of_the_training_labels() -> None:
    """Though class 0 has no test image, 1 and 2 keep their numbers."""
    labels = np.array(LABELS)
    some = labels > 0
    *_, test = cnn.make_datasets(GREY, LABELS, (GREY[some], labels[some]))
    assert test.labels.tolist() == labels[some].tolist()
    assert test.class_names == ("0", "1", "2")


def test_a_scale_is_of_the_training_images_alone() -> None:
    train, _, test = cnn.make_datasets(GREY, LABELS, (GREY // 2, LABELS))
    assert train.images.mean() == pytest.approx(0, abs=1e-5)
    assert train.images.std() == pytest.approx(1, abs=1e-5)
    back = test.images[:, 0] * test.std + test.mean
    assert np.allclose(back, GREY // 2, atol=1e-3)


def test_colours_are_scaled_one_by_one_and_back() -> None:
    bright = COLOUR // np.array([1, 4, 9], np.uint8)
    train, _, test = cnn.make_datasets(bright, LABELS, (bright, LABELS))
    assert np.allclose(train.images.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    back = test.images * test.std + test.mean
    assert np.allclose(back, bright.transpose(0, 3, 1, 2), atol=1e-3)


def test_a_network_learns_from_what_was_made() -> None:
    """Squares that are brighter in one colour than in the other two."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    images = rng.random((300, 6, 6, 3))
    images += 0.5 * np.eye(3)[labels][:, np.newaxis, np.newaxis]
    train, validation, test = cnn.make_datasets(images, labels)
    network = cnn.Sequential(
        cnn.Conv2d(3, 4, 3, rng=rng),
        cnn.ReLU(),
        cnn.Flatten(),
        cnn.Linear(64, 3, rng=rng),
    )
    optimizer = cnn.SGD(network.parameters(), 0.02, 0.9)
    cnn.train(
        network, optimizer, train, validation,
        epochs=5, batch_size=20, rng=rng,
    )  # fmt: skip
    assert cnn.evaluate(network, test)[1] > 0.95
