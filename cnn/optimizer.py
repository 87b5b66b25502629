# Written by book/layers/optimizer.md. To keep edits: tangle.py --back.
"""Stochastic gradient descent, with momentum and weight decay."""

import math

import numpy as np

from cnn.layer import Parameter


class SGD:
    """v <- momentum * v + (grad + weight_decay * w);  w <- w - lr * v.

    Each parameter has its own velocity v, which starts at zero. lr may be
    changed between steps, as a schedule does.
    ValueError unless lr >= 0, 0 <= momentum < 1 and weight_decay >= 0.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        # "not lr >= 0" rather than "lr < 0": it refuses nan as well.
        if not lr >= 0 or not 0 <= momentum < 1 or not weight_decay >= 0:
            raise ValueError(
                f"lr is {lr}, momentum {momentum}, weight_decay "
                f"{weight_decay}; expected lr >= 0, 0 <= momentum < 1 and "
                "weight_decay >= 0. Begin with lr=0.1, momentum=0 and "
                "weight_decay=0, and change one at a time."
            )
        self.parameters = parameters
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.velocities = [np.zeros_like(p.value) for p in parameters]

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        for parameter, velocity in zip(
            self.parameters, self.velocities, strict=True
        ):
            velocity *= self.momentum
            velocity += parameter.grad
            if self.weight_decay > 0:
                velocity += self.weight_decay * parameter.value
            parameter.value -= self.lr * velocity


def cosine_schedule(lr: float, progress: float) -> float:
    """lr that falls from lr to 0 as progress goes from 0 to 1.

    lr/2 * (1 + cos(pi * progress)): slowly, then fast, then slowly.
    ValueError unless progress is in 0..1.
    """
    if not 0 <= progress <= 1:
        raise ValueError(
            f"progress is {progress}; expected 0..1, the share of all steps "
            "that is done. Divide the step by the number of steps."
        )
    return lr / 2 * (1 + math.cos(math.pi * progress))
