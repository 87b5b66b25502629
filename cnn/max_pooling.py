# Written by book/layers/max_pooling.md. To keep edits: tangle.py --back.
"""Max pooling: of each window only the largest number goes on."""

import numpy as np

from cnn.data import check_arrays
from cnn.layer import Layer
from cnn.relu import gate
from cnn.windows import (
    Pair,
    Size,
    from_chwn,
    output_size,
    pad,
    pair,
    strided_slice,
    to_chwn,
)


def pooling_sizes(
    kernel_size: Size, stride: Size | None, padding: Size
) -> tuple[Pair, Pair, Pair]:
    """The three sizes of a pooling, each as a pair (rows, columns).

    kernel_size, padding: k and p, at most k/2, else ValueError.
    stride: defaults to k.
    """
    kernel = pair(kernel_size, "kernel_size", 1)
    steps = kernel if stride is None else pair(stride, "stride", 1)
    around = pair(padding, "padding", 0)
    if 2 * around[0] > kernel[0] or 2 * around[1] > kernel[1]:
        raise ValueError(
            f"padding is {padding}; expected at most half of kernel_size "
            f"{kernel_size}, or a window could hold nothing but padding. "
            "Use less padding or a larger kernel."
        )
    return kernel, steps, around


def max_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """The largest number of each window.

    x: images, (N, C, H, W) -> (N, C, H', W').
    kernel_size, stride, padding: k; s, by default k; and p, at most k/2.
    ValueError if x has other axes, no window fits, or p is too large.
    Equation: eq-max-pooling-forward.
    """
    (x,) = check_arrays("max_pool2d", "x (N, C, H, W)", x)
    kernel, steps, around = pooling_sizes(kernel_size, stride, padding)
    size = output_size(x.shape[2:], kernel, steps, around)
    # (C, H + 2p, W + 2p, N); the frame's -inf never wins.
    block = pad(to_chwn(x), around, -np.inf)
    y = strided_slice(block, (0, 0), size, steps).copy()  # (C, H', W', N)
    for place in np.ndindex(kernel):
        np.maximum(y, strided_slice(block, place, size, steps), out=y)
    return from_chwn(y)


def max_pool2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each window's gradient goes to its first largest number.

    Where there is a nan, it is the largest. The others get 0, not 0 * dL/dy.
    grad_output: dL/dy, (N, C, H', W') -> (N, C, H, W).
    x, y: what max_pool2d was given, (N, C, H, W), and what it gave.
    kernel_size, stride, padding: as in max_pool2d.
    Equation: eq-max-pooling-backward.
    """
    kernel, steps, around = pooling_sizes(kernel_size, stride, padding)
    user = "max_pool2d_backward"
    (x,) = check_arrays(user, "x (N, C, H, W)", x)
    places = (*x.shape[:2], *output_size(x.shape[2:], kernel, steps, around))
    contract = f"y {places}, grad_output {places}"
    y, grad_output = check_arrays(user, contract, y, grad_output)
    block, peaks = to_chwn(x), to_chwn(y)
    if np.isnan(peaks).any():  # then nan counts as infinity, and wins
        block, peaks = np.fmin(block, np.inf), np.fmin(peaks, np.inf)
    block = pad(block, around, np.nan)  # no number equals the frame's nan
    grad, size = to_chwn(grad_output), y.shape[2:]
    grad_block = np.zeros_like(block)  # (C, H + 2p, W + 2p, N)
    unclaimed = np.ones(peaks.shape, bool)  # (C, H', W', N)
    for place in np.ndindex(kernel):  # in reading order: the first one wins
        wins = strided_slice(block, place, size, steps) == peaks
        wins &= unclaimed
        unclaimed &= ~wins
        share = strided_slice(grad_block, place, size, steps)  # a view
        share += gate(grad, wins)  # a pixel collects from all its windows
    (top, left), (height, width) = around, x.shape[2:]
    return from_chwn(grad_block[:, top : top + height, left : left + width])


class MaxPool2d(Layer):
    """Max pooling: (N, C, H, W) -> (N, C, H', W').

    kernel_size, stride, padding: as in max_pool2d.
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0
    ) -> None:
        sizes = pooling_sizes(kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = sizes

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = max_pool2d(x, self.kernel_size, self.stride, self.padding)
        self.save_for_backward(y, x, y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, x, y = self.saved(grad_output)
        return max_pool2d_backward(
            grad_output, x, y, self.kernel_size, self.stride, self.padding
        )
