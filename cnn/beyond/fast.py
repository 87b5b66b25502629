# Written by book/beyond/fast.md. To keep edits: tangle.py --back.
"""The same training step, faster: fused layers, and blocks of the batch."""

import copy
import ctypes

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cnn.convolution import Conv2d
from cnn.layer import Layer, check_batch
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.relu import ReLU, relu, relu_backward
from cnn.windows import Pair, Size, output_size, pair


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


def row_slabs(
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
        slabs[:, :, v] = block[:, :, v : v + right * cols : right]
    return slabs.reshape(rows, channels * width, cols * n)


def sliding_windows(
    x: np.ndarray, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> np.ndarray:
    """Every window of x as a column, in one matrix for each row of windows.

    (N, C, H, W) -> (H', k*C*k, W'*N), read-only: matrix i is the slabs
    s*i, ..., s*i + k - 1 of row_slabs, and its neighbours share their memory.
    """
    check_batch(x, "(N, C, H, W)", "conv2d")
    height, _ = pair(kernel_size, "kernel_size", 1)
    down, _ = pair(stride, "stride", 1)
    rows, _ = output_size(x.shape[2:], kernel_size, stride, padding)
    slabs = row_slabs(x, kernel_size, stride, padding)
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


def matmul_in_pieces(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """np.matmul(a, b, out), a few columns of b at a time.

    (M, K) @ (..., K, L) -> (..., M, L). On some processors OpenBLAS has
    quicker kernels for products of at most a million multiplications.
    Where 16 columns take more than that, there is one piece.
    """
    columns = 10**6 // a.size // 16 * 16 or b.shape[-1]
    for start in range(0, b.shape[-1], columns):
        piece = slice(start, start + columns)
        np.matmul(a, b[..., piece], out=out[..., piece])


def add_slabs(
    slabs: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """The transpose of row_slabs: each window's numbers added where it lay.

    (H + 2p, C*k, W'*N) -> (N, C, H, W), which is input_shape.
    """
    n, channels, height, breadth = input_shape
    top, left = pair(padding, "padding", 0)
    _, width = pair(kernel_size, "kernel_size", 1)
    _, right = pair(stride, "stride", 1)
    rows = height + 2 * top
    slabs = slabs.reshape(rows, channels, width, -1, n)
    reach = right * slabs.shape[3]
    block = np.zeros((rows, channels, breadth + 2 * left, n), slabs.dtype)
    for v in range(width):
        # Windows overlap, and a pixel collects from all of them: +=.
        block[:, :, v : v + reach : right] += slabs[:, :, v]
    return from_hcwn(block[top : top + height, :, left : left + breadth])


def slabs_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """dL/dx: each output's gradient goes back to the pixels it read.

    (N, F, H', W') -> (N, C, H, W), which is input_shape.
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
            matmul_in_pieces(kernels.T, readers, out=slab)
        else:
            slab[...] = 0
    return add_slabs(slabs, input_shape, (height, width), stride, padding)


def windows_in_halves(
    x: np.ndarray, kernel_size: Pair, stride: Pair, padding: Pair
) -> np.ndarray:
    """Every window of x as a column, in two matrices for each row.

    [0] has those at places 0, 2, ... of a row, [1] those at 1, 3, ...:
    (N, C, H, W) -> (2, H', kCk, W'N / 2), with H' and W' rounded down to
    even numbers, as MaxPool2d(2) reads no more.
    """
    check_batch(x, "(N, C, H, W)", "conv2d")
    (height, width), (down, right) = kernel_size, stride
    size = output_size(x.shape[2:], kernel_size, stride, padding)
    rows, cols = output_size(size, 2, 2)  # H'/2, W'/2
    block = pad(to_hcwn(x), padding)  # (H + 2p, C, W + 2p, N)
    length, channels, _, n = block.shape
    apart = 2 * right
    combs = [np.ascontiguousarray(block[:, :, i::apart]) for i in range(apart)]
    slabs = np.empty((2, length, channels, width, cols, n), x.dtype)
    for odd in 0, 1:
        for v in range(width):
            tooth, i = divmod(odd * right + v, apart)
            slabs[odd, :, :, v] = combs[i][:, :, tooth : tooth + cols]
    # As in sliding_windows: slab follows slab, so (u, c, v) is one axis.
    half, slab, _, within, *_ = slabs.strides
    return as_strided(
        slabs,
        (2, 2 * rows, height * channels * width, cols * n),
        (half, down * slab, within, slabs.itemsize),
        writeable=False,
    )


# Where left wins, (H, F, L), and where upper wins, (H/2, F, L).
Winners = tuple[np.ndarray, np.ndarray]


def pool_halves(maps: np.ndarray) -> tuple[np.ndarray, Winners]:
    """The maximum of each 2 x 2 window: (2, H, F, L) -> (H/2, F, L).

    maps[0]: the even places of each row, maps[1]: the odd ones. Of equal
    maxima the first in reading order wins, as in MaxPool2d.
    """
    left, right = maps
    wide = np.maximum(left, right)  # (H, F, L)
    upper, lower = wide[::2], wide[1::2]
    return np.maximum(upper, lower), (left >= right, upper >= lower)


def unpool_halves(grad: np.ndarray, winners: Winners) -> np.ndarray:
    """Each gradient to where its maximum was: (H/2, F, L) -> (2, H, F, L)."""
    left_wins, upper_wins = winners
    wide = np.empty(left_wins.shape, grad.dtype)
    upper, lower = wide[::2], wide[1::2]
    np.multiply(grad, upper_wins, out=upper)
    np.subtract(grad, upper, out=lower)  # what upper did not take
    maps = np.empty((2, *wide.shape), grad.dtype)
    left, right = maps
    np.multiply(wide, left_wins, out=left)
    np.subtract(wide, left, out=right)
    return maps


class ConvReLUPool(Layer):
    """Conv2d, ReLU and MaxPool2d(2) in one: y = ReLU(maximum(w * x) + b).

    What the three give, to within rounding. (A tie that only the rounding
    of w * x + b makes is none here.) conv: whose parameters it has.
    """

    def __init__(self, conv: Conv2d) -> None:
        self.conv = conv

    def forward(self, x: np.ndarray) -> np.ndarray:
        conv, weight = self.conv, self.conv.weight.value
        windows = windows_in_halves(
            x, weight.shape[2:], conv.stride, conv.padding
        )
        _, rows, _, length = windows.shape  # (2, H', kCk, W'N/2)
        dtype = np.result_type(weight, x)
        maps = np.empty((2, rows, len(weight), length), dtype)
        matmul_in_pieces(weight_matrix(weight, x), windows, maps)
        largest, winners = pool_halves(maps)
        y = relu(largest + conv.bias.value[:, np.newaxis])
        self.save_for_backward(x, windows, winners, y)
        return from_hcwn(y.reshape(*y.shape[:2], -1, len(x)))

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        maps = self.backward_to_maps(grad_output)
        x, *_ = self.saved()
        conv, (_, rows, filters, _) = self.conv, maps.shape
        # (2, H', F, W'/2, N) -> (H', F, W', N): the places in order again
        maps = maps.reshape(2, rows, filters, -1, len(x))
        grad = maps.transpose(1, 2, 3, 0, 4)
        grad = grad.reshape(rows, filters, -1, len(x))
        return slabs_grad_input(
            from_hcwn(grad),
            conv.weight.value,
            x.shape,
            conv.stride,
            conv.padding,
        )

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        self.backward_to_maps(grad_output)

    def backward_to_maps(self, grad_output: np.ndarray) -> np.ndarray:
        """Set the parameters' gradients; return that to the maps."""
        _, windows, winners, y = self.saved()
        grad = relu_backward(to_hcwn(grad_output).reshape(y.shape), y)
        self.conv.bias.grad = np.einsum("ifl->f", grad)
        maps = unpool_halves(grad, winners)  # (2, H', F, W'N/2)
        # (2, H', kCk, L) @ (2, H', L, F), and the sum over halves and rows
        columns = (windows @ maps.swapaxes(2, 3)).sum(axis=(0, 1))
        filters, channels, height, width = self.conv.weight.value.shape
        columns = columns.reshape(height, channels, width, filters)
        self.conv.weight.grad = columns.transpose(3, 1, 0, 2)
        return maps


def quicker(network: Layer) -> Layer:
    """A copy of a network that computes the same in fewer passes.

    Each Conv2d, ReLU, MaxPool2d(2) of a Sequential becomes one layer (not
    in a Sequential within it).
    """
    network = copy.deepcopy(network)
    if isinstance(network, Sequential):
        layers: list[Layer] = []
        for layer in network.layers:
            layers.append(layer)
            kinds = [type(last) for last in layers[-3:]]  # no subclass of one
            match layers[-3:]:
                case [
                    Conv2d() as conv,
                    ReLU(),
                    MaxPool2d(
                        kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)
                    ),
                ] if kinds == [Conv2d, ReLU, MaxPool2d]:
                    layers[-3:] = [ConvReLUPool(conv)]
        network.layers = tuple(layers)
    return network


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its arrays free, for the next.

    The C library of Linux (glibc) otherwise hands it back to the system,
    which clears every page before it gives it out again, in every step.
    Returns whether there was such a library to tell.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    return bool(
        mallopt(trim_threshold, 2**30) and mallopt(mmap_threshold, 2**25)
    )
