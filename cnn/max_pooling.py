# Written by book/layers/max_pooling.md. To keep edits: tangle.py --back.
"""Max pooling: of each window only the largest number goes on."""

import numpy as np

from cnn.convolution import (
    Size,
    from_hcwn,
    output_size,
    pad,
    pair,
    to_hcwn,
    window_view,
)
from cnn.layer import Layer, check_batch


def max_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """The largest number of each window.  (N, C, H, W) -> (N, C, H', W').

    y[n, c, i, j] = max over u, v of x[n, c, i*s + u - p, j*s + v - p].
    stride: kernel_size where it is None. padding: with -inf, which never
    wins; at most half of kernel_size, so that no window is all padding.
    ValueError for a batch that is empty or no (N, C, H, W), a window that
    does not fit, or sizes that are out of range.
    """
    check_batch(x, "(N, C, H, W)", "max_pool2d")
    kernel = pair(kernel_size, "kernel_size", 1)
    frame = pair(padding, "padding", 0)
    if 2 * frame[0] > kernel[0] or 2 * frame[1] > kernel[1]:
        raise ValueError(
            f"padding is {padding}; expected at most half of kernel_size "
            f"{kernel_size}, or a window could hold nothing but padding. "
            "Use less padding or a larger kernel."
        )
    stride = kernel_size if stride is None else stride
    size = output_size(x.shape[2:], kernel, stride, padding)
    block = pad(to_hcwn(x), padding, -np.inf)  # (H + 2p, C, W + 2p, N)
    y = window_view(block, (0, 0), size, stride).copy()  # (H', C, W', N)
    for place in list(np.ndindex(kernel))[1:]:  # y began as the first
        np.maximum(y, window_view(block, place, size, stride), out=y)
    return from_hcwn(y)


def max_pool2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each window's gradient goes to its first largest number.

    grad_output: dL/dy, (N, C, H', W'); y: what max_pool2d gave for x.
    Where windows overlap, a pixel collects from each that it wins.
    """
    kernel = pair(kernel_size, "kernel_size", 1)
    top, left = pair(padding, "padding", 0)
    stride = kernel_size if stride is None else stride
    size = y.shape[2:]
    block, peaks = pad(to_hcwn(x), padding, -np.inf), to_hcwn(y)
    grad = to_hcwn(grad_output)
    grad_block = np.zeros_like(block)  # (H + 2p, C, W + 2p, N)
    unclaimed = np.ones(peaks.shape, bool)  # (H', C, W', N)
    down, right = pair(stride, "stride", 1)
    disjoint = down >= kernel[0] and right >= kernel[1]
    for place in np.ndindex(kernel):  # in reading order: the first one wins
        wins = window_view(block, place, size, stride) == peaks
        wins &= unclaimed
        unclaimed ^= wins
        share = window_view(grad_block, place, size, stride)
        if disjoint:
            np.multiply(wins, grad, out=share)
        else:
            share += wins * grad  # a pixel collects from all its windows
    height, width = x.shape[2:]
    return from_hcwn(grad_block[top : top + height, :, left : left + width])


class MaxPool2d(Layer):
    """Max pooling: (N, C, H, W) -> (N, C, H', W').

    kernel_size, stride, padding: an int, or a pair (rows, columns); the
    stride is kernel_size where it is None.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
    ) -> None:
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = pair(
            kernel_size if stride is None else stride, "stride", 1
        )
        self.padding = pair(padding, "padding", 0)

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = max_pool2d(x, self.kernel_size, self.stride, self.padding)
        self.save_for_backward(x, y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        x, y = self.saved()
        return max_pool2d_backward(
            grad_output, x, y, self.kernel_size, self.stride, self.padding
        )
