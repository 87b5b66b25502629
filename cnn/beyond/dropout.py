# Written by book/beyond/dropout.md. To keep edits: tangle.py --back.
"""Dropout: entries that are left out, by dice, while a network trains."""

import numpy as np

from cnn.data import check_arrays, check_generator, check_numbers
from cnn.layer import Layer
from cnn.relu import gate


def dropout(x: np.ndarray, kept: np.ndarray, p: float) -> np.ndarray:
    """y = x / (1 - p) where kept, else 0: its mean over masks is x.

    x: of any shape. kept: like x, True and False.
    p: the chance that an entry is left out, 0 <= p < 1.
    Equation: eq-dropout-forward.
    """
    check_numbers(p=p)
    (x,) = check_arrays("dropout", f"x {kept.shape}", x)
    y: np.ndarray = gate(x, kept) / (1 - p)
    return y


def dropout_backward(
    grad_output: np.ndarray, kept: np.ndarray, p: float
) -> np.ndarray:
    """dL/dx = dL/dy / (1 - p) where kept, else 0.

    grad_output: dL/dy, of y's shape. kept: like it, forward's mask.
    p: the chance that an entry was left out, 0 <= p < 1.
    Equation: eq-dropout-backward.
    """
    return dropout(grad_output, kept, p)


class Dropout(Layer):
    """Leaves entries out while it trains; in evaluation, y = x. Any shape.

    p: the chance that an entry is left out; rng: draws the masks.
    ValueError unless 0 <= p < 1.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator) -> None:
        check_generator(rng)
        check_numbers(p=p)
        if not 0 <= p < 1:
            raise ValueError(
                f"p is {p}; expected 0 <= p < 1, the share that is left "
                "out. To keep four of five, take p = 0.2."
            )
        self.p, self.rng = p, rng

    def forward(self, x: np.ndarray) -> np.ndarray:
        (x,) = check_arrays("Dropout.forward", "x (...)", x)
        y, kept = x, None
        if self.training:
            kept = self.rng.random(x.shape, np.float32) >= self.p
            y = dropout(x, kept, self.p)
        self.save_for_backward(y, kept)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, kept = self.saved(grad_output)
        if kept is None:
            return grad_output
        return dropout_backward(grad_output, kept, self.p)
