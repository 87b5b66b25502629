# Written by book/beyond/fast.md. To keep edits: tangle.py --back.
"""The same training step, faster: fused layers, and blocks of the batch."""

import copy
import ctypes
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from cnn.convolution import (
    Conv2d,
    batch_first,
    batch_last,
    conv2d_grad_input,
    conv2d_grad_weight,
    filter_rows,
    output_size,
    windows_of,
)
from cnn.layer import Layer, Parameter
from cnn.loss import CrossEntropyLoss
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.relu import ReLU, relu, relu_backward


def matmul_in_pieces(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """np.matmul(a, b, out), a few columns of b at a time.

    (M, K) @ (..., K, L) -> (..., M, L). On some processors OpenBLAS has
    quicker kernels for products of at most a million multiplications.
    """
    columns = max(10**6 // a.size // 16, 1) * 16
    for start in range(0, b.shape[-1], columns):
        piece = slice(start, start + columns)
        np.matmul(a, b[..., piece], out=out[..., piece])


# Which of upper and lower, then of left and right, each maximum came from.
Winners = tuple[np.ndarray, np.ndarray]


def pool_by_halves(block: np.ndarray) -> tuple[np.ndarray, Winners]:
    """The maximum of each 2 x 2 window: (H, C, W, N) -> (H/2, C, W/2, N).

    An odd row or column at the end is left out. Of equal maxima the left
    one wins, and of those the upper one.
    """
    rows, cols = output_size((len(block), block.shape[2]), 2, 2)
    block = block[: 2 * rows, :, : 2 * cols]
    upper, lower = block[::2], block[1::2]
    upper_wins = upper >= lower  # (H/2, C, W, N)
    tall = np.maximum(upper, lower)
    left, right = tall[:, :, ::2], tall[:, :, 1::2]
    return np.maximum(left, right), (upper_wins, left >= right)


def unpool_by_halves(
    grad: np.ndarray, winners: Winners, shape: tuple[int, ...]
) -> np.ndarray:
    """Each gradient to where its maximum came from: -> shape (H, C, W, N)."""
    upper_wins, left_wins = winners
    tall = np.empty(upper_wins.shape, grad.dtype)  # (H/2, C, W, N), W even
    left, right = tall[:, :, ::2], tall[:, :, 1::2]
    np.multiply(grad, left_wins, out=left)
    np.subtract(grad, left, out=right)  # what left did not take
    rows, cols = 2 * len(tall), tall.shape[2]
    block = np.empty(shape, grad.dtype)
    block[rows:], block[:, :, cols:] = 0, 0  # a row, a column left over
    upper, lower = block[:rows:2, :, :cols], block[1:rows:2, :, :cols]
    np.multiply(tall, upper_wins, out=upper)
    np.subtract(tall, upper, out=lower)
    return block


class ConvReLUPool(Layer):
    """Conv2d, ReLU and MaxPool2d(2) in one: y = ReLU(maximum(w * x) + b).

    What the three give, to within rounding; where maxima are equal, the
    gradient may go to another of them. conv: whose parameters it has.
    """

    def __init__(self, conv: Conv2d) -> None:
        self.conv = conv

    def forward(self, x: np.ndarray) -> np.ndarray:
        weight, bias = self.conv.weight.value, self.conv.bias.value
        steps = self.conv.stride, self.conv.padding
        windows = windows_of(x, weight.shape[2:], *steps)  # (H', kCk, W'N)
        rows, _, length = windows.shape
        dtype = np.result_type(weight, x)
        maps = np.empty((rows, len(weight), length), dtype)
        matmul_in_pieces(filter_rows(weight, x), windows, maps)
        maps = maps.reshape(rows, len(weight), -1, len(x))  # (H', F, W', N)
        largest, winners = pool_by_halves(maps)
        y = relu(largest + bias[:, np.newaxis, np.newaxis])
        self.save_for_backward(x, windows, maps.shape, winners, y)
        return batch_first(y)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad = self.backward_to_maps(grad_output)
        x, *_ = self.saved()
        steps = self.conv.stride, self.conv.padding
        weight = self.conv.weight.value
        return conv2d_grad_input(
            grad, weight, x.shape, *steps, matmul_in_pieces
        )

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        self.backward_to_maps(grad_output)

    def backward_to_maps(self, grad_output: np.ndarray) -> np.ndarray:
        """The parameters' gradients, and that to what the filters gave."""
        x, windows, shape, winners, y = self.saved()
        conv, kernel = self.conv, self.conv.weight.value.shape[2:]
        grad = relu_backward(batch_last(grad_output), y)  # (H'/2, F, W'/2, N)
        conv.bias.grad = np.einsum("ifjn->f", grad)
        grad = batch_first(unpool_by_halves(grad, winners, shape))
        conv.weight.grad = conv2d_grad_weight(
            grad, x, kernel, conv.stride, conv.padding, windows
        )
        return grad

    def parameters(self) -> list[Parameter]:
        return self.conv.parameters()


def quicker(network: Layer) -> Layer:
    """A copy of a network that computes the same in less time.

    Each Conv2d, ReLU, MaxPool2d(2) of a Sequential becomes one layer.
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
