# Written by book/layers/initialization.md. To keep edits: tangle.py --back.
"""How large the first weights must be, so that signals stay alive."""

from collections.abc import Callable, Iterable

import numpy as np

from cnn.layer import Parameter


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (M, D) or (F, C, k, k).

    The numbers that feed one output, and the outputs one number feeds.
    """
    places = int(np.prod(shape[2:]))
    return shape[1] * places, shape[0] * places


def xavier(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / (fan_in + fan_out)), for linear stacks."""
    return float(np.sqrt(2 / (fan_in + fan_out)))


def he(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / fan_in), for stacks with ReLU."""
    return float(np.sqrt(2 / fan_in))


def initialize(
    parameters: Iterable[Parameter],
    std: Callable[[int, int], float],
    rng: np.random.Generator,
) -> None:
    """Draw each weight anew from N(0, std(fan_in, fan_out)^2); biases 0.

    Changes each parameter's value in place.
    """
    for parameter in parameters:
        value = parameter.value
        if value.ndim == 1:
            value[...] = 0
        else:
            scale = std(*fans(value.shape))
            value[...] = scale * rng.standard_normal(value.shape)
