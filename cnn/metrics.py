# Written by book/training/metrics.md. To keep edits: tangle.py --back.
"""Measuring a classifier: the confusion matrix and what is read off it."""

from dataclasses import dataclass

import numpy as np

from cnn.data import as_numbers, check_arrays, check_positive
from cnn.loss import check_labels


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
    """M[i, j]: how many images of class i were taken for class j, (K, K).

    labels, predictions: (N,) of 0..K-1, else ValueError. num_classes: K.
    Equation: eq-metrics-confusion.
    """
    check_positive(num_classes=num_classes)
    user = "confusion_matrix"
    count = len(np.atleast_1d(as_numbers(user, "labels", labels)))
    labels, predictions = (
        check_labels(user, values, count, num_classes, name)
        for name, values in (("labels", labels), ("predictions", predictions))
    )
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    return confusion


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, of one shape, entry by entry; 0 for 0/0."""
    quotient: np.ndarray = part / np.where(whole == 0, 1, whole)
    return quotient


def check_confusion(user: str, confusion: np.ndarray) -> np.ndarray:
    """The confusion, (K, K), that user was given, if it counts images."""
    (confusion,) = check_arrays(user, "confusion (K, K)", confusion)
    if not (confusion >= 0).all():
        raise ValueError(
            f"{user} was given confusion with {confusion.min()} in it; "
            "expected counts of images, at least 0. confusion_matrix counts."
        )
    return confusion


def accuracy(confusion: np.ndarray) -> float:
    """The share of images in confusion, (K, K), that were classified right.

    Equation: eq-metrics-accuracy.
    """
    confusion = check_confusion("accuracy", confusion)
    return float(ratio(np.trace(confusion), confusion.sum()))


def precision_recall_f1(
    confusion: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, three times (K,); 0/0 is 0.

    confusion: (K, K), a row for each true class.
    Equation: eq-metrics-precision-recall, eq-metrics-f1.
    """
    confusion = check_confusion("precision_recall_f1", confusion)
    correct = np.diag(confusion)
    predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = ratio(correct, predicted), ratio(correct, actual)
    return precision, recall, ratio(2 * correct, predicted + actual)


def average_precision_recall_f1(
    confusion: np.ndarray, average: str
) -> tuple[float, float, float]:
    """Precision, recall and F1 over all classes of confusion, (K, K).

    average: 'macro', each class alike; 'weighted', by its number of images;
        'micro', each image alike: all three are the accuracy. Else ValueError.
    """
    confusion = check_confusion("average_precision_recall_f1", confusion)
    if average == "micro":
        return (accuracy(confusion),) * 3
    images = confusion.sum(axis=1)
    weights = {"macro": np.ones_like(images), "weighted": images}
    if average not in weights:
        raise ValueError(
            f"average is {average!r}; expected 'macro', 'micro' or 'weighted'"
        )
    share = ratio(weights[average], weights[average].sum())
    p, r, f = (float(share @ s) for s in precision_recall_f1(confusion))
    return p, r, f


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch achieved.

    train_loss, train_accuracy: means over the steps; nats, and 0..1.
    validation_loss, validation_accuracy: of the weights at its end.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
