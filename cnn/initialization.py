# Written by book/layers/initialization.md. To keep edits: tangle.py --back.
"""How large the first weights must be, so that signals stay alive."""

from collections.abc import Callable

import numpy as np

from cnn.data import check_generator, check_positive
from cnn.layer import Layer


def xavier_std(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / (fan_in + fan_out)), for linear stacks.

    Equation: eq-initialization-xavier.
    """
    check_positive(fan_in=fan_in, fan_out=fan_out)
    return float(np.sqrt(2 / (fan_in + fan_out)))


def he_std(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / fan_in) for ReLU, whatever fan_out.

    Equation: eq-initialization-he.
    """
    check_positive(fan_in=fan_in, fan_out=fan_out)
    return float(np.sqrt(2 / fan_in))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (M, D) or (F, C, k, k).

    The numbers that feed one output, and the outputs one number feeds.
    ValueError for a shape with fewer than two axes, such as a bias has.
    Equation: eq-initialization-fans.
    """
    if len(shape) < 2:
        raise ValueError(
            f"fans was given the shape {shape}; expected (M, D) or "
            "(F, C, k, k). A bias has no fans: start it at zero."
        )
    places = int(np.prod(shape[2:]))  # k*k; 1 for a matrix
    return shape[1] * places, shape[0] * places


def initialize(
    network: Layer, std: Callable[[int, int], float], rng: np.random.Generator
) -> None:
    """Draw each weight anew from N(0, std(fan_in, fan_out)^2); biases 0.

    network: any layer, changed in place; dtypes stay, and so do parameters
        with one axis that are not called "bias".
    std: he_std, xavier_std or a rule of your own. rng: rolls the dice.
    """
    check_generator(rng)
    for name, parameter in network.named_parameters().items():
        value = parameter.value
        if name.split(".")[-1] == "bias":
            value[...] = 0
        elif value.ndim > 1:
            scale = std(*fans(value.shape))
            value[...] = scale * rng.standard_normal(value.shape)
