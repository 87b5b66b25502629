# Written by book/training/metrics.md. To keep edits: tangle.py --back.
"""Measuring a classifier: the confusion matrix and what is read off it."""

import numpy as np


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
    """M[i, j]: how many images of class i were taken for class j.  (K, K).

    labels, predictions: (N,) integers in 0..K-1, else a ValueError.
    """
    for name, values in (("labels", labels), ("predictions", predictions)):
        one_each = values.shape == labels.shape and values.ndim == 1
        if not one_each or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{name} have shape {values.shape} and dtype {values.dtype};"
                f" expected {labels.shape[:1]} integers, one class number "
                "per image. From logits, take logits.argmax(axis=1)."
            )
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name} run from {values.min()} to {values.max()}; "
                f"expected 0..{num_classes - 1}. Raise num_classes, or "
                "number the classes from 0."
            )
    # Each pair (i, j) is one number, i * K + j: count those. As int64,
    # since K^2 pairs may be too many for the labels' own dtype.
    pairs = labels.astype(np.int64) * num_classes
    pairs += predictions.astype(np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.zeros(numerator.shape)
    # Where the denominator is 0, the quotient keeps its 0.
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def accuracy(confusion: np.ndarray) -> float:
    """The share of images on the diagonal, those classified right: 0..1."""
    return float(ratio(np.trace(confusion), confusion.sum()))


def precision_recall_f1(
    confusion: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, three times (K,); 0/0 is 0.

    TP / (TP + FP), TP / (TP + FN), 2 TP / (2 TP + FP + FN).
    """
    hits = np.diag(confusion)
    predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
    return (
        ratio(hits, predicted),
        ratio(hits, actual),
        ratio(2 * hits, predicted + actual),
    )


def average_precision_recall_f1(
    confusion: np.ndarray, average: str
) -> tuple[float, float, float]:
    """Precision, recall and F1 over all classes; ValueError if unknown.

    average: 'macro', each class alike; 'weighted', by its number of images;
    'micro', each image alike, where all three equal the accuracy.
    """
    if average == "micro":
        return (accuracy(confusion),) * 3
    weights = {
        "macro": np.ones(len(confusion)),
        "weighted": confusion.sum(axis=1),
    }
    if average not in weights:
        raise ValueError(
            f"average is {average!r}; expected 'macro', 'micro' or 'weighted'"
        )
    share = ratio(weights[average], weights[average].sum())
    precision, recall, f1 = (
        float(share @ per_class)
        for per_class in precision_recall_f1(confusion)
    )
    return precision, recall, f1
