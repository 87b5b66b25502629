# Written by book/beyond/fast.md. To keep edits: tangle.py --back.
"""The same training step, faster: blocks of the batch, shared by workers."""

import copy
import ctypes
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import IO, Any, Self

import numpy as np

from cnn.convolution import batch_first, batch_last, output_size
from cnn.layer import Layer, Parameter
from cnn.loss import CrossEntropyLoss
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.optimizer import SGD
from cnn.relu import ReLU
from cnn.training import check_counts, check_finite


class HalvingMaxPool2d(Layer):
    """MaxPool2d(2): the larger of left and right, then of upper and lower.

    To the bit what MaxPool2d gives, ties too, with half the comparisons.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        rows, cols = output_size(x.shape[2:], 2, 2)
        block = batch_last(x)[: 2 * rows, :, : 2 * cols]
        left, right = block[:, :, ::2], block[:, :, 1::2]
        wide = np.maximum(left, right)  # (2H', C, W', N)
        upper, lower = wide[::2], wide[1::2]
        self.save_for_backward(x.shape, left >= right, upper >= lower)
        return batch_first(np.maximum(upper, lower))

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (n, channels, height, width), left_wins, upper_wins = self.saved()
        grad = batch_last(grad_output)  # (H', C, W', N)
        wide = np.empty(left_wins.shape, grad.dtype)  # (2H', C, W', N)
        upper, lower = wide[::2], wide[1::2]
        np.multiply(grad, upper_wins, out=upper)
        np.subtract(grad, upper, out=lower)  # what upper did not take
        rows, cols = 2 * len(grad), 2 * grad.shape[2]
        block = np.empty((height, channels, width, n), grad.dtype)
        block[rows:], block[:, :, cols:] = 0, 0  # a row, a column left over
        left, right = block[:rows, :, :cols:2], block[:rows, :, 1:cols:2]
        np.multiply(wide, left_wins, out=left)
        np.subtract(wide, left, out=right)
        return batch_first(block)


def quicker(network: Layer) -> Layer:
    """A copy of a network that computes the same bits in less time.

    A ReLU before a max pooling comes after it, where there are fewer
    numbers; pooling of 2 x 2 pixels goes by halves.
    """
    network = copy.deepcopy(network)
    if isinstance(network, Sequential):
        layers = list(network.layers)
        for i, layer in enumerate(layers):
            if type(layer) is not MaxPool2d:
                continue
            sizes = layer.kernel_size, layer.stride, layer.padding
            if sizes == ((2, 2), (2, 2), (0, 0)):
                layers[i] = HalvingMaxPool2d()
            if i > 0 and type(layers[i - 1]) is ReLU:
                layers[i - 1], layers[i] = layers[i], layers[i - 1]
        network.layers = tuple(layers)
    return network


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its arrays free, for the next.

    The C library of Linux (glibc) otherwise hands it back to the system,
    which clears every page before it gives it out again: step by step.
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


# Arrays by name, in memory that several processes see.
Shared = dict[str, np.ndarray]


def shared_arrays(path: str, layout: np.dtype) -> Shared:
    """The arrays of a layout, in a file that several processes map."""
    memory = np.memmap(path, layout, "r+", shape=(1,))
    return {name: np.asarray(memory[name][0]) for name in layout.names or ()}


def wait_for(counts: np.ndarray, index: int, number: int) -> None:
    """Look again and again, for 2 ms, whether counts[index] is number.

    Whoever looks is there at once; whoever sleeps must be woken first.
    """
    end = time.perf_counter() + 0.002
    while counts[index] != number and time.perf_counter() < end:
        pass


def send(stream: IO[bytes], message: Any) -> None:
    """Send an object to another process."""
    pickle.dump(message, stream)
    stream.flush()


def serve() -> None:
    """What a worker process runs: its share of each step, till input ends.

    An order is the size of a batch, or where the shared arrays lie. The
    answer is the loss and the hits, or the error that there was.
    """
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the caller
    keep_freed_memory()
    threadpool_limits(1, user_api="blas")
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a layer prints must not mix with the answers
    network, *place = pickle.load(orders)
    worker, parameters, steps = place[0], network.parameters(), 0
    shared: Shared = {}
    while True:
        try:
            order = pickle.load(orders)
        except EOFError:
            return
        if isinstance(order, tuple):
            shared = shared_arrays(*order)
            for parameter, value in unflat(shared["weights"], parameters):
                parameter.value = value
            continue
        steps += 1
        images, labels = shared["images"][:order], shared["labels"][:order]
        try:
            loss, hits, grad = share_of_step(network, images, labels, *place)
            shared["grads"][worker] = grad
            send(answers, (loss, hits))
        except Exception as error:
            send(answers, error)
        shared["done"][worker] = steps
        wait_for(shared["started"], 0, steps + 1)


def start_worker() -> Any:
    """A new Python process that serves; it needs no file to be imported."""
    code = f"import sys; sys.path[:] = {sys.path!r}; "
    code += "from cnn.fast import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def stop(workers: Sequence[Any], folder: Any) -> None:
    """End worker processes, which do when their input does; tidy up."""
    for worker in workers:
        with suppress(BrokenPipeError):
            worker.stdin.close()
    for worker in workers:
        worker.wait()
        worker.stdout.close()
    folder.cleanup()


class ParallelStep:
    """A training step on blocks of the batch, shared by worker processes.

    step(network, optimizer, images, labels) does what train_step does, to
    within rounding: the gradient of a sum is the sum of gradients. The same
    number of workers gives the same bits. The caller is one of them; the
    others are processes, and run until close() or the end of a with.
    block_size: images at a time, so few that what a layer reads and writes
    stays in the processor's cache.
    ValueError if workers or block_size is below 1.
    """

    def __init__(
        self, network: Layer, *, workers: int, block_size: int = 48
    ) -> None:
        from threadpoolctl import ThreadpoolController

        check_counts(workers=workers, block_size=block_size)
        self.network, self.replica = network, quicker(network)
        self.plan = workers, block_size
        self.steps = 0
        self.kind: Any = None
        self.shared: Shared = {}
        self.blas = ThreadpoolController()
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        self.others = [start_worker() for _ in range(1, workers)]
        self.close = weakref.finalize(self, stop, self.others, self.folder)
        for worker, process in enumerate(self.others, start=1):
            send(process.stdin, (self.replica, worker, *self.plan))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_room(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Share arrays that hold such a batch, where there are none yet."""
        weights = flat(p.value for p in self.network.parameters())
        kind = images.shape[1:], images.dtype, labels.dtype, weights.dtype
        if kind == self.kind and len(labels) <= len(self.shared["labels"]):
            return
        workers, _ = self.plan
        layout = np.dtype(
            [
                ("started", np.int64, 1),
                ("done", np.int64, workers),
                ("weights", weights.dtype, weights.size),
                ("grads", weights.dtype, (workers, weights.size)),
                ("images", images.dtype, images.shape),
                ("labels", labels.dtype, labels.shape),
            ],
            align=True,
        )
        path = os.path.join(self.folder.name, str(self.steps))
        with open(path, "wb") as file:
            file.truncate(layout.itemsize)
        self.kind, self.shared = kind, shared_arrays(path, layout)
        for process in self.others:
            send(process.stdin, (path, layout))

    def ask(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Set the other workers to work."""
        self.make_room(images, labels)
        shared, n = self.shared, len(labels)
        shared["weights"][:] = flat(p.value for p in self.network.parameters())
        shared["images"][:n], shared["labels"][:n] = images, labels
        self.steps += 1
        for process in self.others:
            send(process.stdin, n)
        shared["started"][0] = self.steps

    def answers(self) -> list[Any]:
        """What each of the others found: its share, or an error."""
        found: list[Any] = []
        for worker, process in enumerate(self.others, start=1):
            wait_for(self.shared["done"], worker, self.steps)
            answer = pickle.load(process.stdout)
            if not isinstance(answer, Exception):
                answer = (*answer, self.shared["grads"][worker])
            found.append(answer)
        return found

    def __call__(
        self,
        network: Layer,
        optimizer: SGD,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[float, int]:
        """Forward, loss, backward, update; returns the loss and the hits.

        images: (N, C, H, W); labels: (N,), of 0..K-1.
        ValueError, before anything is updated, if the loss is not finite,
        for another network than the workers have, and after close().
        RuntimeError if a worker process has died.
        """
        if network is not self.network or not self.close.alive:
            raise ValueError(
                "ParallelStep was given another network than its own, or "
                "was closed; expected the network that it was made for. "
                "Make a ParallelStep for each network."
            )
        check_counts(images=len(images))
        if labels.shape != (len(images),):
            raise ValueError(
                f"ParallelStep was given {len(images)} images and "
                f"{len(labels)} labels; expected one label for each image. "
                "Take both from the same minibatch."
            )
        parameters = network.parameters()
        pairs = zip(self.replica.parameters(), parameters, strict=True)
        for own, parameter in pairs:
            own.value = parameter.value
        try:
            if self.others:
                self.ask(images, labels)
            try:
                with self.blas.limit(limits=1, user_api="blas"):
                    share = share_of_step(
                        self.replica, images, labels, 0, *self.plan
                    )
            finally:  # an error here must not leave answers unread
                found = self.answers()
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise RuntimeError(
                "a worker process of ParallelStep has died; expected it to "
                "live until close(). What it printed last says why."
            ) from error
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        losses, hits, grads = zip(share, *found, strict=True)
        loss = sum(losses)
        check_finite(loss, optimizer.lr)
        total = sum(grads[1:], start=grads[0])
        for parameter, grad in unflat(total, parameters):
            parameter.grad = grad
        optimizer.step()
        return loss, sum(hits)
