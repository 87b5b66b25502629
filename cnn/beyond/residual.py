# Written by book/beyond/residual.md. To keep edits: tangle.py --back.
"""Shortcuts, y = x + F(x), and the averages of windows and whole maps."""

import math

import numpy as np

from cnn.data import check_arrays
from cnn.layer import Layer
from cnn.max_pooling import pooling_sizes
from cnn.network import Sequential
from cnn.windows import (
    Size,
    from_chwn,
    output_size,
    pad,
    strided_slice,
    to_chwn,
)


class Residual(Layer):
    """y = x + F(x), where F is layers, applied one after the other.

    layers: at least one, each once, else ValueError; called body.0, ...
    shortcut: stands for the x that is added, where F changes the shape.
    ValueError, in forward, if the two to be added are of different shapes.
    Equations: eq-residual-forward, eq-residual-backward.
    """

    def __init__(self, *layers: Layer, shortcut: Layer | None = None) -> None:
        self.body = Sequential(*layers)
        if shortcut in layers:
            raise ValueError(
                f"shortcut is the {type(shortcut).__name__} among the layers; "
                "expected another. Make a new layer for each place."
            )
        self.shortcut = shortcut

    def forward(self, x: np.ndarray) -> np.ndarray:
        (x,) = check_arrays("Residual", "x (...)", x)
        past = x if self.shortcut is None else self.shortcut.forward(x)
        through = self.body.forward(x)
        if through.shape != past.shape:  # NumPy would stretch some of them
            raise ValueError(
                f"Residual was given layers that make {through.shape} of x; "
                f"expected {past.shape}, to be added. Use padding, or a "
                "shortcut such as Conv2d(C, F, 1, stride, rng=rng)."
            )
        y: np.ndarray = past + through
        self.save_for_backward(y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (grad,) = self.saved(grad_output)
        past = grad if self.shortcut is None else self.shortcut.backward(grad)
        grad_x: np.ndarray = past + self.body.backward(grad)
        return grad_x


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """The mean of each window; the zeros of the frame count.

    x: images, (N, C, H, W) -> (N, C, H', W').
    kernel_size, stride, padding: k; s, by default k; and p, at most k/2.
    ValueError if x has other axes, no window fits, or p is too large.
    Equation: eq-residual-average.
    """
    (x,) = check_arrays("avg_pool2d", "x (N, C, H, W)", x)
    kernel, steps, around = pooling_sizes(kernel_size, stride, padding)
    size = output_size(x.shape[2:], kernel, steps, around)
    block = pad(to_chwn(x), around)  # (C, H + 2p, W + 2p, N)
    y = np.zeros((len(block), *size, len(x)), x.dtype)
    for place in np.ndindex(kernel):
        y += strided_slice(block, place, size, steps)
    return from_chwn(y / math.prod(kernel))


def avg_pool2d_backward(
    grad_output: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each window's gradient, in equal parts to all its pixels.

    grad_output: dL/dy, (N, C, H', W') -> (N, C, H, W), input_shape.
    kernel_size, stride, padding: as in avg_pool2d.
    Equation: eq-residual-average-backward.
    """
    n, channels, height, width = input_shape
    kernel, steps, around = pooling_sizes(kernel_size, stride, padding)
    size = output_size((height, width), kernel, steps, around)
    contract = f"grad_output {(n, channels, *size)}"
    (grad_output,) = check_arrays("avg_pool2d_backward", contract, grad_output)
    part = to_chwn(grad_output) / math.prod(kernel)  # (C, H', W', N)
    top, left = around
    framed = channels, height + 2 * top, width + 2 * left, n
    block = np.zeros(framed, part.dtype)
    for place in np.ndindex(kernel):
        pixels = strided_slice(block, place, size, steps)  # a view
        pixels += part  # windows overlap: +=, not =
    return from_chwn(block[:, top : top + height, left : left + width])


class AvgPool2d(Layer):
    """Average pooling: (N, C, H, W) -> (N, C, H', W').

    kernel_size, stride, padding: as in avg_pool2d.
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0
    ) -> None:
        sizes = pooling_sizes(kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = sizes

    def forward(self, x: np.ndarray) -> np.ndarray:
        (x,) = check_arrays("AvgPool2d", "x (N, C, H, W)", x)
        y = avg_pool2d(x, self.kernel_size, self.stride, self.padding)
        self.save_for_backward(y, x.shape)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad, shape = self.saved(grad_output)
        sizes = self.kernel_size, self.stride, self.padding
        return avg_pool2d_backward(grad, shape, *sizes)


class GlobalAvgPool2d(Layer):
    """The mean of each map: (N, C, H, W) -> (N, C, 1, 1).

    Equation: eq-residual-global.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        (x,) = check_arrays("GlobalAvgPool2d", "x (N, C, H, W)", x)
        y: np.ndarray = x.mean(axis=(2, 3), keepdims=True)
        self.save_for_backward(y, x.shape)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad, shape = self.saved(grad_output)
        return np.broadcast_to(grad / math.prod(shape[2:]), shape)
