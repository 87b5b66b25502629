# Written by book/beyond/batch_norm.md. To keep edits: tangle.py --back.
"""Batch normalisation: each channel to mean 0 and variance 1, and scaled."""

import numpy as np

from cnn.data import check_arrays, check_numbers, check_positive
from cnn.layer import Buffer, Layer, Parameter
from cnn.windows import from_chwn, to_chwn


CONTRACT, STATISTICS = "weight (F,), x (N, F, H, W)", "mean (F,), var (F,)"


def to_rows(x: np.ndarray) -> np.ndarray:
    """x, (N, C, H, W), as a row for each channel: (C, m), m = H*W*N."""
    return to_chwn(x).reshape(x.shape[1], -1)


def from_rows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """rows, (C, m), as an array (N, C, H, W) of that shape."""
    n, channels, height, width = shape
    return from_chwn(rows.reshape(channels, height, width, n))


def batch_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, (C,) each, of the channels of x, (N, C, H, W).

    Equation: eq-batch-norm-statistics.
    """
    (x,) = check_arrays("batch_statistics", "x (N, C, H, W)", x)
    rows = to_rows(x)
    return rows.mean(axis=1), rows.var(axis=1)


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
) -> np.ndarray:
    """y = weight * (x - mean) / sqrt(var + eps) + bias, in each channel.

    x: (N, C, H, W). weight, bias: gamma and beta, (C,) each.
    mean, var: (C,) each, such as batch_statistics(x).
    Equations: eq-batch-norm-unit, eq-batch-norm-forward.
    """
    check_numbers(eps=eps)
    contract = f"{CONTRACT}, {STATISTICS}, bias (F,)"
    weight, x, mean, var, bias = check_arrays(
        "batch_norm", contract, weight, x, mean, var, bias
    )
    weight, bias, mean, s = (  # (C,) -> (C, 1), for the rows
        a[:, np.newaxis] for a in (weight, bias, mean, np.sqrt(var + eps))
    )
    unit = (to_rows(x) - mean) / s
    return from_rows(weight * unit + bias, x.shape)


def batch_norm_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
    training: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of the loss to x, weight and bias, in this order.

    grad_output: dL/dy, (N, C, H, W), like x.
    x, weight, mean, var, eps: like those of batch_norm.
    training: mean and var are x's own and move with it; else are fixed.
    Equations: eq-batch-norm-parameters, eq-batch-norm-backward.
    """
    check_numbers(eps=eps)
    contract = f"{CONTRACT}, {STATISTICS}, grad_output (N, F, H, W)"
    weight, x, mean, var, grad_output = check_arrays(
        "batch_norm_backward", contract, weight, x, mean, var, grad_output
    )
    s, rows = np.sqrt(var + eps)[:, np.newaxis], to_rows(x)
    unit, grad = (rows - mean[:, np.newaxis]) / s, to_rows(grad_output)
    grad_weight, grad_bias = (grad * unit).sum(axis=1), grad.sum(axis=1)
    if training:
        along = unit * grad_weight[:, np.newaxis]
        grad = grad - (grad_bias[:, np.newaxis] + along) / rows.shape[1]
    grad_x = weight[:, np.newaxis] / s * grad
    return from_rows(grad_x, x.shape), grad_weight, grad_bias


class BatchNorm2d(Layer):
    """Each channel of x, (N, num_features, H, W), normalised and scaled.

    In training by the batch's own statistics, else by running averages.
    eps: above 0; momentum: a new batch's share, 0..1; else ValueError.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        check_positive(num_features=num_features)
        check_numbers(eps=eps, momentum=momentum)
        if not 0 < eps < np.inf or not 0 <= momentum <= 1:
            raise ValueError(
                f"eps is {eps}, momentum {momentum}; expected a finite "
                "eps > 0, and 0 <= momentum <= 1. Begin with eps=1e-5 and "
                "momentum=0.1."
            )
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))

    def follow(self, mean: np.ndarray, var: np.ndarray, m: int) -> None:
        """Take the statistics of a batch into the running ones.

        mean, var: of shape (C,) each, of m numbers; ValueError if m is 1.
        Equation: eq-batch-norm-running.
        """
        if m < 2:
            raise ValueError(
                "BatchNorm2d was given x with 1 number in each channel to "
                "train on; expected 2 at least: one is its own mean, and "
                "nothing is left of it. Give more images, or call eval()."
            )
        for running, new in (
            (self.running_mean.value, mean),
            (self.running_var.value, var * (m / (m - 1))),
        ):
            running += self.momentum * (new - running)

    def forward(self, x: np.ndarray) -> np.ndarray:
        w, b = self.weight.value, self.bias.value
        w, x = check_arrays("BatchNorm2d", CONTRACT, w, x)
        mean, var = self.running_mean.value, self.running_var.value
        if self.training:
            mean, var = batch_statistics(x)
            self.follow(mean, var, x[:, 0].size)
        y = batch_norm(x, w, b, mean, var, self.eps)
        self.save_for_backward(y, x, mean, var, self.training)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, x, mean, var, training = self.saved(grad_output)
        w, how = self.weight.value, (mean, var, self.eps, training)
        grads = batch_norm_backward(grad_output, x, w, *how)
        grad_x, self.weight.grad, self.bias.grad = grads
        return grad_x
