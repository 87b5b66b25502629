# Written by book/layers/optimizer.md. To keep edits: tangle.py --back.
"""Stochastic gradient descent, with momentum and weight decay."""

from collections.abc import Iterable

import numpy as np

from cnn.data import check_numbers
from cnn.layer import Layer, Parameter


class SGD:
    """v <- momentum * v + (grad + weight_decay * w);  w <- w - lr * v.

    parameters: what to move, at least one, each once, else ValueError; each
        has its own v, which starts at zero.
    lr: at least 0. It may be changed between steps, as a schedule does.
    momentum, weight_decay: at least 0, momentum below 1; else ValueError.
    Equation: eq-optimizer-sgd.
    """

    network: Layer | None = None  # the last one that it was checked with

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        check_numbers(lr=lr, momentum=momentum, weight_decay=weight_decay)
        # "not 0 <= lr" rather than "lr < 0": it refuses nan as well.
        finite = 0 <= lr < np.inf and 0 <= weight_decay < np.inf
        if not finite or not 0 <= momentum < 1:
            raise ValueError(
                f"lr is {lr}, momentum {momentum}, weight_decay "
                f"{weight_decay}; expected finite lr >= 0, 0 <= momentum < 1 "
                "and weight_decay >= 0. Begin with lr=0.1, momentum=0 and "
                "weight_decay=0, and change one at a time."
            )
        given = [*parameters] if isinstance(parameters, Iterable) else []
        all_fit = all(isinstance(p, Parameter) for p in given)
        if not given or not all_fit or len(set(given)) < len(given):
            raise ValueError(
                f"parameters is a {type(parameters).__name__} of {len(given)}"
                "; expected a list of Parameters, at least one, each once. "
                "Give network.parameters(), or some of these."
            )
        self.parameters, self.lr = given, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities = [np.zeros_like(p.value) for p in given]

    def check_network(self, network: Layer) -> None:
        """ValueError unless all that this moves are network's parameters."""
        strange = len(set(self.parameters) - set(network.parameters()))
        if strange:
            raise ValueError(
                f"the optimizer moves {len(self.parameters)} parameters, and "
                f"{strange} of them are not this network's; expected its own, "
                "all or some. Make the optimizer anew, after the network: "
                f"{type(self).__name__}(network.parameters(), lr)."
            )
        self.network = network

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        for p, v in zip(self.parameters, self.velocities, strict=True):
            v *= self.momentum
            v += p.grad
            if self.weight_decay > 0:
                v += self.weight_decay * p.value
            p.value -= self.lr * v


def cosine_schedule(lr: float, progress: float) -> float:
    """lr/2 * (1 + cos(pi * progress)): slowly, then fast, then slowly.

    lr: where it starts; it ends at 0.
    progress: the share of all steps that is done, 0..1, else ValueError.
    Equation: eq-optimizer-cosine.
    """
    check_numbers(lr=lr, progress=progress)
    if not 0 <= progress <= 1:
        raise ValueError(
            f"progress is {progress}; expected 0..1, the share of all steps "
            "that is done. Divide the step by the number of steps."
        )
    return lr / 2 * float(1 + np.cos(np.pi * progress))
