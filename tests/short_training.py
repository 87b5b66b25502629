"""A training of a second: for test_training.py, and the children it kills."""

from typing import Any

import numpy as np
from toys import digits, seed_network

from cnn import SGD, Dataset, Layer, Sequential, train
from cnn.metrics import EpochMetrics


TRAINING, VALIDATION, TEST = digits()
FEW = TRAINING.subset(slice(150))
HELD_OUT = VALIDATION.subset(slice(60))


def start(
    seed: int = 0,
    lr: float = 0.05,
    filters: int = 4,
    weights: int | None = None,
) -> tuple[Sequential, SGD, np.random.Generator]:
    """A network, its optimizer, and the generator that drew the network.

    weights: another seed for the network, so that none of it is right.
    """
    rng = np.random.default_rng(seed)
    drawn = rng if weights is None else np.random.default_rng(weights)
    network = seed_network(drawn, filters, np.float32)
    return network, SGD(network.parameters(), lr, 0.9, 1e-4), rng


def run(
    seed: int = 0,
    *,
    lr: float = 0.05,
    weights: int | None = None,
    data: Dataset = FEW,
    held_out: Dataset = HELD_OUT,
    **options: Any,
) -> tuple[Sequential, SGD, list[EpochMetrics]]:
    """A short training: its network, optimizer and history."""
    network, optimizer, rng = start(seed, lr, weights=weights)
    options = {"epochs": 3, "batch_size": 32} | options
    history = train(network, optimizer, data, held_out, rng=rng, **options)
    return network, optimizer, history


def bits(network: Layer) -> dict[str, bytes]:
    """The parameters, bit by bit."""
    state = network.state_dict().items()
    return {name: array.tobytes() for name, array in state}
