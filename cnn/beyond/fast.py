# Written by book/beyond/fast.md. To keep edits: tangle.py --back.
"""The same network, faster: slabs, fused layers, memory that is kept."""

import copy
import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce

import numpy as np
from numpy.lib.stride_tricks import as_strided
from threadpoolctl import ThreadpoolController

from cnn.convolution import CONTRACT, Conv2d
from cnn.data import check_arrays
from cnn.layer import Layer
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.relu import ReLU, relu
from cnn.windows import Pair, from_chwn, output_size, pad, to_chwn


def slabs_grad_input(
    grad: np.ndarray, weight: np.ndarray, stride: Pair, shape: tuple[int, ...]
) -> np.ndarray:
    """dL/dx of a convolution: first to the slabs, then to their pixels.

    grad, weight: dL/dy, (H', F, W', N), and the filters, (F, C, k, k).
    stride, shape: s, and of the padded images, (C, H, W, N), the result's.
    Equation: eq-fast-grad-slab.
    """
    (_, channels, height, width), (down, right) = weight.shape, stride
    upwards = np.ascontiguousarray(weight.transpose(2, 0, 1, 3)[::-1])
    cols, n = grad.shape[2:]
    slabs = np.zeros((shape[1], channels * width, cols * n), grad.dtype)
    for r, slab in enumerate(slabs):
        # The rows of windows first, ..., last - 1 read this slab.
        first = max(0, -((height - 1 - r) // down))  # rounded up
        last = min(r // down + 1, len(grad))
        if first < last:
            u = r - down * first
            kernels = upwards[height - 1 - u :: down][: last - first]
            readers = grad[first:last].reshape(-1, cols * n)
            # (C*k, (last - first)*F) @ ((last - first)*F, W'*N)
            np.matmul(kernels.reshape(-1, len(slab)).T, readers, out=slab)
    block = np.zeros(shape, grad.dtype)
    slabs = slabs.reshape(shape[1], channels, width, cols, n).swapaxes(0, 1)
    for v in range(width):  # windows overlap, a pixel collects from all: +=
        block[:, :, v::right][:, :, :cols] += slabs[:, :, v]
    return block


def windows_in_combs(
    block: np.ndarray, kernel: Pair, stride: Pair, size: Pair, combs: Pair
) -> np.ndarray:
    """Every window as a column, in a matrix for each comb of each row.

    block: padded images, (C, H, W, N) -> (combs, H', k*C*k, T*N), read-only,
    as matrices of one comb share slabs of memory.
    kernel, stride, size: of a window, between windows, and (H', T).
    combs: how many, and d: comb c has the windows c, c + d, ... of a row.
    Equation: eq-fast-slabs, eq-fast-combs.
    """
    (height, width), (down, right), (rows, teeth) = kernel, stride, size
    channels, lines, _, n = block.shape
    slabs = np.empty((combs[0], lines, channels, width, teeth, n), block.dtype)
    for c, v in np.ndindex(combs[0], width):
        pixels = block[:, :, right * c + v :: right * combs[1]][:, :, :teeth]
        slabs[c, :, :, v, : pixels.shape[2]] = pixels.swapaxes(0, 1)
        slabs[c, :, :, v, pixels.shape[2] :] = 0  # no pixel; nobody reads it
    comb, slab, _, within, *_ = slabs.strides
    matrices = combs[0], rows, height * channels * width, teeth * n
    strides = comb, down * slab, within, slabs.itemsize
    return as_strided(slabs, matrices, strides, writeable=False)


def knockout(
    values: list[np.ndarray], codes: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The largest of several arrays, entry by entry, and the winner's code.

    values: arrays of one shape. Of equal ones the first wins.
    codes: for each a scalar or an array of that shape, unsigned integers.
    """
    largest, winner = values[0], codes[0]
    for value, code in zip(values[1:], codes[1:], strict=True):
        better = (value > largest).view(np.uint8)
        winner = winner + better * (code - winner)  # if below 0, it wraps
        largest = np.maximum(largest, value)
    return largest, np.broadcast_to(winner, largest.shape)


def unpool(
    grad: np.ndarray, winner: np.ndarray, pool: MaxPool2d, shape: list[int]
) -> np.ndarray:
    """dL/dmaps: the gradient of each window goes to the place that won.

    grad, winner: dL/dy and the winners' codes, of shape (H'', F, W'', N).
    pool, shape: the windows are pool's, on maps (combs, H', F, T, N).
    """
    (tall, wide), (down, right) = pool.kernel_size, pool.stride
    if pool.kernel_size == pool.stride:  # each place is in one window
        maps = np.empty(shape, grad.dtype)
        for code, (u, v) in enumerate(np.ndindex(tall, wide)):
            np.multiply(grad, winner == code, out=maps[v, u::down])
        return maps
    maps = np.zeros(shape, grad.dtype)
    u, v = np.divmod(np.arange(tall * wide), wide)
    # In memory: each place from its window's first, and these in comb 0.
    steps = np.ravel_multi_index((v % right, u, 0, v // right, 0), maps.shape)
    firsts = np.arange(maps[0].size).reshape(maps[0].shape)[::down]
    index = steps.take(winner) + firsts[: len(grad), :, : grad.shape[2]]
    np.add.at(maps.reshape(-1), index.ravel(), grad.ravel())
    return maps


class ConvReLUPool(Layer):
    """Conv2d, ReLU and MaxPool2d in one: y = ReLU(maximum(w * x) + b).

    What the three give, if finite, but for rounding. eval() keeps nothing.
    conv, pool: the layers that it stands for.
    Equation: eq-fast-swap.
    """

    def __init__(self, conv: Conv2d, pool: MaxPool2d) -> None:
        self.conv, self.pool = conv, pool
        # Zeros around x: conv's, and more where pool's frame will be.
        p, s, q = conv.padding, conv.stride, pool.padding
        self.frame = p[0] + s[0] * q[0], p[1] + s[1] * q[1]

    def forward(self, x: np.ndarray) -> np.ndarray:
        conv, pool, weight = self.conv, self.pool, self.conv.weight.value
        weight, x = check_arrays("Conv2d", CONTRACT, weight, x)
        kernel, (tall, wide) = weight.shape[2:], pool.kernel_size
        (down, right), around = pool.stride, pool.padding
        size = output_size(x.shape[2:], kernel, conv.stride, conv.padding)
        rows, cols = output_size(size, pool.kernel_size, pool.stride, around)
        reads = down * (rows - 1) + tall, cols + (wide - 1) // right
        combs = min(wide, right), right
        block = pad(to_chwn(x), self.frame)
        windows = windows_in_combs(block, kernel, conv.stride, reads, combs)
        # (F, kCk) @ (combs, H', kCk, T*N) -> (combs, H', F, T*N)
        maps = weight.transpose(0, 2, 1, 3).reshape(len(weight), -1) @ windows
        maps = maps.reshape(*maps.shape[:3], -1, len(x))
        if any(around):  # what is not of the maps may not win
            row = np.arange(reads[0]) - around[0]
            maps[:, (row < 0) | (row >= size[0])] = -np.inf
            for c, comb in enumerate(maps):
                column = c + right * np.arange(reads[1]) - around[1]
                comb[:, :, (column < 0) | (column >= size[1])] = -np.inf
        starts = [(v % right, v // right) for v in range(wide)]
        across = [maps[c, :, :, t : t + cols] for c, t in starts]
        tops = [slice(u, u + down * (rows - 1) + 1, down) for u in range(tall)]
        if self.training:
            kind = np.min_scalar_type(tall * wide)
            widest, column = knockout(across, [*np.arange(wide, dtype=kind)])
            codes = [column[u] + kind.type(wide * u.start) for u in tops]
            largest, winner = knockout([widest[u] for u in tops], codes)
            y = largest.transpose(3, 1, 0, 2)
            self.save_for_backward(y, x.shape, windows, winner, largest)
        else:
            widest = reduce(np.maximum, across)
            largest = reduce(np.maximum, [widest[u] for u in tops])
        largest += conv.bias.value[:, np.newaxis, np.newaxis]
        return relu(largest).transpose(3, 1, 0, 2)  # from (H'', F, W'', N)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        conv, maps = self.conv, self.backward_to_maps(grad_output)
        _, (n, channels, height, width), *_ = self.saved(grad_output)
        (top, left), right = self.frame, self.pool.stride[1]
        shape = channels, height + 2 * top, width + 2 * left, n
        # The places in order: (combs, H', F, T, N) -> (H', F, W', N)
        fit = (shape[2] - conv.weight.value.shape[3]) // conv.stride[1] + 1
        cols = min(fit, right * maps.shape[3])
        grad = np.zeros((*maps.shape[1:3], cols, n), maps.dtype)
        for c, comb in enumerate(maps):
            places = grad[:, :, c::right]
            places[...] = comb[:, :, : places.shape[2]]
        block = slabs_grad_input(grad, conv.weight.value, conv.stride, shape)
        return from_chwn(block[:, top : top + height, left : left + width])

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        self.backward_to_maps(grad_output)

    def backward_to_maps(self, grad_output: np.ndarray) -> np.ndarray:
        """Set the parameters' grad; return dL/dmaps, (combs, H', F, T, N).

        grad_output: dL/dy, (N, F, H'', W'').
        """
        grad, (n, *_), windows, winner, largest = self.saved(grad_output)
        filters, channels, height, width = self.conv.weight.value.shape
        grad_output, grad = grad, np.empty(largest.shape, largest.dtype)
        np.multiply(grad_output.transpose(2, 1, 3, 0), largest > 0, out=grad)
        self.conv.bias.grad = np.einsum("ifjn->f", grad)
        *matrices, _, length = windows.shape
        shape = [*matrices, filters, length // n, n]
        maps = unpool(grad, winner, self.pool, shape)
        # (combs, H', kCk, L) @ (combs, H', L, F), and the sum over matrices
        places = maps.reshape(*matrices, filters, length).swapaxes(2, 3)
        columns = (windows @ places).sum(axis=(0, 1))
        columns = columns.reshape(height, channels, width, filters)
        self.conv.weight.grad = columns.transpose(3, 1, 0, 2)
        return maps


def fuse_layers(network: Layer) -> Layer:
    """A copy of a network that computes the same in fewer passes.

    network: if a Sequential, its Conv2d, ReLU, MaxPool2d become one layer.
    """
    kept = {id(layer._saved): None for layer in network.modules()}
    network = copy.deepcopy(network, kept)  # without what a forward kept
    if isinstance(network, Sequential):
        layers: list[Layer] = []
        for layer in network.layers:
            layers.append(layer)
            if [type(one) for one in layers[-3:]] == [Conv2d, ReLU, MaxPool2d]:
                layers[-3:] = [ConvReLUPool(*layers[-3::2])]  # type: ignore
        network.layers = tuple(layers)
    return network


def keep_freed_memory() -> bool:
    """Keep memory that arrays free for the next ones; False without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(-1, 2**30) and mallopt(-3, 2**25))  # see malloc.h


@cache
def blas() -> ThreadpoolController:
    """The library that multiplies; to look for it anew would take time."""
    return ThreadpoolController().select(user_api="blas")


def predict(
    network: Layer, images: np.ndarray, threads: int = 2, at_once: int = 128
) -> np.ndarray:
    """What cnn.predict gives, some images at a time, on some threads.

    network: fused, and in eval(). images: (N, C, H, W), N at least 1.
    threads, at_once: how many; how many images each takes at most at a time.
    """
    if len(images) <= 64:  # done before a thread has started
        return network.forward(images)
    size = min(at_once, max(64, -(-len(images) // threads)))
    parts = np.split(images, range(size, len(images), size))
    with blas().limit(limits=1), ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(network.forward, parts)))
