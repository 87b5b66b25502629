# Written by book/layers/loss.md. To keep edits: tangle.py --back.
"""Softmax and cross-entropy: how wrong a prediction is, as one number."""

import numpy as np

from cnn.layer import check_batch


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p, with p = exp(z) / sum(exp(z)) in each row.  (N, K) -> (N, K).

    The row's largest logit is taken off first: p is the same, and no exp
    overflows. log p = (z - m) - log(sum(exp(z - m))), with m = max(z).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)  # (N, K), all <= 0
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (N, 1)
    log_p: np.ndarray = shifted - log_sum
    return log_p


def softmax(logits: np.ndarray) -> np.ndarray:
    """p = exp(z) / sum(exp(z)), in each row.  (N, K) -> (N, K)."""
    p: np.ndarray = np.exp(log_softmax(logits))
    return p


def check_labels(labels: np.ndarray, logits: np.ndarray) -> None:
    """ValueError unless logits are (N, K), labels N integers in 0..K-1."""
    check_batch(logits, "(N, K)", "cross_entropy")
    n, classes = logits.shape
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; "
            f"expected ({n},) integers, one class number per image. From "
            "one-hot rows, take labels.argmax(axis=1)."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}; expected "
            f"0..{classes - 1}, as there are {classes} logits per image. "
            "Number the classes from 0, or give the network more outputs."
        )


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """L = -mean(log p[n, labels[n]]), in nats.  (N, K), (N,) -> a number.

    ValueError for an empty batch and for labels that are not N integers in
    0..K-1.
    """
    check_labels(labels, logits)
    picked = log_softmax(logits)[np.arange(len(labels)), labels]  # (N,)
    return float(-picked.mean())


def cross_entropy_backward(
    logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """dL/dz = (p - y) / N, where y is the one-hot label.  (N, K).

    ValueError as cross_entropy raises it.
    """
    check_labels(labels, logits)
    grad = softmax(logits)
    grad[np.arange(len(labels)), labels] -= 1  # y is 1 here, else 0
    return grad / len(labels)


class CrossEntropyLoss:
    """Softmax and cross-entropy in one: logits (N, K), labels (N,)."""

    _saved: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss of the batch, in nats."""
        loss = cross_entropy(logits, labels)
        self._saved = logits, labels
        return loss

    def backward(self) -> np.ndarray:
        """dL/dlogits, (N, K); ValueError if forward has not run."""
        if self._saved is None:
            raise ValueError(
                "CrossEntropyLoss.backward was called before forward; it "
                "needs logits and labels. Call forward(logits, labels) first."
            )
        return cross_entropy_backward(*self._saved)
