# Written by book/beyond/parallel.md. To keep edits: tangle.py --back.
"""A training step whose batch several worker processes share."""

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

from cnn.beyond.fast import keep_freed_memory, quicker
from cnn.layer import Layer, Parameter
from cnn.optimizer import SGD
from cnn.training import check_finite, check_positive, partial_step


# A block of a batch: images (B, C, H, W) and labels (B,).
Block = tuple[np.ndarray, np.ndarray]


def microbatches(
    images: np.ndarray,
    labels: np.ndarray,
    worker: int,
    workers: int,
    microbatch_size: int,
) -> list[Block]:
    """One worker's part of a batch, in blocks of nearly equal size.

    All workers have as many blocks, unless the batch has fewer images.
    """
    n = len(labels)
    rounds = math.ceil(n / (workers * microbatch_size))
    count = min(workers * rounds, n)
    ends = [n * i // count for i in range(count + 1)]
    parts = list(pairwise(ends))
    mine = parts[worker * rounds : (worker + 1) * rounds]
    return [(images[a:b], labels[a:b]) for a, b in mine]


def parameters_to_vector(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The numbers of all the arrays in one vector."""
    return np.concatenate([array.ravel() for array in arrays])


def vector_to_parameters(
    vector: np.ndarray, parameters: Sequence[Parameter]
) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Each parameter with its part of a vector, in its shape."""
    start = 0
    for parameter in parameters:
        end = start + parameter.value.size
        yield parameter, vector[start:end].reshape(parameter.value.shape)
        start = end


def worker_step(
    network: Layer,
    images: np.ndarray,
    labels: np.ndarray,
    worker: int = 0,
    workers: int = 1,
    microbatch_size: int = 48,
) -> tuple[float, int, np.ndarray]:
    """One worker's part of a step: what it adds to loss, correct, gradient.

    images: (N, C, H, W), the whole batch; labels: (N,).
    The gradients of all parameters come as one vector.
    """
    parameters = network.parameters()
    total = np.zeros_like(parameters_to_vector(p.value for p in parameters))
    loss, correct = 0.0, 0
    for x, y in microbatches(images, labels, worker, workers, microbatch_size):
        more_loss, more_correct = partial_step(network, x, y, len(labels))
        loss, correct = loss + more_loss, correct + more_correct
        total += parameters_to_vector(p.grad for p in parameters)
    return loss, correct, total


# Arrays by name, in memory that several processes see.
Shared = dict[str, np.ndarray]


def shared_arrays(path: str, layout: np.dtype) -> Shared:
    """The arrays of a layout, in a file that several processes map."""
    memory = np.memmap(path, layout, "r+", shape=(1,))
    return {name: np.asarray(memory[name][0]) for name in layout.names or ()}


def wait_for(counts: np.ndarray, index: int, number: int) -> None:
    """Look again and again, for 2 ms, whether counts[index] is number.

    Whoever looks is there at once; whoever sleeps must be woken first. In
    between another process may have the core, if it waits for it.
    """
    end = time.perf_counter() + 0.002
    while counts[index] != number and time.perf_counter() < end:
        os.sched_yield()


def send(stream: IO[bytes], message: Any) -> None:
    """Send an object to another process."""
    pickle.dump(message, stream)
    stream.flush()


def serve() -> None:
    """What a worker process runs: its share of each step, till input ends.

    An order is the size of a batch, or where the shared arrays lie. The
    answer is the loss and the correct, or the error that there was.
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
            for parameter, value in vector_to_parameters(
                shared["weights"], parameters
            ):
                parameter.value = value
            continue
        steps += 1
        images, labels = shared["images"][:order], shared["labels"][:order]
        try:
            loss, correct, grad = worker_step(network, images, labels, *place)
            shared["grads"][worker] = grad
            send(answers, (loss, correct))
        except Exception as error:
            send(answers, error)
        shared["done"][worker] = steps
        wait_for(shared["started"], 0, steps + 1)


def start_worker() -> Any:
    """A new Python process that serves; it needs no file to be imported."""
    code = f"import sys; sys.path[:] = {sys.path!r}; "
    code += "from cnn.beyond.parallel import serve; serve()"
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
    workers and microbatch_size give the same bits. The caller is one of
    them; the others are processes, and run until close() or the end of a
    with.
    microbatch_size: images at a time, so few that what a layer reads and
    writes stays in the processor's cache.
    ValueError if workers or microbatch_size is below 1.
    """

    def __init__(
        self, network: Layer, *, workers: int, microbatch_size: int = 48
    ) -> None:
        from threadpoolctl import ThreadpoolController

        check_positive(workers=workers, microbatch_size=microbatch_size)
        self.network, self.replica = network, quicker(network)
        self.plan = workers, microbatch_size
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

    def make_room(
        self, weights: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> None:
        """Share arrays that hold such a batch, where there are none yet."""
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
        weights = parameters_to_vector(
            p.value for p in self.network.parameters()
        )
        self.make_room(weights, images, labels)
        shared, n = self.shared, len(labels)
        shared["weights"][:] = weights
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
        """Forward, loss, backward, update; returns the loss and the correct.

        images: (N, C, H, W); labels: (N,), of 0..K-1.
        ValueError, before anything is updated, if the loss is not finite,
        for another network than the workers have, and after close(), which
        Ctrl-C does, too.
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
        parameters = network.parameters()
        pairs = zip(self.replica.parameters(), parameters, strict=True)
        for own, parameter in pairs:
            own.value = parameter.value
        try:
            if self.others:
                self.ask(images, labels)
            try:
                with self.blas.limit(limits=1, user_api="blas"):
                    share = worker_step(
                        self.replica, images, labels, 0, *self.plan
                    )
            finally:  # an error here must not leave answers unread
                found = self.answers()
        except KeyboardInterrupt:
            self.close()  # an answer may have been read by half
            raise
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise RuntimeError(
                "a worker process of ParallelStep has died; expected it to "
                "live until close(). What it printed last says why."
            ) from error
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        losses, correct, grads = zip(share, *found, strict=True)
        loss = sum(losses)
        check_finite(loss, optimizer.lr)
        total = sum(grads[1:], start=grads[0])
        for parameter, grad in vector_to_parameters(total, parameters):
            parameter.grad = grad
        optimizer.step()
        return loss, sum(correct)
