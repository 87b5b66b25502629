"""Images as arrays: the splits, the scale, the minibatches."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.data import (
    Dataset,
    as_numbers,
    check_arrays,
    mean_and_std,
    minibatches,
    scale,
    split,
)


# What is given as numbers.

# Floats stay as large as they are; others become the least float that holds
# them, but not below float32.
KINDS = {
    "?": "f4",
    "i1": "f4",
    "u2": "f4",
    "i4": "f8",
    "u8": "f8",
    ">f2": "f2",
    ">f4": "f4",
    "<f8": "f8",
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_become_floats_that_hold_them(kind):
    (array,) = check_arrays("f", "x (N)", np.array([0, 1], kind))
    assert array.dtype == np.dtype(KINDS[kind])
    assert array.tolist() == [0, 1]


def test_a_file_that_is_mapped_is_not_copied(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3,))
    (array,) = check_arrays("f", "x (N)", mapped)
    assert np.shares_memory(array, mapped)


def test_what_has_no_numbers_is_named_with_its_type():
    with pytest.raises(ValueError, match="was given x of type list and <U1;"):
        as_numbers("f", "x", ["a"])


# The splits and the scale.


def test_the_split_never_changes():
    """Another would put yesterday's validation images among the training."""
    train, validation = split(60000, 5000)
    assert validation[:5].tolist() == FIRST_VALIDATION
    assert len(train) == 55000


FIRST_VALIDATION = [4013, 23840, 29603, 43011, 58703]


@given(st.integers(2, 500), st.data())
def test_splits_share_nothing_and_lose_nothing(count, drawn):
    size = drawn.draw(st.integers(0, count - 1))
    train, validation = split(count, size)
    assert len(validation) == size
    assert sorted([*train, *validation]) == list(range(count))


@pytest.mark.parametrize("size", [-1, 5, 6, 1.5, 1.0, "1", None, [1]])
def test_some_are_left_to_learn_from(size):
    says = re.escape(f"size is {size!r} of 5 images; expected")
    with pytest.raises(ValueError, match=says):
        split(5, size)


@given(
    st.lists(st.integers(0, 255), min_size=2, max_size=60).filter(
        lambda values: len(set(values)) > 1
    )
)
def test_mean_and_std_are_numpys(values):
    pixels = np.array(values, np.uint8)[:, np.newaxis, np.newaxis]
    mean, std = mean_and_std(pixels)
    assert mean == pytest.approx(pixels.astype(float).mean(), rel=1e-12)
    assert std == pytest.approx(pixels.astype(float).std(), rel=1e-9)


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 8, 8), np.uint8), np.full((2, 8, 8), 7, np.uint8)]
)
def test_nothing_to_scale_by(pixels):
    with pytest.raises(ValueError, match=r"expected.*[Ll]ook at"):
        mean_and_std(pixels)


def test_scale_is_its_formula():
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    x = scale(pixels, 33.3, 78.6)
    assert x.shape == (4, 1, 8, 8)
    assert x.dtype == np.float32
    expected = (pixels.astype(float) - 33.3) / 78.6
    assert np.allclose(x[:, 0], expected, atol=1e-6)
    assert pixels[0, 0, 1] == 1  # as it was


# The minibatches.


def numbered(n: int) -> Dataset:
    """A data set whose images and labels both say which one they are."""
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    return Dataset("numbers", images, np.arange(n), ("0",), 0.0, 1.0)


@given(st.integers(0, 70), st.integers(1, 80), st.integers(0, 2**32))
def test_minibatches_hold_each_image_once_with_its_label(n, size, seed):
    batches = list(minibatches(numbered(n), size, np.random.default_rng(seed)))
    assert len(batches) == -(-n // size)
    assert all(len(labels) == size for _, labels in batches[:-1])
    for images, labels in batches:
        assert images.shape == (len(labels), 1, 1, 1)
        assert np.array_equal(images[:, 0, 0, 0], labels)
    seen = [label for _, labels in batches for label in labels]
    assert sorted(seen) == list(range(n))


def test_minibatches_by_seed():
    def epoch(rng: np.random.Generator) -> list[int]:
        batches = minibatches(numbered(50), 7, rng)
        return [int(label) for _, labels in batches for label in labels]

    rng = np.random.default_rng(3)
    first = epoch(rng)
    assert first != list(range(50))
    assert epoch(rng) != first  # a new order each epoch
    assert epoch(np.random.default_rng(3)) == first


@pytest.mark.parametrize("size", [0, -3])
def test_minibatches_refuse_a_size(size):
    with pytest.raises(
        ValueError, match=rf"{size}; expected a whole number of at least 1"
    ):
        next(minibatches(numbered(5), size, np.random.default_rng(0)))


def test_subset_keeps_what_belongs_together():
    five = numbered(5).subset(np.array([3, 1]))
    assert five.labels.tolist() == [3, 1]
    assert five.images.ravel().tolist() == [3, 1]
    assert len(five) == 2
    assert five.name == "numbers"


def test_dataset_is_frozen():
    with pytest.raises(AttributeError):
        numbered(2).name = "other"  # type: ignore[misc]
