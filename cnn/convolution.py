# Written by book/layers/convolution.md. To keep edits: tangle.py --back.
"""Convolution: one small kernel, slid over every place of an image."""

import numpy as np

from cnn.layer import Layer, Parameter, check_batch


# An int serves both axes; a pair is (rows, columns).
Pair = tuple[int, int]
Size = int | Pair


def pair(size: Size, name: str, least: int) -> Pair:
    """(rows, columns) of a size; ValueError if not whole, or below least."""
    both = size if isinstance(size, tuple) else (size, size)
    if len(both) != 2 or not all(
        isinstance(n, int | np.integer) and n >= least for n in both
    ):
        raise ValueError(
            f"{name} is {size!r}; expected an int or a pair of ints, each "
            f"at least {least}. Pass one number, or (rows, columns)."
        )
    return both


def output_size(
    input_size: Pair, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> Pair:
    """How many windows fit, per axis: floor((H + 2p - k) / s) + 1.

    ValueError if not even one fits.
    """
    sizes = zip(
        input_size,
        pair(kernel_size, "kernel_size", 1),
        pair(stride, "stride", 1),
        pair(padding, "padding", 0),
        strict=True,
    )
    rows, columns = ((h + 2 * p - k) // s + 1 for h, k, s, p in sizes)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"kernel_size {kernel_size} is larger than the input "
            f"{input_size} with padding {padding}; expected it to fit at "
            "least once. Use a smaller kernel or more padding."
        )
    return rows, columns


def batch_last(x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W) as a contiguous block (C, H, W, N).

    A view where x already lies in memory that way, else a copy.
    """
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))


def batch_first(block: np.ndarray) -> np.ndarray:
    """A block (C, H, W, N) seen as (N, C, H, W): the same memory."""
    return np.moveaxis(block, -1, 0)


def pad(block: np.ndarray, padding: Size, value: float = 0.0) -> np.ndarray:
    """A block (C, H, W, N) with a frame of value around its images."""
    rows, columns = pair(padding, "padding", 0)
    if rows == columns == 0:
        return block
    widths = ((0, 0), (rows, rows), (columns, columns), (0, 0))
    return np.pad(block, widths, constant_values=value)


def window_view(
    block: np.ndarray, place: Pair, size: Pair, stride: Size
) -> np.ndarray:
    """The pixel at one place of every window: (C, H, W, N) -> (C, H', W', N).

    place: (u, v) within the window; size: (H', W'), how many windows.
    """
    (u, v), (rows, cols) = place, size
    down, right = pair(stride, "stride", 1)
    return block[:, u : u + down * rows : down, v : v + right * cols : right]


def im2col(
    x: np.ndarray, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> np.ndarray:
    """Every window of x laid out as a column.

    (N, C, H, W) -> (C, k, k, H', W', N): k*k copies, each with long runs.
    """
    kernel = pair(kernel_size, "kernel_size", 1)
    size = output_size(x.shape[2:], kernel, stride, padding)
    block = pad(batch_last(x), padding)
    n, channels = x.shape[:2]
    columns = np.empty((channels, *kernel, *size, n), x.dtype)
    for u, v in np.ndindex(kernel):
        columns[:, u, v] = window_view(block, (u, v), size, stride)
    return columns


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """Cross-correlate images with filters, which the field calls convolution.

    y[n, f, i, j] = b[f] + the sum over c, u, v of
    w[f, c, u, v] x[n, c, s i + u, s j + v], with x padded by zeros:
    (N, C, H, W) -> (N, F, H', W'); weight (F, C, k, k), bias (F,).
    ValueError if channels differ or the kernel does not fit.
    """
    check_batch(x, "(N, C, H, W)", "conv2d")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"conv2d was given {x.shape[1]} channels, x of shape {x.shape}; "
            f"expected {weight.shape[1]}, as weight has shape "
            f"{weight.shape}. Set in_channels to {x.shape[1]}."
        )
    filters = len(weight)
    columns = im2col(x, weight.shape[2:], stride, padding)
    # (F, Ckk) @ (Ckk, H'W'N) -> (F, H'W'N)
    y = weight.reshape(filters, -1) @ columns.reshape(weight[0].size, -1)
    y += bias[:, np.newaxis]
    return batch_first(y.reshape(filters, *columns.shape[3:]))


def conv2d_grad_weight(
    grad_output: np.ndarray,
    x: np.ndarray,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dw: the input correlated with grad_output.  -> (F, C, k, k)."""
    filters = grad_output.shape[1]
    columns = im2col(x, kernel_size, stride, padding)
    grad = batch_last(grad_output).reshape(filters, -1)
    # (F, H'W'N) @ (H'W'N, Ckk) -> (F, Ckk)
    grad_weight: np.ndarray = grad @ columns.reshape(-1, grad.shape[1]).T
    return grad_weight.reshape(filters, *columns.shape[:3])


def col2im(
    columns: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """The transpose of im2col: each window's numbers added where it lay.

    (C, k, k, H', W', N) -> (N, C, H, W), which is input_shape.
    """
    n, channels, height, width = input_shape
    top, left = pair(padding, "padding", 0)
    block = np.zeros(
        (channels, height + 2 * top, width + 2 * left, n), columns.dtype
    )
    kernel, size = columns.shape[1:3], columns.shape[3:5]
    for u, v in np.ndindex(kernel):
        # Windows overlap, and a pixel collects from all of them: +=.
        window_view(block, (u, v), size, stride)[...] += columns[:, u, v]
    return batch_first(block[:, top : top + height, left : left + width])


def conv2d_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each output's gradient goes back to the pixels it read.

    (N, F, H', W') -> (N, C, H, W), which is input_shape.
    """
    filters, *kernel = weight.shape
    block = batch_last(grad_output)  # (F, H', W', N)
    # (Ckk, F) @ (F, H'W'N) -> (Ckk, H'W'N)
    columns = weight.reshape(filters, -1).T @ block.reshape(filters, -1)
    columns = columns.reshape(*kernel, *block.shape[1:])
    return col2im(columns, input_shape, stride, padding)


def conv2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of the loss to x, weight and bias, from (N, F, H', W')."""
    kernel = weight.shape[2:]
    return (
        conv2d_grad_input(grad_output, weight, x.shape, stride, padding),
        conv2d_grad_weight(grad_output, x, kernel, stride, padding),
        grad_output.sum(axis=(0, 2, 3)),
    )


class Conv2d(Layer):
    """Convolution: (N, in_channels, H, W) -> (N, out_channels, H', W')."""

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
        y = conv2d(x, weight, bias, self.stride, self.padding)
        self.save_for_backward(x)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        self.backward_parameters(grad_output)
        (x,) = self.saved()
        return conv2d_grad_input(
            grad_output, self.weight.value, x.shape, self.stride, self.padding
        )

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        (x,) = self.saved()
        kernel = self.weight.value.shape[2:]
        self.weight.grad = conv2d_grad_weight(
            grad_output, x, kernel, self.stride, self.padding
        )
        self.bias.grad = grad_output.sum(axis=(0, 2, 3))

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]
