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
from typing import IO, Any, Self

import numpy as np

from cnn.layer import Layer, Parameter
from cnn.loss import CrossEntropyLoss
from cnn.max_pooling import MaxPool2d
from cnn.network import Sequential
from cnn.optimizer import SGD
from cnn.relu import ReLU
from cnn.training import check_counts, check_finite


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


def pool_first(network: Layer) -> Layer:
    """A copy of a network in which no ReLU stands before a max pooling.

    Each such pair changes places: the same outputs and gradients, to the
    bit, with fewer numbers to rectify.
    """
    network = copy.deepcopy(network)
    if isinstance(network, Sequential):
        layers = list(network.layers)
        for i in range(len(layers) - 1):
            if type(layers[i]) is ReLU and type(layers[i + 1]) is MaxPool2d:
                layers[i : i + 2] = layers[i + 1], layers[i]
        network.layers = tuple(layers)
    return network


# A block of a batch: images (B, C, H, W) and labels (B,).
Block = tuple[np.ndarray, np.ndarray]

# Arrays by name, in memory that several processes see.
Shared = dict[str, np.ndarray]


def blocks_of(
    images: np.ndarray,
    labels: np.ndarray,
    worker: int,
    workers: int,
    block_size: int,
) -> list[Block]:
    """One worker's part of a batch, in blocks of nearly equal size.

    All workers have as many blocks, but in a batch of fewer images than
    workers some have none.
    """
    n = len(labels)
    rounds = math.ceil(n / (workers * block_size))
    count = min(workers * rounds, n)
    ends = [n * i // count for i in range(count + 1)]
    parts = list(zip(ends[:-1], ends[1:], strict=True))
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
    network: Layer, blocks: Sequence[Block], batch_size: int
) -> tuple[float, int, np.ndarray]:
    """What some blocks add to the loss, hits and gradient of their batch.

    The loss is a mean over the batch, so each image counts 1 / batch_size.
    The gradients of all parameters come as one vector.
    """
    criterion = CrossEntropyLoss()
    parameters = network.parameters()
    loss, hits, total = 0.0, 0, None
    for images, labels in blocks:
        share = len(labels) / batch_size
        logits = network.forward(images)
        loss += share * criterion.forward(logits, labels)
        hits += int((logits.argmax(axis=1) == labels).sum())
        network.backward_parameters(share * criterion.backward())
        grad = flat(p.grad for p in parameters)
        total = grad if total is None else total + grad
    if total is None:
        total = np.zeros_like(flat(p.value for p in parameters))
    return loss, hits, total


def shared_arrays(path: str, layout: np.dtype, mode: str) -> Shared:
    """The arrays of a layout, in a file that several processes map."""
    memory = np.memmap(path, layout, mode, shape=())
    return {name: np.asarray(memory[name]) for name in layout.names}


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the caller
    keep_freed_memory()
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a layer prints must not mix with the answers
    network, worker, workers, block_size = pickle.load(orders)
    parameters, steps = network.parameters(), 0
    shared: Shared = {}
    while True:
        try:
            order = pickle.load(orders)
        except EOFError:
            return
        if isinstance(order, tuple):
            shared = shared_arrays(*order, "r+")
            for parameter, value in unflat(shared["weights"], parameters):
                parameter.value = value
            continue
        steps += 1
        try:
            blocks = blocks_of(
                shared["images"][:order],
                shared["labels"][:order],
                worker,
                workers,
                block_size,
            )
            loss, hits, grad = share_of_step(network, blocks, order)
            shared["grads"][worker] = grad
            send(answers, (loss, hits))
        except Exception as error:
            send(answers, error)
        shared["done"][worker] = steps
        wait_for(shared["started"], 0, steps + 1)


def stop(processes: Sequence[Any], folder: Any) -> None:
    """End worker processes, as they end when their input does; tidy up."""
    for process in processes:
        process.stdin.close()
    for process in processes:
        process.wait()
        process.stdout.close()
    folder.cleanup()


class ParallelStep:
    """A training step on blocks of the batch, shared by worker processes.

    step(network, optimizer, images, labels) does what train_step does, to
    within rounding: the gradient of a sum is the sum of gradients. The same
    number of workers gives the same bits. The caller is one of the workers;
    the others run until close(), or the end of a with statement.
    block_size: images at a time, so few that what a layer reads and writes
    stays in the processor's cache.
    ValueError if workers or block_size is below 1.
    """

    def __init__(
        self, network: Layer, *, workers: int, block_size: int = 48
    ) -> None:
        from threadpoolctl import ThreadpoolController

        check_counts(workers=workers, block_size=block_size)
        self.network, self.workers = network, workers
        self.block_size = block_size
        self.replica = pool_first(network)
        self.blas = ThreadpoolController()
        self.steps, self.kind, self.shared = 0, (), {}
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        code = f"import sys; sys.path[:] = {sys.path!r}; "
        code += "from cnn.fast import serve; serve()"
        one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | one,
            )
            for _ in range(1, workers)
        ]
        self.close = weakref.finalize(
            self, stop, self.processes, self.folder
        )
        for worker, process in enumerate(self.processes, start=1):
            send(process.stdin, (self.replica, worker, workers, block_size))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lay_out(self, images, labels, weights) -> None:
        """Share the batch and the weights with the workers."""
        kind = (images.shape[1:], images.dtype, labels.dtype, weights.dtype)
        if kind != self.kind or len(labels) > len(self.shared["labels"]):
            layout = np.dtype(
                [
                    ("started", np.int64, 1),
                    ("done", np.int64, self.workers),
                    ("weights", weights.dtype, weights.size),
                    ("grads", weights.dtype, (self.workers, weights.size)),
                    ("images", images.dtype, images.shape),
                    ("labels", labels.dtype, labels.shape),
                ],
                align=True,
            )
            path = os.path.join(self.folder.name, str(self.steps))
            self.kind, self.shared = kind, shared_arrays(path, layout, "w+")
            for process in self.processes:
                send(process.stdin, (path, layout))
        self.shared["weights"][:] = weights
        self.shared["images"][: len(images)] = images
        self.shared["labels"][: len(labels)] = labels

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
        or if the network is another than the one that the workers have.
        """
        n = len(labels)
        parameters = network.parameters()
        if self.processes:
            self.lay_out(images, labels, flat(p.value for p in parameters))
            self.steps += 1
            for process in self.processes:
                send(process.stdin, n)
            self.shared["started"][0] = self.steps
        for mine, p in zip(self.replica.parameters(), parameters):
            mine.value = p.value
        with self.blas.limit(limits=1, user_api="blas"):
            blocks = blocks_of(images, labels, 0, self.workers, self.block_size)
            answers = [share_of_step(self.replica, blocks, n)]
        for w, process in enumerate(self.processes, 1):
            wait_for(self.shared["done"], w, self.steps)
            a = pickle.load(process.stdout)
            if isinstance(a, Exception): raise a
            answers.append((*a, self.shared["grads"][w]))
        loss = sum(a[0] for a in answers)
        check_finite(loss, optimizer.lr)
        total = answers[0][2]
        for a in answers[1:]: total = total + a[2]
        for p, g in unflat(total, parameters):
            p.grad = g
        optimizer.step()
        return loss, sum(a[1] for a in answers)
