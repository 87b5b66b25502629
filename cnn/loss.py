# Written by book/layers/loss.md. To keep edits: tangle.py --back.
"""Softmax and cross-entropy: how wrong a prediction is, as one number."""

import numpy as np

from cnn.layer import check_batch


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p = (z - m) - log(sum(exp(z - m))), in each row, with m = max(z).

    logits: z, (N, K), N at least 1, else ValueError. No exp overflows.
    Equation: eq-loss-log-softmax.
    """
    check_batch(logits, "(N, K)", "log_softmax")
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


def check_labels(count: int, classes: int, **named: np.ndarray) -> None:
    """ValueError unless all named are (count,) integers in 0..classes-1."""
    for name, values in named.items():
        integers = np.issubdtype(values.dtype, np.integer)
        if values.shape != (count,) or not integers:
            raise ValueError(
                f"{name} have shape {values.shape} and dtype {values.dtype}; "
                f"expected ({count},) integers, one class number per image. "
                f"From one-hot rows or logits, take {name}.argmax(axis=1)."
            )
        if count and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(
                f"{name} run from {values.min()} to {values.max()}; expected "
                f"0..{classes - 1}. Number the classes from 0, or allow for "
                "more of them: more outputs, a larger num_classes."
            )


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """L = -mean(log p[n, labels[n]]), in nats.

    logits, labels: (N, K), N at least 1; (N,), of 0..K-1; else ValueError.
    Equation: eq-loss-cross-entropy.
    """
    log_p = log_softmax(logits)
    check_labels(*log_p.shape, labels=labels)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def cross_entropy_backward(
    logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """dL/dz = (p - y) / N, where y is the one-hot label, (N, K).

    logits, labels: (N, K), (N,), as cross_entropy takes and checks them.
    Equation: eq-loss-gradient.
    """
    grad = softmax(logits)
    check_labels(*grad.shape, labels=labels)
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
                "CrossEntropyLoss.backward was called before forward; it "
                "needs logits and labels. Call forward(logits, labels) first."
            )
        return cross_entropy_backward(*self._saved)
