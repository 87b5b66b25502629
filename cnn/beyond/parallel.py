# Written by book/beyond/parallel.md. To keep edits: tangle.py --back.
"""A training step whose batch several worker processes share."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Self

import numpy as np

from cnn.back import processes
from cnn.beyond.fast import blas, fuse_layers, keep_freed_memory
from cnn.data import (
    as_numbers,
    check_arrays,
    check_positive,
    check_shapes,
)
from cnn.layer import Buffer, Layer, Parameter
from cnn.optimizer import SGD
from cnn.training import check_finite, partial_step


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
    """The numbers of arrays of any shapes, values or grads, in one vector."""
    return np.concatenate([array.ravel() for array in arrays])


def vector_to_parameters(
    vector: np.ndarray, parameters: Sequence[Parameter]
) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Each of the parameters with its part of a vector of shape (V,)."""
    start = 0
    for parameter in parameters:
        end = start + parameter.value.size
        yield parameter, vector[start:end].reshape(parameter.value.shape)
        start = end


# Of a part: loss, correct answers and gradient; or what went wrong.
Answer = tuple[float, int, np.ndarray] | Exception


class Worker:
    """One of so many workers with a network of its own; rank 0: the caller.

    microbatch_size: about so many images at a time.
    """

    def __init__(
        self, rank: int, workers: int, network: Layer, microbatch_size: int
    ) -> None:
        self.rank, self.workers, self.size = rank, workers, microbatch_size
        self.network, self.parameters = network, network.parameters()
        self.arrays = list(network.named_arrays().values())
        self.buffers = [a for a in self.arrays if isinstance(a, Buffer)]

    def part(self, n: int) -> slice:
        """Which of the n images of a batch are its own."""
        rank, workers = self.rank, self.workers
        return slice(n * rank // workers, n * (rank + 1) // workers)

    def work(self, images: np.ndarray, labels: np.ndarray) -> Answer:
        """What its part adds to the step; an error is an answer, too.

        images: (N, C, H, W), the whole batch; labels: (N,).
        """
        n, part, loss, correct = len(labels), self.part(len(labels)), 0.0, 0
        gradient = parameters_to_vector(p.value for p in self.parameters)
        gradient[:] = 0
        try:
            for x, y in microbatches(images[part], labels[part], self.size):
                more, right = partial_step(self.network, x, y, n)
                loss, correct = loss + more, correct + right
                grads = (p.grad for p in self.parameters)
                gradient += parameters_to_vector(grads)
        except Exception as error:
            return error
        return loss, correct, gradient

    def serve(self, pipe: Any, block: SharedMemory, layout: np.dtype) -> None:
        """Work when a pipe says so, on what a block has, in its layout."""
        keep_freed_memory()
        shared = processes.arrays_in(block, layout)
        weights = vector_to_parameters(shared["weights"], self.parameters)
        for parameter, weight in weights:
            parameter.value = weight  # and sees what the caller writes there
        while True:
            n, values = processes.receive(pipe)
            for buffer, value in zip(self.buffers, values, strict=True):
                buffer.value = value
            answer: Any = self.work(shared["images"][:n], shared["labels"][:n])
            if not isinstance(answer, Exception):
                *answer, shared["gradients"][self.rank] = answer
            processes.send(pipe, answer)


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
        check_positive(workers=workers, microbatch_size=microbatch_size)
        self.network, self.parameters = network, network.parameters()
        self.arrays = list(network.named_arrays().values())
        self.workers, self.microbatch_size = workers, microbatch_size
        self.kind: Any = None
        self.shared: dict[str, np.ndarray] = {}
        self.running = ExitStack()
        self.close = weakref.finalize(self, self.running.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Start workers for images (N, C, H, W), labels (N,) of a new kind."""
        modes = [layer.training for layer in self.network.modules()]
        kind = modes, images.shape[1:], images.dtype, labels.dtype
        if kind == self.kind and len(labels) <= len(self.shared["labels"]):
            return
        self.running.close()
        self.kind, workers = kind, self.workers
        weights = parameters_to_vector(p.value for p in self.parameters)
        fields = [
            ("weights", weights.dtype, weights.shape),
            ("gradients", weights.dtype, (workers, len(weights))),
            ("images", images.dtype, images.shape),
            ("labels", labels.dtype, labels.shape),
        ]
        layout = np.dtype(fields, align=True)
        self.block, self.shared = processes.shared_arrays(layout, self.running)
        network = fuse_layers(self.network)
        for layer in network.modules():
            layer._saved = None  # what forward has kept need not travel
        self.worker, *self.others = (
            Worker(rank, workers, network, self.microbatch_size)
            for rank in range(workers)
        )
        place = self.block, layout
        started = [
            processes.start_process(w.serve, place, self.running)
            for w in self.others
        ]
        self.processes = [process for process, _ in started]
        self.pipes = [pipe for _, pipe in started]

    def submit(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Set the others to work on images (N, C, H, W), labels (N,)."""
        for own, array in zip(self.worker.arrays, self.arrays, strict=True):
            own.value = array.value
        values = (p.value for p in self.parameters)
        self.shared["weights"][:] = parameters_to_vector(values)
        order = len(labels), [b.value for b in self.worker.buffers]
        for other, pipe in zip(self.others, self.pipes, strict=True):
            part = other.part(len(labels))  # each begins when it has its own
            self.shared["images"][part] = images[part]
            self.shared["labels"][part] = labels[part]
            pipe.send(order)

    def gather(self, answer: Answer) -> tuple[float, int, np.ndarray]:
        """The sum of an answer, its gradient of shape (V,), and all others."""
        answers = [answer, *map(processes.receive, self.pipes)]
        for found in answers:
            if isinstance(found, Exception):
                raise found
        loss, correct, gradient = answers[0]
        for other, (more, right) in zip(self.others, answers[1:], strict=True):
            loss, correct = loss + more, correct + right
            gradient += self.shared["gradients"][other.rank]
        return loss, correct, gradient

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
        ValueError, before anything is updated, if the loss is not finite, for
        another network, and after close(). RuntimeError if a worker has died.
        """
        if network is not self.network or not self.close.alive:
            raise ValueError(
                "ParallelStep was given another network than its own, or "
                "was closed; expected the network that it was made for. "
                "Make a ParallelStep for each network."
            )
        if optimizer.network is not network:
            optimizer.check_network(network)
        labels = as_numbers("ParallelStep", "labels", labels)
        (images,) = check_arrays("ParallelStep", "images (N, ...)", images)
        heads = images.shape[:1], labels.shape[:1]
        check_shapes("ParallelStep", "images (N,), labels (N,)", *heads)
        try:
            self.start(images, labels)
            self.submit(images, labels)
            with blas().limit(limits=1):
                answer = self.worker.work(images, labels)
            loss, correct, gradient = self.gather(answer)
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
