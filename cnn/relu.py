# Written by book/layers/relu.md. To keep edits: tangle.py --back.
"""The rectifier, y = max(x, 0)."""

import numpy as np

from cnn.data import check_arrays
from cnn.layer import Layer


def relu(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0), entry by entry, x of any shape; nan stays nan.

    Equation: eq-relu-forward.
    """
    (x,) = check_arrays("relu", "x (...)", x)
    y: np.ndarray = np.maximum(x, 0)
    return y


def gate(grad: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """grad where is_open, else 0: also where grad is infinite or nan.

    grad, is_open: of one shape; is_open holds True and False.
    """
    if not np.isfinite(grad).all():  # 0 * infinity would be nan
        return np.where(is_open, grad, 0)
    product: np.ndarray = grad * is_open  # several times as fast
    return product


def relu_backward(grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx = dL/dy where x > 0, or is nan; else 0, also at x = 0.

    grad_output, x: dL/dy and what relu was given, of one shape.
    Equation: eq-relu-backward.
    """
    contract = "x (...), grad_output (...)"
    x, grad_output = check_arrays("relu_backward", contract, x, grad_output)
    return gate(grad_output, ~(x <= 0))


class ReLU(Layer):
    """y = max(x, 0), entry by entry; any shape."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = relu(x)
        self.save_for_backward(y, x)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, x = self.saved(grad_output)
        return relu_backward(grad_output, x)
