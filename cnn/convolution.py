# Written by book/layers/convolution.md. To keep edits: tangle.py --back.
"""Convolution: one small kernel, slid over every place of an image."""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

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


def to_hcwn(x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W) as a contiguous block (H, C, W, N).

    A view where x already lies in memory that way, else a copy.
    """
    return np.ascontiguousarray(x.transpose(2, 1, 3, 0))


def from_hcwn(block: np.ndarray) -> np.ndarray:
    """A block (H, C, W, N) seen as (N, C, H, W): the same memory."""
    return block.transpose(3, 1, 0, 2)


def pad(block: np.ndarray, padding: Size, value: float = 0.0) -> np.ndarray:
    """A block (H, C, W, N) with a frame of value around its images."""
    rows, columns = pair(padding, "padding", 0)
    if rows == columns == 0:
        return block
    widths = ((rows, rows), (0, 0), (columns, columns), (0, 0))
    return np.pad(block, widths, constant_values=value)


def window_view(
    block: np.ndarray, place: Pair, size: Pair, stride: Size
) -> np.ndarray:
    """The pixel at one place of every window: (H, C, W, N) -> (H', C, W', N).

    place: (u, v) within the window; size: (H', W'), how many windows.
    """
    (u, v), (rows, cols) = place, size
    down, right = pair(stride, "stride", 1)
    return block[u : u + down * rows : down, :, v : v + right * cols : right]


def im2row(
    x: np.ndarray, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> np.ndarray:
    """The windows along every row of x, each laid out as a column.

    (N, C, H, W) -> (H + 2p, C*k, W'*N), one slab a row: k copies in all,
    each with long runs.
    """
    _, width = pair(kernel_size, "kernel_size", 1)
    _, right = pair(stride, "stride", 1)
    _, cols = output_size(x.shape[2:], kernel_size, stride, padding)
    block = pad(to_hcwn(x), padding)
    rows, channels, _, n = block.shape
    slabs = np.empty((rows, channels, width, cols, n), x.dtype)
    for v in range(width):
        slabs[:, :, v] = window_view(block, (0, v), (rows, cols), (1, right))
    return slabs.reshape(rows, channels * width, cols * n)


def sliding_windows(
    x: np.ndarray, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> np.ndarray:
    """Every window of x as a column, in one matrix for each row of windows.

    (N, C, H, W) -> (H', k*C*k, W'*N), read-only: matrix i is the slabs
    s*i, ..., s*i + k - 1 of im2row, and its neighbours share their memory.
    """
    check_batch(x, "(N, C, H, W)", "conv2d")
    height, _ = pair(kernel_size, "kernel_size", 1)
    down, _ = pair(stride, "stride", 1)
    rows, _ = output_size(x.shape[2:], kernel_size, stride, padding)
    slabs = im2row(x, kernel_size, stride, padding)
    _, depth, length = slabs.shape
    step, *within = slabs.strides
    windows: np.ndarray = as_strided(
        slabs,
        (rows, height * depth, length),
        (down * step, *within),
        writeable=False,
    )
    return windows


def weight_matrix(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Each filter as a row, in the order (u, c, v): (F, C, k, k) -> (F, kCk).

    ValueError if x (N, C, H, W) has another number of channels.
    """
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"conv2d was given {x.shape[1]} channels, x of shape {x.shape}; "
            f"expected {weight.shape[1]}, as weight has shape "
            f"{weight.shape}. Set in_channels to {x.shape[1]}."
        )
    return weight.transpose(0, 2, 1, 3).reshape(len(weight), -1)


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: Size = 1,
    padding: Size = 0,
    windows: np.ndarray | None = None,
) -> np.ndarray:
    """Cross-correlate images with filters, which the field calls convolution.

    y[n, f, i, j] = b[f] + the sum over c, u, v of
    w[f, c, u, v] x[n, c, s i + u, s j + v], with x padded by zeros:
    (N, C, H, W) -> (N, F, H', W'); weight (F, C, k, k), bias (F,).
    windows: sliding_windows(x, ...), from a caller who has them already.
    ValueError if channels differ or the kernel does not fit.
    """
    if windows is None:
        windows = sliding_windows(x, weight.shape[2:], stride, padding)
    # (F, kCk) @ (H', kCk, W'N) -> (H', F, W'N)
    y = weight_matrix(weight, x) @ windows
    y += bias[:, np.newaxis]
    return from_hcwn(y.reshape(*y.shape[:2], -1, len(x)))


def conv2d_grad_weight(
    grad_output: np.ndarray,
    x: np.ndarray,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    windows: np.ndarray | None = None,
) -> np.ndarray:
    """dL/dw: the input correlated with grad_output.  -> (F, C, k, k).

    windows: sliding_windows(x, ...), from a caller who has them already.
    """
    height, width = pair(kernel_size, "kernel_size", 1)
    if windows is None:
        windows = sliding_windows(x, kernel_size, stride, padding)
    grad = to_hcwn(grad_output)  # (H', F, W', N)
    rows, filters = grad.shape[:2]
    grad = grad.reshape(rows, filters, -1).transpose(0, 2, 1)
    # (H', kCk, W'N) @ (H', W'N, F) -> (H', kCk, F), and the sum over rows
    columns: np.ndarray = (windows @ grad).sum(axis=0)
    columns = columns.reshape(height, x.shape[1], width, filters)
    return columns.transpose(3, 1, 0, 2)


def row2im(
    slabs: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """The transpose of im2row: each window's numbers added where it lay.

    (H + 2p, C*k, W'*N) -> (N, C, H, W), which is input_shape.
    """
    n, channels, height, breadth = input_shape
    top, left = pair(padding, "padding", 0)
    _, width = pair(kernel_size, "kernel_size", 1)
    _, right = pair(stride, "stride", 1)
    rows = height + 2 * top
    slabs = slabs.reshape(rows, channels, width, -1, n)
    size = rows, slabs.shape[3]
    block = np.zeros((rows, channels, breadth + 2 * left, n), slabs.dtype)
    for v in range(width):
        # Windows overlap, and a pixel collects from all of them: +=.
        window_view(block, (0, v), size, (1, right))[...] += slabs[:, :, v]
    return from_hcwn(block[top : top + height, :, left : left + breadth])


def conv2d_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
    matmul: Callable[..., object] = np.matmul,
) -> np.ndarray:
    """dL/dx: each output's gradient goes back to the pixels it read.

    (N, F, H', W') -> (N, C, H, W), which is input_shape.
    matmul: what multiplies, as np.matmul does.
    """
    filters, channels, height, width = weight.shape
    top, _ = pair(padding, "padding", 0)
    down, _ = pair(stride, "stride", 1)
    grad = to_hcwn(grad_output)  # (H', F, W', N)
    rows = len(grad)
    grad = grad.reshape(rows * filters, -1)  # (H'F, W'N)
    turned = weight.transpose(2, 0, 1, 3)[::-1]  # (k, F, C, k)
    turned = turned.reshape(height, filters, -1)  # (k, F, Ck)
    slabs = np.empty(
        (input_shape[2] + 2 * top, channels * width, grad.shape[1]),
        grad.dtype,
    )
    for r, slab in enumerate(slabs):
        # The output rows first, ..., last - 1 read this row.
        first = max(0, -((height - 1 - r) // down))  # rounded up
        last = min(r // down + 1, rows)
        if first < last:
            u = r - down * first
            kernels = turned[height - 1 - u :: down][: last - first]
            kernels = kernels.reshape(-1, len(slab))
            # (Ck, (last - first) F) @ ((last - first) F, W'N) -> (Ck, W'N)
            readers = grad[first * filters : last * filters]
            matmul(kernels.T, readers, out=slab)
        else:
            slab[...] = 0
    return row2im(slabs, input_shape, (height, width), stride, padding)


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
        np.einsum("nfij->f", grad_output),
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
        steps = self.stride, self.padding
        windows = sliding_windows(x, weight.shape[2:], *steps)
        y = conv2d(x, weight, bias, *steps, windows)
        self.save_for_backward(x, windows)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        self.backward_parameters(grad_output)
        x, _ = self.saved()
        return conv2d_grad_input(
            grad_output, self.weight.value, x.shape, self.stride, self.padding
        )

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        x, windows = self.saved()
        kernel = self.weight.value.shape[2:]
        self.weight.grad = conv2d_grad_weight(
            grad_output, x, kernel, self.stride, self.padding, windows
        )
        self.bias.grad = np.einsum("nfij->f", grad_output)

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]
