# Written by book/beyond/fast.md. To keep edits: tangle.py --back.
"""The same training step, faster: fused layers, and blocks of the batch."""

import copy
import ctypes
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cnn.convolution import (
    Conv2d,
    Pair,
    conv2d_grad_input,
    from_hcwn,
    output_size,
    pad,
    to_hcwn,
    weight_matrix,
)
from cnn.layer import Layer, Parameter, check_batch
from cnn.loss import CrossEntropyLoss
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.relu import ReLU, relu, relu_backward


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
        return conv2d_grad_input(
            from_hcwn(grad),
            conv.weight.value,
            x.shape,
            conv.stride,
            conv.padding,
            matmul_in_pieces,
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

    def parameters(self) -> list[Parameter]:
        return self.conv.parameters()


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


# A block of a batch: images (B, C, H, W) and labels (B,).
Block = tuple[np.ndarray, np.ndarray]


def blocks_of(
    images: np.ndarray,
    labels: np.ndarray,
    worker: int,
    workers: int,
    block_size: int,
) -> list[Block]:
    """One worker's part of a batch, in blocks of nearly equal size.

    All workers have as many blocks, unless the batch has fewer images.
    """
    n = len(labels)
    rounds = math.ceil(n / (workers * block_size))
    count = min(workers * rounds, n)
    ends = [n * i // count for i in range(count + 1)]
    parts = list(pairwise(ends))
    mine = parts[worker * rounds : (worker + 1) * rounds]
    return [(images[a:b], labels[a:b]) for a, b in mine]


def flat(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The numbers of all the arrays in one vector."""
    return np.concatenate([array.ravel() for array in arrays])


def unflat(
    vector: np.ndarray, parameters: Sequence[Parameter]
) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Each parameter with its part of a vector, in its shape."""
    start = 0
    for parameter in parameters:
        end = start + parameter.value.size
        yield parameter, vector[start:end].reshape(parameter.value.shape)
        start = end


def share_of_step(
    network: Layer,
    images: np.ndarray,
    labels: np.ndarray,
    worker: int = 0,
    workers: int = 1,
    block_size: int = 48,
) -> tuple[float, int, np.ndarray]:
    """What one worker adds to the loss, hits and gradient of a batch.

    The loss is a mean over the batch, so each image counts 1 / N. The
    gradients of all parameters come as one vector.
    """
    criterion, parameters = CrossEntropyLoss(), network.parameters()
    loss, hits, total = 0.0, 0, None
    for x, y in blocks_of(images, labels, worker, workers, block_size):
        share = len(y) / len(labels)
        logits = network.forward(x)
        loss += share * criterion.forward(logits, y)
        hits += int((logits.argmax(axis=1) == y).sum())
        network.backward_parameters(share * criterion.backward())
        grad = flat(p.grad for p in parameters)
        total = grad if total is None else total + grad
    if total is None:  # not a single image
        total = np.zeros_like(flat(p.value for p in parameters))
    return loss, hits, total
