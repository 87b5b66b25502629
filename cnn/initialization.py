# Written by book/layers/initialization.md. To keep edits: tangle.py --back.
"""How large the first weights must be, so that signals stay alive."""

from collections.abc import Callable, Iterable

import numpy as np

from cnn.layer import Parameter


def xavier_std(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / (fan_in + fan_out)), for linear stacks."""
    return float(np.sqrt(2 / (fan_in + fan_out)))


def he_std(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / fan_in), for stacks with ReLU."""
    return float(np.sqrt(2 / fan_in))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (M, D) or (F, C, k, k).

    The numbers that feed one output, and the outputs one number feeds.
    ValueError for a shape with fewer than two axes, such as a bias has.
    """
    if len(shape) < 2:
        raise ValueError(
            f"fans was given the shape {shape}; expected (M, D) or "
            "(F, C, k, k). A bias has no fans: start it at zero."
        )
    places = int(np.prod(shape[2:]))  # k*k; 1 for a matrix
    return shape[1] * places, shape[0] * places


def initialize(
    parameters: Iterable[Parameter],
    std: Callable[[int, int], float],
    rng: np.random.Generator,
) -> None:
    """Draw each weight anew from N(0, std(fan_in, fan_out)^2); biases 0.

    A bias is a parameter with one axis. std: he_std, xavier_std or a rule
    of your own. Changes each parameter's value in place and keeps its dtype.
    """
    for parameter in parameters:
        value = parameter.value
        if value.ndim == 1:
            value[...] = 0
        else:
            scale = std(*fans(value.shape))
            value[...] = scale * rng.standard_normal(value.shape)
