# Written by book/layers/convolution.md. To keep edits: tangle.py --back.
"""Convolution: one small kernel, slid over every place of an image."""

import numpy as np

from cnn.data import check_arrays, check_generator, check_positive
from cnn.layer import Layer, Parameter
from cnn.windows import (
    Size,
    col2im,
    from_chwn,
    im2col,
    output_size,
    pair,
    to_chwn,
)


CONTRACT = "weight (F, C, k, l), x (N, C, H, W)"


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """Cross-correlate images with filters, which the field calls convolution.

    x: images, (N, C, H, W) -> (N, F, H', W').
    weight, bias: the filters, (F, C, k, k), and a number for each, (F,).
    stride, padding: s and p, each an int or a pair.
    columns: im2col's of x, (C*k*k, H'*W'*N), if they are there already.
    ValueError if the channels differ or the kernel does not fit.
    Equations: eq-convolution-forward, eq-convolution-im2col.
    """
    contract = f"{CONTRACT}, bias (F,)"
    weight, x, bias = check_arrays("conv2d", contract, weight, x, bias)
    kernel = weight.shape[2:]
    if columns is None:
        columns = im2col(x, kernel, stride, padding)
    weight_matrix = weight.reshape(len(weight), -1)
    # (F, C*k*k) @ (C*k*k, H'*W'*N) -> (F, H'*W'*N)
    y = weight_matrix @ columns
    y += bias[:, np.newaxis]
    rows, cols = output_size(x.shape[2:], kernel, stride, padding)
    return from_chwn(y.reshape(len(weight), rows, cols, len(x)))


def conv2d_grad_parameters(
    grad_output: np.ndarray, columns: np.ndarray, weight_shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """dL/dw and dL/db: all places where weight and bias were used, summed.

    grad_output: dL/dy, (N, F, H', W').
    columns, weight_shape: im2col's of x, (C*k*k, H'*W'*N); (F, C, k, k).
    Equation: eq-convolution-product-weight.
    """
    grad = to_chwn(grad_output).reshape(weight_shape[0], -1)
    # (F, H'*W'*N) @ (H'*W'*N, C*k*k) -> (F, C*k*k)
    return (grad @ columns.T).reshape(weight_shape), grad.sum(axis=1)


def conv2d_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each output's gradient goes back to the pixels it read.

    grad_output: dL/dy, (N, F, H', W') -> (N, C, H, W), input_shape.
    weight, stride, padding: like those of conv2d.
    Equation: eq-convolution-grad-input.
    """
    grad = to_chwn(grad_output).reshape(len(weight), -1)
    # (C*k*k, F) @ (F, H'*W'*N) -> (C*k*k, H'*W'*N)
    columns = weight.reshape(len(weight), -1).T @ grad
    return col2im(columns, input_shape, weight.shape[2:], stride, padding)


def conv2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of the loss to x, weight and bias, in this order.

    grad_output: dL/dy, (N, F, H', W').
    x, weight, stride, padding: like those of conv2d.
    """
    weight, x = check_arrays("conv2d_backward", CONTRACT, weight, x)
    rows, cols = output_size(x.shape[2:], weight.shape[2:], stride, padding)
    contract = f"grad_output ({len(x)}, {len(weight)}, {rows}, {cols})"
    (grad_output,) = check_arrays("conv2d_backward", contract, grad_output)
    columns = im2col(x, weight.shape[2:], stride, padding)
    grad_x = conv2d_grad_input(grad_output, weight, x.shape, stride, padding)
    return grad_x, *conv2d_grad_parameters(grad_output, columns, weight.shape)


class Conv2d(Layer):
    """Convolution: (N, in_channels, H, W) -> (N, out_channels, H', W').

    kernel_size, stride, padding: k, s and p, each an int or a pair.
    rng: draws the first weights; the biases start at 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        *,
        rng: np.random.Generator,
    ) -> None:
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_generator(rng)
        self.stride = pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        kernel = pair(kernel_size, "kernel_size", 1)
        shape = (out_channels, in_channels, *kernel)
        std = np.sqrt(2 / np.prod(shape[1:]))  # He's; see Initialisation
        weight = std * rng.standard_normal(shape)
        self.weight = Parameter(weight.astype(np.float32))
        self.bias = Parameter(np.zeros(out_channels, np.float32))

    def forward(self, x: np.ndarray) -> np.ndarray:
        w, b = self.weight.value, self.bias.value
        w, x = check_arrays("Conv2d", CONTRACT, w, x)
        columns = im2col(x, w.shape[2:], self.stride, self.padding)
        y = conv2d(x, w, b, self.stride, self.padding, columns)
        self.save_for_backward(y, columns, x.shape)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        self.backward_parameters(grad_output)
        grad_output, _, shape = self.saved(grad_output)
        w, steps = self.weight.value, (self.stride, self.padding)
        return conv2d_grad_input(grad_output, w, shape, *steps)

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        grad_output, columns, _ = self.saved(grad_output)
        shape = self.weight.value.shape
        grads = conv2d_grad_parameters(grad_output, columns, shape)
        self.weight.grad, self.bias.grad = grads
