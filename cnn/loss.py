# Written by book/layers/loss.md. To keep edits: tangle.py --back.
"""Softmax and cross-entropy: how wrong a prediction is, as one number."""

from typing import Any

import numpy as np

from cnn.data import as_numbers, check_arrays


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p = (z - m) - log(sum(exp(z - m))), in each row, with m = max(z).

    logits: z, (N, K), N at least 1, else ValueError. No exp overflows.
    Equation: eq-loss-log-softmax.
    """
    (logits,) = check_arrays("log_softmax", "logits (N, K)", logits)
    shifted = logits - logits.max(axis=1, keepdims=True)  # (N, K), all <= 0
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (N, 1)
    log_p: np.ndarray = shifted - log_sum
    return log_p


def softmax(logits: np.ndarray) -> np.ndarray:
    """p = exp(z) / sum(exp(z)), in each row.

    logits: z, (N, K), N at least 1, else ValueError.
    Equation: eq-loss-softmax.
    """
    p: np.ndarray = np.exp(log_softmax(logits))
    return p


def check_labels(
    user: str, labels: Any, count: int, classes: int, name: str = "labels"
) -> np.ndarray:
    """The labels that user was given: count whole numbers in 0..classes-1.

    labels: (count,), or a list; called name in the error, a ValueError.
    """
    array, way = as_numbers(user, name, labels), ""
    plain = array.shape == (count,) and array.dtype == np.int64 and count
    # Seen without a sign, a number below 0 is huge.
    if plain and array.view(np.uint64).max() < classes:
        return array
    least, most = (array.min(), array.max()) if array.size else (0, 0)
    if array.shape != (count,):
        way = f"Give one number of a class for each of the {count} images."
        if array.size == count:
            way = f"Take np.ravel({name}), which has one axis."
        elif array.ndim == 2 and len(array) == count:
            way = f"Of rows of scores or ones, take np.argmax({name}, axis=1)."
    elif array.dtype.kind not in "iu" and count:
        way = "A label is the number of a class; a fraction is none."
        if np.isin(array, np.arange(classes)).all():
            way = f"Take np.array({name}, int), which has the same values."
    elif least < 0:
        way = f"Leave out images without a class, where {name} is below 0."
    elif most >= classes:
        way = "Allow for more classes: more outputs, a larger num_classes."
        if least > 0 and most == classes:
            way = f"Count the classes from 0: np.subtract({name}, 1)."
    if way:
        raise ValueError(
            f"{user} was given {name} of shape {array.shape} and "
            f"{array.dtype}, from {least} to {most}; expected ({count},) "
            f"whole numbers in 0..{classes - 1}. {way}"
        )
    return array.astype(np.int64, copy=False)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """L = -mean(log p[n, labels[n]]), in nats.

    logits, labels: (N, K), N at least 1; (N,), of 0..K-1; else ValueError.
    Equation: eq-loss-cross-entropy.
    """
    log_p = log_softmax(logits)
    labels = check_labels("cross_entropy", labels, *log_p.shape)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def cross_entropy_backward(
    logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """dL/dz = (p - y) / N, where y is the one-hot label, (N, K).

    logits, labels: (N, K), (N,), as cross_entropy takes and checks them.
    Equation: eq-loss-gradient.
    """
    grad = softmax(logits)
    labels = check_labels("cross_entropy_backward", labels, *grad.shape)
    grad[np.arange(len(labels)), labels] -= 1  # y is 1 here, else 0
    return grad / len(labels)


class CrossEntropyLoss:
    """Softmax and cross-entropy as the end of a network."""

    _saved: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The cross_entropy of logits, (N, K), and labels, (N,)."""
        loss = cross_entropy(logits, labels)
        self._saved = logits, labels
        return loss

    def backward(self) -> np.ndarray:
        """dL/dlogits, (N, K). ValueError if forward has not run."""
        if self._saved is None:
            raise ValueError(
                "CrossEntropyLoss.backward was called before forward; "
                "expected to know logits and labels. Call forward(logits, "
                "labels) first."
            )
        return cross_entropy_backward(*self._saved)
