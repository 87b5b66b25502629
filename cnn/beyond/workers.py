# Written by book/beyond/workers.md. To keep edits: tangle.py --back.
"""The same training step on shards of the batch, by other processes."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from cnn.layer import Layer
from cnn.loss import CrossEntropyLoss
from cnn.optimizer import SGD
from cnn.training import check_finite, check_positive


if TYPE_CHECKING:
    from distributed import Client


def share_of_step(
    network: Layer,
    values: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
) -> tuple[float, int, list[np.ndarray]]:
    """What a shard adds to the loss, hits and gradients of its batch.

    values: what the parameters of network are to be.
    images: (B_s, C, H, W); labels: (B_s,). They count B_s / batch_size.
    """
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.value = value
    criterion = CrossEntropyLoss()
    share = len(labels) / batch_size
    logits = network.forward(images)
    loss = share * criterion.forward(logits, labels)
    network.backward_parameters(share * criterion.backward())
    hits = int((logits.argmax(axis=1) == labels).sum())
    return loss, hits, [p.grad for p in network.parameters()]


def layers_within(layer: Layer) -> Iterator[Layer]:
    """A layer, and those that it is made of."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from layers_within(inner)


def blueprint(network: Layer) -> Layer:
    """A copy of a network without weights, gradients and memories."""
    left_out = [layer._saved for layer in layers_within(network)]
    arrays = [a for p in network.parameters() for a in (p.value, p.grad)]
    # What deepcopy finds among its notes, by id, it does not copy.
    return copy.deepcopy(network, {id(x): None for x in left_out + arrays})


class DistributedStep:
    """A training step whose shards of the batch are computed by workers.

    Give it to cnn.train as step. It does what train_step does, to within
    rounding, and the same number of shards gives the same bits, however
    many workers there are and whichever of them die on the way.
    client: of dask.distributed, as open_workers gives it.
    ValueError if shards is below 1.
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
        """Forward, loss, backward, update; returns the loss and the hits.

        images: (B, C, H, W); labels: (B,), of 0..K-1. ValueError, before
        anything is updated, for an empty batch, for images and labels that
        do not match, and if the loss is not finite.
        """
        check_positive(images=len(images))
        if len(images) != len(labels):
            raise ValueError(
                f"there are {len(images)} images and {len(labels)} labels; "
                "expected one label per image. Index both alike."
            )
        count = min(self.shards, len(labels))
        futures = self.client.map(
            share_of_step,
            [blueprint(network)] * count,
            [[p.value for p in network.parameters()]] * count,
            np.array_split(images, count),
            np.array_split(labels, count),
            [len(labels)] * count,
            pure=False,  # no look-up by content: no task comes twice
        )
        losses, hits, grads = zip(*self.client.gather(futures), strict=True)
        loss = float(sum(losses))
        check_finite(loss, optimizer.lr)
        # In the order of the shards, whichever worker was first.
        for parameter, first, *others in zip(
            network.parameters(), *grads, strict=True
        ):
            parameter.grad = sum(others, start=first)
        optimizer.step()
        return loss, sum(hits)


@contextmanager
def open_workers(
    count: int = 2, address: str | None = None
) -> Iterator["Client"]:
    """A client of worker processes, one thread each, for a with block.

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
