"""The confusion matrix and what is read off it, beside scikit-learn."""

import warnings

import numpy as np
import pytest
from conftest import in_order
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as sk

from cnn.metrics import (
    accuracy,
    average_precision_recall_f1,
    confusion_matrix,
    precision_recall_f1,
    ratio,
)


# It warns where only one class occurs, which is as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")


@st.composite
def classifications(draw):
    """Labels, predictions and K; classes may be absent or never said."""
    classes = draw(st.integers(1, 6))
    n = draw(st.integers(1, 30))
    # Often not all classes occur, so that 0/0 is met.
    occur = st.integers(0, draw(st.integers(0, classes - 1)))
    said = st.integers(0, draw(st.integers(0, classes - 1)))
    labels = draw(st.lists(occur, min_size=n, max_size=n))
    predictions = draw(st.lists(said, min_size=n, max_size=n))
    if draw(st.booleans()):  # the classes that occur may be the last ones
        labels = [classes - 1 - label for label in labels]
    return np.array(labels), np.array(predictions), classes


# One class absent, one never said, one neither.
gaps = (np.array([0, 0, 1, 1]), np.array([0, 2, 0, 2]), 4)


@given(classifications())
@example(gaps)
def test_confusion_matrix_is_that_of_sklearn(case):
    labels, predictions, classes = case
    ours = confusion_matrix(labels, predictions, classes)
    theirs = sk.confusion_matrix(
        labels, predictions, labels=np.arange(classes)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == (classes, classes)
    assert ours.dtype == np.int64


@given(classifications())
@example(gaps)
def test_accuracy_is_that_of_sklearn(case):
    labels, predictions, classes = case
    ours = accuracy(confusion_matrix(labels, predictions, classes))
    assert ours == pytest.approx(sk.accuracy_score(labels, predictions))


@given(classifications())
@example(gaps)
def test_each_class_has_the_scores_of_sklearn(case):
    labels, predictions, classes = case
    confusion = confusion_matrix(labels, predictions, classes)
    theirs = sk.precision_recall_fscore_support(
        labels, predictions, labels=np.arange(classes), zero_division=0
    )
    ours = (*precision_recall_f1(confusion), confusion.sum(axis=1))
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@given(classifications())
@example(gaps)
def test_each_average_is_that_of_sklearn(average, case):
    labels, predictions, classes = case
    ours = average_precision_recall_f1(
        confusion_matrix(labels, predictions, classes), average
    )
    theirs = sk.precision_recall_fscore_support(
        labels,
        predictions,
        labels=np.arange(classes),
        average=average,
        zero_division=0,
    )[:3]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_an_absent_class_is_counted_by_us_alone():
    """Unless scikit-learn is told of it."""
    labels, predictions = [0, 0, 1], [0, 1, 1]
    confusion = confusion_matrix(labels, predictions, 4)
    *_, ours = average_precision_recall_f1(confusion, "macro")
    seen = sk.f1_score(labels, predictions, average="macro")
    assert ours == pytest.approx(seen / 2)  # two of four classes
    told = sk.f1_score(
        *(labels, predictions),
        labels=range(4),
        average="macro",
        zero_division=0,
    )
    assert ours == pytest.approx(told)


def test_pencil_example():
    """The numbers that the chapter works out by hand."""
    confusion = confusion_matrix(
        np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]),
        np.array([0, 0, 0, 0, 1, 0, 1, 1, 0, 2]),
        3,
    )
    assert confusion.tolist() == [[4, 1, 0], [1, 2, 0], [1, 0, 1]]
    precision, recall, f1 = precision_recall_f1(confusion)
    np.testing.assert_allclose(precision, [4 / 6, 2 / 3, 1])
    np.testing.assert_allclose(recall, [4 / 5, 2 / 3, 1 / 2])
    np.testing.assert_allclose(f1, [8 / 11, 2 / 3, 2 / 3])
    np.testing.assert_allclose(
        average_precision_recall_f1(confusion, "macro"),
        [7 / 9, 59 / 90, 68 / 99],
    )
    np.testing.assert_allclose(
        average_precision_recall_f1(confusion, "weighted"),
        [11 / 15, 7 / 10, 23 / 33],
    )


def test_zero_by_zero_is_zero_and_silent():
    """Class 0 is never said, class 2 absent, class 3 neither."""
    confusion = confusion_matrix(np.array([0, 1]), np.array([2, 1]), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision, recall, f1 = precision_recall_f1(confusion)
        macro = average_precision_recall_f1(confusion, "macro")
    assert precision.tolist() == [0, 1, 0, 0]
    assert recall.tolist() == [0, 1, 0, 0]
    assert f1.tolist() == [0, 1, 0, 0]
    assert macro == (0.25, 0.25, 0.25)


def test_no_images_give_zeros():
    none = np.array([], int)
    confusion = confusion_matrix(none, none, 3)
    assert confusion.tolist() == [[0] * 3] * 3
    assert accuracy(confusion) == 0
    for average in ("macro", "micro", "weighted"):
        assert average_precision_recall_f1(confusion, average) == (0, 0, 0)


def test_ratio_takes_numbers_and_arrays():
    np.testing.assert_array_equal(ratio(np.array([1, 2, 0]), 2), [0.5, 1, 0])
    np.testing.assert_array_equal(
        ratio(np.array([0, 0]), np.array([0, 2])), [0, 0]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_small_and_unsigned_labels_do_not_wrap(dtype):
    """19 * 20 + 19 is more than a byte holds."""
    labels = np.array([19, 19, 3], dtype)
    predictions = np.array([19, 0, 17], dtype)
    confusion = confusion_matrix(labels, predictions, 20)
    assert confusion[19, 19] == confusion[19, 0] == confusion[3, 17] == 1
    assert confusion.sum() == 3


def test_matrices_of_batches_add_up():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(4, size=(2, 50))
    parts = [
        confusion_matrix(labels[i : i + 7], predictions[i : i + 7], 4)
        for i in range(0, 50, 7)
    ]
    np.testing.assert_array_equal(
        sum(parts), confusion_matrix(labels, predictions, 4)
    )


def test_arguments_stay_as_they_were():
    labels, predictions = np.array([0, 1, 2]), np.array([2, 1, 0])
    confusion = confusion_matrix(labels, predictions, 3)
    kept = confusion.copy()
    average_precision_recall_f1(confusion, "weighted")
    assert labels.tolist() == [0, 1, 2]
    assert predictions.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(confusion, kept)


# --- bad input -------------------------------------------------------------

GOOD = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        (GOOD, GOOD[:2], ["predictions", "(2,)", "expected (3,)"]),
        (
            GOOD,
            np.eye(3, dtype=int),
            ["(3, 3)", "expected (3,)", "argmax(predictions, axis=1)"],
        ),
        (
            np.eye(3, dtype=int),
            GOOD,
            ["labels", "(3, 3)", "argmax(labels, axis=1)"],
        ),
        (GOOD, GOOD * 1.0, ["predictions", "float64", "whole numbers"]),
        (
            np.array(1),
            np.array(1),
            ["labels of shape ()", "expected (1,)", "ravel"],
        ),
        (
            GOOD + 1,
            GOOD,
            ["labels", "from 1 to 3", "0..2", "subtract"],
        ),
        (GOOD, GOOD - 1, ["predictions", "from -1 to 1", "0..2", "below 0"]),
    ],
)
def test_what_is_no_class_number_is_refused(labels, predictions, words):
    with pytest.raises(ValueError, match=in_order(*words)):
        confusion_matrix(labels, predictions, 3)


def test_unknown_average_is_refused():
    with pytest.raises(
        ValueError,
        match="average is 'mean'; expected 'macro', 'micro' or 'weighted'",
    ):
        average_precision_recall_f1(np.eye(2, dtype=int), "mean")
