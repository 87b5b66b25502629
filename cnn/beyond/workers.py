# Written by book/beyond/workers.md. To keep edits: tangle.py --back.
"""The same training step on shards of the batch, by other processes."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.data import (
    as_numbers,
    check_arrays,
    check_positive,
    check_shapes,
)
from cnn.layer import Buffer, Layer
from cnn.optimizer import SGD
from cnn.training import check_finite, partial_step


if TYPE_CHECKING:
    from distributed import Client


def shard_step(
    network: Layer,
    values: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
) -> tuple[float, int, list[np.ndarray], list[np.ndarray]]:
    """partial_step, as a function of its arguments and of nothing else.

    network, values: its layers, and the arrays, of any shape, for them.
    images: (B_s, C, H, W); labels: (B_s,); they count B_s / batch_size.
    Returns loss, correct answers, gradients, and all arrays afterwards.
    """
    arrays = list(network.named_arrays().values())
    for array, value in zip(arrays, values, strict=True):
        # What was sent may be read-only; a layer may write into a buffer.
        array.value = value.copy() if isinstance(array, Buffer) else value
    loss, correct = partial_step(network, images, labels, batch_size)
    gradients = [p.grad for p in network.parameters()]
    buffers = [a.value for a in arrays if isinstance(a, Buffer)]
    return loss, correct, gradients, buffers


def blueprint(network: Layer) -> Layer:
    """A copy of a network without arrays, gradients and memories."""
    left_out: list[Any] = [layer._saved for layer in network.modules()]
    left_out += [array.value for array in network.named_arrays().values()]
    left_out += [parameter.grad for parameter in network.parameters()]
    # What deepcopy finds among its notes, by id, it does not copy.
    return copy.deepcopy(network, {id(x): None for x in left_out})


class DistributedStep:
    """A training step whose shards of the batch are computed by workers.

    Give it to cnn.train as step. It does what train_step does, to within
    rounding, and the same number of shards gives the same bits, however
    many workers there are and whichever of them die on the way.
    client: of dask.distributed, as open_workers gives it.
    shards: parts of a batch. Buffers become those of the first.
    ValueError if shards is below 1.
    Equation: eq-workers-shards.
    """

    def __init__(self, client: "Client", *, shards: int) -> None:
        check_positive(shards=shards)
        self.client = client
        self.shards = shards

    def __call__(
        self,
        network: Layer,
        optimizer: SGD,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[float, int]:
        """Forward, loss, backward, update; returns loss, correct answers.

        network, optimizer: are changed; the optimizer holds its parameters.
        images: (B, C, H, W); labels: (B,), of 0..K-1.
        ValueError, before anything is updated, for an empty batch, for
        images and labels that do not match, and if the loss is not finite.
        """
        if optimizer.network is not network:
            optimizer.check_network(network)
        labels = as_numbers("DistributedStep", "labels", labels)
        (images,) = check_arrays("DistributedStep", "images (N, ...)", images)
        heads = images.shape[:1], labels.shape[:1]
        check_shapes("DistributedStep", "images (N,), labels (N,)", *heads)
        count = min(self.shards, len(labels))
        arrays = network.named_arrays().values()
        futures = self.client.map(
            shard_step,
            [blueprint(network)] * count,
            [[array.value for array in arrays]] * count,
            np.array_split(images, count),
            np.array_split(labels, count),
            [len(labels)] * count,
            pure=False,  # no look-up by content: no task comes twice
        )
        found = self.client.gather(futures)
        losses, correct, grads, buffers = zip(*found, strict=True)
        loss = float(sum(losses))
        check_finite(loss, optimizer.lr)
        # In the order of the shards, whichever worker was first.
        for parameter, first, *others in zip(
            network.parameters(), *grads, strict=True
        ):
            parameter.grad = sum(others, start=first)
        mine = (array for array in arrays if isinstance(array, Buffer))
        for buffer, value in zip(mine, buffers[0], strict=True):
            buffer.value = value  # those of the first shard
        optimizer.step()
        return loss, sum(correct)


@contextmanager
def open_workers(
    count: int = 2, address: str | None = None
) -> Iterator["Client"]:
    """A client of count worker processes, one thread each, for a block.

    They run on this machine, are heard by no other, and end with the block.
    In a script, call it under ``if __name__ == "__main__":``, since each
    worker imports the script anew.
    address: of a cluster's scheduler, such as "tcp://10.0.0.5:8786", whose
        workers, which need cnn installed, are used instead. If None, dask
        looks into the variable DASK_SCHEDULER_ADDRESS.
    ValueError if count is below 1.
    """
    import logging

    import dask
    from distributed import Client, LocalCluster

    check_positive(workers=count)
    address = address or dask.config.get("scheduler-address", None)
    if address is not None:
        with Client(address) as client:
            yield client
        return
    # Keep freed memory: the next step needs as much.
    malloc = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
    with (
        dask.config.set({malloc: 2**30}),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            # No dashboard; health checks on any free port of this machine.
            scheduler_kwargs={
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
            },
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
