# Written by book/layers/relu.md. To keep edits: tangle.py --back.
"""The rectifier, y = max(x, 0)."""

import numpy as np

from cnn.layer import Layer


def relu(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0), entry by entry, x of any shape; nan stays nan.

    Equation: eq-relu-forward.
    """
    y: np.ndarray = np.maximum(x, 0)
    return y


def relu_backward(grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx = dL/dy where x > 0, else 0, also at x = 0.

    grad_output, x: dL/dy and what relu was given, of one shape.
    Equation: eq-relu-backward.
    """
    return grad_output * (x > 0)


class ReLU(Layer):
    """y = max(x, 0), entry by entry; any shape."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.save_for_backward(x)
        return relu(x)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (x,) = self.saved()
        return relu_backward(grad_output, x)
