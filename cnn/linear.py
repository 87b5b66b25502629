# Written by book/layers/linear.md. To keep edits: tangle.py --back.
"""The fully connected layer, y = x W^T + b, and Flatten before it."""

import numpy as np

from cnn.data import check_arrays, check_generator, check_positive
from cnn.layer import Layer, Parameter


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """y = x W^T + b, (N, M).

    x, weight, bias: (N, D), (M, D), (M,); else ValueError.
    Equation: eq-linear-matrix.
    """
    contract = "weight (M, D), x (N, D), bias (M,)"
    weight, x, bias = check_arrays("linear", contract, weight, x, bias)
    # (M, D) @ (D, N) -> (M, N), seen as (N, M): the batch comes last.
    y: np.ndarray = (weight @ x.T).T + bias
    return y


def linear_backward(
    grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dL/dx = G W, dL/dW = G^T x, and dL/db, the sum of G over the batch.

    grad_output: G, dL/dy, (N, M).
    x, weight: (N, D), (M, D), as linear was given them.
    Equation: eq-linear-backward.
    """
    contract = "weight (M, D), x (N, D), grad_output (N, M)"
    given = weight, x, grad_output
    weight, x, grad_output = check_arrays("linear_backward", contract, *given)
    grad_input = (weight.T @ grad_output.T).T  # (D, M) @ (M, N), seen (N, D)
    grad_weight = grad_output.T @ x  # (M, N) @ (N, D) -> (M, D)
    grad_bias = grad_output.sum(axis=0)  # (N, M) -> (M,)
    return grad_input, grad_weight, grad_bias


class Linear(Layer):
    """Fully connected layer: (N, in_features) -> (N, out_features).

    in_features, out_features: D and M, the numbers per image.
    rng: draws weight, (M, D), from N(0, 2 / D); bias is 0; both float32.
    """

    def __init__(
        self, in_features: int, out_features: int, *, rng: np.random.Generator
    ) -> None:
        check_positive(in_features=in_features, out_features=out_features)
        check_generator(rng)
        std = np.sqrt(2 / in_features)  # He's; see Initialisation
        weight = std * rng.standard_normal((out_features, in_features))
        self.weight = Parameter(weight.astype(np.float32))
        self.bias = Parameter(np.zeros(out_features, np.float32))

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = linear(x, self.weight.value, self.bias.value)
        self.save_for_backward(y, x)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, x = self.saved(grad_output)
        grads = linear_backward(grad_output, x, self.weight.value)
        grad_input, self.weight.grad, self.bias.grad = grads
        return grad_input


class Flatten(Layer):
    """(N, C, H, W) -> (N, C*H*W), each image's numbers in one row.

    Equation: eq-linear-flatten.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        (x,) = check_arrays("Flatten", "x (N, ...)", x)
        # (C, H, W, N) -> (CHW, N), seen as (N, CHW): the batch stays last.
        y = x.transpose(*range(1, x.ndim), 0).reshape(-1, len(x)).T
        self.save_for_backward(y, x.shape)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, (n, *size) = self.saved(grad_output)
        return grad_output.T.reshape(*size, n).transpose(-1, *range(len(size)))
