# Written by book/beyond/parallel.md. To keep edits: tangle.py --back.
"""A training step whose batch several worker processes share."""

import os
import pickle
import signal
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Self

import numpy as np

from cnn.beyond.fast import fuse_layers, keep_freed_memory
from cnn.layer import Buffer, Layer, Parameter
from cnn.optimizer import SGD
from cnn.training import check_finite, check_positive, partial_step


def microbatches(
    images: np.ndarray, labels: np.ndarray, size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A part of a batch in pieces of nearly equal size.

    images: (P, C, H, W); labels: (P,).
    size: about so many images in a piece, at most 3/2 of it.
    """
    n, count = len(labels), max(1, round(len(labels) / size))
    ends = [n * i // count for i in range(count + 1)]
    return [(images[a:b], labels[a:b]) for a, b in pairwise(ends) if a < b]


def parameters_to_vector(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The numbers of many arrays, of any shapes, in one vector.

    arrays: of parameters, the values or the grads; of any shape.
    """
    return np.concatenate([array.ravel() for array in arrays])


def vector_to_parameters(
    vector: np.ndarray, parameters: Sequence[Parameter]
) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Each parameter with its part of a vector, in its own shape.

    vector: of shape (V,); parameters: in the order in which it was made.
    """
    start = 0
    for parameter in parameters:
        end = start + parameter.value.size
        yield parameter, vector[start:end].reshape(parameter.value.shape)
        start = end


class SharedBlock(SharedMemory):
    """Memory that processes share, until no array looks into it."""

    def arrays(self, layout: np.dtype) -> dict[str, np.ndarray]:
        """Its arrays by name; layout: a structured type that fits."""
        whole = np.ndarray((1,), layout, buffer=self.buf)
        return {name: whole[name][0] for name in layout.names or ()}

    def free(self, arrays: dict[str, np.ndarray]) -> None:
        """Give it back; arrays: those of any shape that lie in it."""
        arrays.clear()
        with suppress(BufferError):  # somebody still looks into it
            self.close()
        self.unlink()

    def __del__(self) -> None:
        """Nothing: the last array gives the memory back."""


def receive(pipe: Any) -> bytes:
    """The next message; spins for 2 ms, as a blocked reader wakes slowly.

    pipe: to another process; EOFError if that has ended.
    """
    let_others_run = getattr(os, "sched_yield", lambda: None)
    end = time.perf_counter() + 0.002
    while not pipe.poll() and time.perf_counter() < end:
        let_others_run()
    return bytes(pipe.recv_bytes())


def portable(error: Exception) -> Exception:
    """The error, or its text where it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:
        return RuntimeError(repr(error))


def children(rank: int, workers: int) -> list[int]:
    """Who takes orders from a worker, in a tree that grows by doubling.

    rank: of the worker, 0 for the caller; workers: how many there are.
    """
    distances = [2**k for k in range(workers.bit_length())]
    near = [rank + d for d in distances if d < (rank & -rank or workers)]
    return [child for child in near if child < workers]


@cache
def parts(n: int, workers: int) -> list[slice]:
    """Which images of a batch each worker takes, by rank.

    n: images in the batch; workers: how many there are.
    """
    # A worker begins when its branch of the tree has its images, the last
    # branch first. To copy 64 images takes about as long as work on one.
    branch = [2 ** (max(rank, 1).bit_length() - 1) for rank in range(workers)]
    late = np.array([1 - first / workers for first in branch]) / 64
    shares = np.maximum(1 / workers + late.mean() - late, 0)
    ends = np.rint(n * np.cumsum(shares) / shares.sum()).astype(int)
    return [slice(a, b) for a, b in pairwise([0, *ends.tolist()])]


@dataclass
class Worker:
    """One of those who share a step; the caller is one, of rank 0.

    rank, workers: which of how many; pipes: to its children, by rank.
    network, microbatch_size: what it computes with, images at a time.
    """

    rank: int
    workers: int
    network: Layer
    microbatch_size: int
    pipes: dict[int, Any]

    def __post_init__(self) -> None:
        self.parameters = self.network.parameters()
        self.arrays = list(self.network.named_arrays().values())
        self.buffers = [a for a in self.arrays if isinstance(a, Buffer)]

    def compute(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        gradients: np.ndarray,
    ) -> tuple[float, int, np.ndarray]:
        """Loss, correct answers and gradient of its own part and below.

        images: (P, C, H, W), its own; labels: (P,); each counts 1/batch_size.
        gradients: (workers, V), where its children leave theirs.
        """
        loss, correct, error = 0.0, 0, None
        total = np.zeros_like(gradients[0])
        try:
            for x, y in microbatches(images, labels, self.microbatch_size):
                more, right = partial_step(self.network, x, y, batch_size)
                total += parameters_to_vector(p.grad for p in self.parameters)
                loss, correct = loss + more, correct + right
        except Exception as problem:
            error = problem
        for child, pipe in self.pipes.items():  # all, also after an error
            answer = pickle.loads(receive(pipe))
            if isinstance(answer, Exception):
                error = error or answer
            else:
                loss, correct = loss + answer[0], correct + answer[1]
                total += gradients[child]
        if error:
            raise error
        return loss, correct, total

    def serve(self, block: SharedBlock, layout: np.dtype, parent: Any) -> None:
        """Take part in steps as long as there is a parent.

        block, layout: the arrays that all share; parent: the pipe to it.
        """
        from threadpoolctl import threadpool_limits

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the caller
        threadpool_limits(1, user_api="blas")
        keep_freed_memory()
        shared = block.arrays(layout)
        weights = vector_to_parameters(shared["weights"], self.parameters)
        for parameter, weight in weights:
            parameter.value = weight  # and so sees what the caller writes
        with suppress(EOFError, ConnectionError):
            while True:
                order = receive(parent)
                for pipe in reversed(self.pipes.values()):
                    pipe.send_bytes(order)
                batch_size, values = pickle.loads(order)
                for buffer, value in zip(self.buffers, values, strict=True):
                    buffer.value = value
                mine = parts(batch_size, self.workers)[self.rank]
                part = shared["images"][mine], shared["labels"][mine]
                answer: Any
                try:
                    *answer, shared["gradients"][self.rank] = self.compute(
                        *part, batch_size, shared["gradients"]
                    )
                except Exception as error:
                    answer = portable(error)
                parent.send_bytes(pickle.dumps(answer))


class ParallelStep:
    """A training step whose batch is shared by several processes.

    step(network, optimizer, images, labels) does what train_step does, to
    within rounding. As many workers with the same microbatch_size give the
    same bits. close(), or the end of a with block, ends the processes.
    network: the one to be trained; workers: how many, with the caller.
    microbatch_size: about so many images go through the network at a time,
        so few that what a layer writes stays in the cache. Layers that look
        at a whole batch see these; buffers are those of the caller's part.
    ValueError if workers or microbatch_size is below 1.
    Equation: eq-parallel-sum.
    """

    def __init__(
        self, network: Layer, *, workers: int, microbatch_size: int = 48
    ) -> None:
        from threadpoolctl import ThreadpoolController

        check_positive(workers=workers, microbatch_size=microbatch_size)
        self.network, self.parameters = network, network.parameters()
        self.arrays = list(network.named_arrays().values())
        self.modules = list(network.modules())
        self.workers, self.microbatch_size = workers, microbatch_size
        self.kind: Any = None
        self.blas = ThreadpoolController().select(user_api="blas")
        self.started = ExitStack()
        self.close = weakref.finalize(self, self.started.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kind_of(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """What needs other processes when it changes.

        images: (N, C, H, W); labels: (N,).
        """
        modes = [layer.training for layer in self.modules]
        return modes, images.shape[1:], images.dtype, labels.dtype

    def start(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Start processes for such a batch, in place of those there were.

        images: (N, C, H, W); labels: (N,).
        """
        from joblib.externals.loky.backend import get_context

        self.started.close()
        self.kind = self.kind_of(images, labels)
        network = fuse_layers(self.network)
        for layer in network.modules():
            layer._saved = None  # what a forward has kept need not travel
        weights = parameters_to_vector(p.value for p in self.parameters)
        gradients = self.workers, len(weights)
        fields = [
            ("weights", weights.dtype, weights.shape),
            ("gradients", weights.dtype, gradients),
            ("images", images.dtype, images.shape),
            ("labels", labels.dtype, labels.shape),
        ]
        layout = np.dtype(fields, align=True)
        self.block = SharedBlock(create=True, size=layout.itemsize)
        self.shared = self.block.arrays(layout)
        self.started.callback(self.block.free, self.shared)
        context = get_context("loky")  # no file need be imported by a process
        pipes = {rank: context.Pipe() for rank in range(1, self.workers)}
        self.processes = []
        for rank in range(self.workers):
            below = {c: pipes[c][0] for c in children(rank, self.workers)}
            worker = Worker(
                rank, self.workers, network, self.microbatch_size, below
            )
            if rank == 0:
                self.worker = worker
                continue
            to_parent = pipes[rank][1]
            process = context.Process(
                target=worker.serve,
                args=(self.block, layout, to_parent),
                daemon=True,
            )
            process.start()
            self.processes.append(process)
            self.started.callback(process.join)
        for rank, (to_child, to_parent) in pipes.items():
            to_parent.close()
            if rank in self.worker.pipes:
                self.started.callback(to_child.close)
            else:
                to_child.close()

    def submit(self, images: np.ndarray, labels: np.ndarray) -> slice:
        """Set the other workers to work; returns the caller's own part.

        images: (N, C, H, W); labels: (N,).
        """
        worker, shared, end = self.worker, self.shared, len(labels)
        for own, array in zip(worker.arrays, self.arrays, strict=True):
            own.value = array.value
        slices = parts(len(labels), self.workers)
        order = pickle.dumps((end, [b.value for b in worker.buffers]))
        shared["weights"][:] = parameters_to_vector(
            p.value for p in self.parameters
        )
        for child, pipe in reversed(worker.pipes.items()):
            branch = slice(slices[child].start, end)
            shared["images"][branch] = images[branch]
            shared["labels"][branch] = labels[branch]
            pipe.send_bytes(order)
            end = branch.start
        return slices[0]

    def __call__(
        self,
        network: Layer,
        optimizer: SGD,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[float, int]:
        """Forward, loss, backward, update; returns loss, correct answers.

        network: that of __init__; optimizer: holds its parameters.
        images: (N, C, H, W); labels: (N,), of 0..K-1.
        ValueError, before anything is updated, if the loss is not finite,
        for another network, and after close(), which Ctrl-C does, too.
        RuntimeError if a worker process has died.
        """
        if network is not self.network or not self.close.alive:
            raise ValueError(
                "ParallelStep was given another network than its own, or "
                "was closed; expected the network that it was made for. "
                "Make a ParallelStep for each network."
            )
        check_positive(images=len(images))
        if labels.shape != (len(images),):
            raise ValueError(
                f"ParallelStep was given {len(images)} images and "
                f"{len(labels)} labels; expected one label for each image. "
                "Take both from the same minibatch."
            )
        if self.kind_of(images, labels) != self.kind or len(labels) > len(
            self.shared["labels"]
        ):
            self.start(images, labels)
        try:
            mine = self.submit(images, labels)
            with self.blas.limit(limits=1):
                loss, correct, gradient = self.worker.compute(
                    images[mine],
                    labels[mine],
                    len(labels),
                    self.shared["gradients"],
                )
        except (EOFError, ConnectionError) as error:
            self.close()
            raise RuntimeError(
                "a worker process of ParallelStep has died; expected it to "
                "live until close(). What it printed last says why."
            ) from error
        except KeyboardInterrupt:
            self.close()  # an answer may have been read by half
            raise
        check_finite(loss, optimizer.lr)
        for own, array in zip(self.worker.arrays, self.arrays, strict=True):
            array.value = own.value  # a buffer may be a new array
        for parameter, grad in vector_to_parameters(gradient, self.parameters):
            parameter.grad = grad
        optimizer.step()
        return loss, correct
