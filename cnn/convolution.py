# Written by book/layers/convolution.md. To keep edits: tangle.py --back.
"""Convolution: one small kernel, slid over every place of an image."""

import numpy as np

from cnn.layer import Layer, Parameter, check_batch
from cnn.windows import (
    Pair,
    Size,
    col2im,
    from_chwn,
    im2col,
    output_size,
    pair,
    to_chwn,
)


def check_channels(x: np.ndarray, weight: np.ndarray) -> None:
    """ValueError unless x is a batch of images with the filters' channels.

    x: images, (N, C, H, W).
    weight: the filters, (F, C, k, k).
    """
    check_batch(x, "(N, C, H, W)", "conv2d")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"conv2d was given {x.shape[1]} channels, x of shape {x.shape}; "
            f"expected {weight.shape[1]}, as weight has shape "
            f"{weight.shape}. Set in_channels to {x.shape[1]}."
        )


def conv2d_of_columns(
    columns: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    size: Pair,
) -> np.ndarray:
    """The matrix product of a convolution, on windows laid out already.

    columns: what im2col gives, (C*k*k, H'*W'*N) -> (N, F, H', W').
    weight: the filters, (F, C, k, k).
    bias: a number for each filter, (F,).
    size: (H', W'), how many windows there are.
    Equation: eq-convolution-im2col.
    """
    weight_matrix = weight.reshape(len(weight), -1)
    # (F, C*k*k) @ (C*k*k, H'*W'*N) -> (F, H'*W'*N)
    y = weight_matrix @ columns
    y += bias[:, np.newaxis]
    return from_chwn(y.reshape(len(weight), *size, -1))


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """Cross-correlate images with filters, which the field calls convolution.

    x: images, (N, C, H, W) -> (N, F, H', W').
    weight: the filters, (F, C, k, k).
    bias: a number for each filter, (F,).
    stride: steps from one window to the next.
    padding: width of the frame of zeros around each image.
    ValueError if the channels differ or the kernel does not fit.
    Equation: eq-convolution-forward.
    """
    check_channels(x, weight)
    kernel = weight.shape[2:]
    size = output_size(x.shape[2:], kernel, stride, padding)
    columns = im2col(x, kernel, stride, padding)
    return conv2d_of_columns(columns, weight, bias, size)


def conv2d_grad_weight(
    grad_output: np.ndarray, columns: np.ndarray, kernel_size: Size
) -> np.ndarray:
    """dL/dw: the input correlated with the gradient to the output.

    grad_output: dL/dy, (N, F, H', W') -> (F, C, k, k).
    columns: what im2col gives for the input, (C*k*k, H'*W'*N).
    kernel_size: rows and columns of the window.
    Equation: eq-convolution-product-weight.
    """
    filters = grad_output.shape[1]
    grad = to_chwn(grad_output).reshape(filters, -1)
    # (F, H'*W'*N) @ (H'*W'*N, C*k*k) -> (F, C*k*k)
    grad_weight: np.ndarray = grad @ columns.T
    kernel = pair(kernel_size, "kernel_size", 1)
    return grad_weight.reshape(filters, -1, *kernel)


def conv2d_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each output's gradient goes back to the pixels it read.

    grad_output: dL/dy, (N, F, H', W') -> (N, C, H, W).
    weight: the filters, (F, C, k, k).
    input_shape: (N, C, H, W), the shape of the input.
    stride, padding: as in conv2d.
    Equation: eq-convolution-grad-input.
    """
    weight_matrix = weight.reshape(len(weight), -1)
    grad = to_chwn(grad_output).reshape(len(weight), -1)
    # (C*k*k, F) @ (F, H'*W'*N) -> (C*k*k, H'*W'*N)
    grad_columns = weight_matrix.T @ grad
    kernel = weight.shape[2:]
    return col2im(grad_columns, input_shape, kernel, stride, padding)


def conv2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of the loss to x, weight and bias, in this order.

    grad_output: dL/dy, (N, F, H', W').
    x: images, (N, C, H, W), as conv2d was given them.
    weight: the filters, (F, C, k, k).
    stride, padding: as in conv2d.
    """
    kernel = weight.shape[2:]
    columns = im2col(x, kernel, stride, padding)
    return (
        conv2d_grad_input(grad_output, weight, x.shape, stride, padding),
        conv2d_grad_weight(grad_output, columns, kernel),
        grad_output.sum(axis=(0, 2, 3)),
    )


class Conv2d(Layer):
    """Convolution: (N, in_channels, H, W) -> (N, out_channels, H', W').

    in_channels, out_channels: C and F, how many come in and go out.
    kernel_size: rows and columns of the window.
    stride: steps from one window to the next.
    padding: width of the frame of zeros around each image.
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
        self.stride = pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        kernel = pair(kernel_size, "kernel_size", 1)
        shape = (out_channels, in_channels, *kernel)
        std = np.sqrt(2 / np.prod(shape[1:]))  # He's; see Initialisation
        weight = std * rng.standard_normal(shape)
        self.weight = Parameter(weight.astype(np.float32), "weight")
        self.bias = Parameter(np.zeros(out_channels, np.float32), "bias")

    def forward(self, x: np.ndarray) -> np.ndarray:
        weight, bias = self.weight.value, self.bias.value
        check_channels(x, weight)
        steps = weight.shape[2:], self.stride, self.padding
        size = output_size(x.shape[2:], *steps)
        columns = im2col(x, *steps)
        self.save_for_backward(columns, x.shape)
        return conv2d_of_columns(columns, weight, bias, size)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        self.backward_parameters(grad_output)
        _, input_shape = self.saved()
        return conv2d_grad_input(
            grad_output,
            self.weight.value,
            input_shape,
            self.stride,
            self.padding,
        )

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        columns, _ = self.saved()
        kernel = self.weight.value.shape[2:]
        self.weight.grad = conv2d_grad_weight(grad_output, columns, kernel)
        self.bias.grad = grad_output.sum(axis=(0, 2, 3))

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]
