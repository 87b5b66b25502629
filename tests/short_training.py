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
    seed: int = 0, lr: float = 0.05, filters: int = 4
) -> tuple[Sequential, SGD, np.random.Generator]:
    """A network, its optimizer, and the generator that drew the network."""
    rng = np.random.default_rng(seed)
    network = seed_network(rng, filters, np.float32)
    return network, SGD(network.parameters(), lr, 0.9, 1e-4), rng


def run(
    seed: int = 0,
    *,
    lr: float = 0.05,
    data: Dataset = FEW,
    held_out: Dataset = HELD_OUT,
    **options: Any,
) -> tuple[Sequential, SGD, list[EpochMetrics]]:
    """A short training: its network, optimizer and history."""
    network, optimizer, rng = start(seed, lr)
    options = {"epochs": 3, "batch_size": 32} | options
    history = train(network, optimizer, data, held_out, rng=rng, **options)
    return network, optimizer, history


def bits(network: Layer) -> dict[str, bytes]:
    """The parameters, bit by bit."""
    state = network.state_dict().items()
    return {name: array.tobytes() for name, array in state}
